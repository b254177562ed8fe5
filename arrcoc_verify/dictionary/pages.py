"""What a latent is, measured: where it fires, what it does to tokens, and how it knows.

The way of knowing is read from contrast pairs that change one factor of the target: information
(propositional), salience (perspectival) and the query (participatory). A latent that answers to the
query and to the image is transjective. Answers are mean codes over the target, paired by scene;
they count where their interval over independent clusters excludes 0.
"""

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from arrcoc_verify.dictionary import naming
from arrcoc_verify.dictionary.naming import Name
from arrcoc_verify.dictionary.splice import Splice
from arrcoc_verify.dictionary.storage import Kept
from arrcoc_verify.graph import Run
from arrcoc_verify.lab import Lab, NotApplicable, by_cluster
from arrcoc_verify.metric import mean_over
from arrcoc_verify.stats.interval import mean_interval

WAYS = {"information": "propositional", "salience": "perspectival", "query": "participatory"}
LEVEL = 0.99
LEAST = 8
"""Independent photographs that an interval takes."""
NAMED = 8
"""Pictures whose strongest patch a latent is named by."""
CROP = 48
"""Side in pixels of a patch's picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A mean with its interval over independent clusters."""

    value: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Page:
    """One latent.

    Attributes:
        latent: its number.
        density: share of patches on which it fires.
        strength: mean code where it fires.
        tokens: what its ablation takes from the patches on which it fires, multiplier held.
        answers: factor -> change of its code over the target, in its strength.
        way: `propositional`, `perspectival`, `participatory`, `transjective` or `unclear`.
        top: (index and name of the scene, query, patch, code, picture as a data URI), strongest
            first.
        name: what the pictures' strongest patches show, None if nothing that random ones do not.
    """

    latent: int
    density: float
    strength: float
    tokens: Answer | None
    answers: dict[str, Answer]
    way: str
    top: tuple[dict[str, Any], ...]
    name: Name | None = None


def codes_of(run: Run, kept: Kept) -> Tensor:
    """Return the codes of a run's patches, `[image, patch, latent]`."""
    query = kept.about.get("query_site")
    found = Splice(run, kept.site, kept.dictionary, query_site=query).codes
    return found.reshape(len(found), -1, found.shape[-1])


def feature_pages(
    lab: Lab,
    kept: Kept,
    count: int = 12,
    top: int = 6,
    latents: Sequence[int] | None = None,
) -> list[Page]:
    """Return the pages of some latents, or of those that carry most, by the sum of their codes.

    Args:
        lab: scenes to look at.
        kept: dictionary of one of the model's sites.
        count: how many latents that carry most.
        top: pictures of each.
        latents: these instead.

    Raises:
        NotApplicable: too few independent photographs.
    """
    if len(set(lab.clusters())) < LEAST:
        raise NotApplicable(f"what latents answer to takes {LEAST} independent photographs or more")
    codes = codes_of(lab.clean, kept)
    chosen = heaviest(codes, count) if latents is None else list(latents)
    answers = _answers(lab, kept, codes, chosen)
    splice = Splice(lab.clean, kept.site, kept.dictionary, query_site=kept.about.get("query_site"))
    near = naming.nearness([scene.image for scene in lab.scenes])
    made = [_page(lab, codes, latent, answers, splice, top) for latent in chosen]
    return [replace(page, name=_name(lab, near, codes[..., page.latent])) for page in made]


def _name(lab: Lab, near: Tensor, own: Tensor) -> Name | None:
    """Return the name of the strongest patch of each of the pictures that carry most."""
    best = own.max(1)
    count = min(NAMED, len(own))
    chosen = best.values.topk(count).indices
    fires = torch.zeros_like(own)
    fires[chosen, best.indices[chosen]] = best.values[chosen].clamp(min=0)
    return naming.name_of(near, naming.on_grid(lab, fires))


def heaviest(codes: Tensor, count: int) -> list[int]:
    """Return the latents whose codes sum to most, `codes` being `[image, patch, latent]`."""
    found: list[int] = codes.sum((0, 1)).topk(min(count, codes.shape[-1])).indices.tolist()
    return found


def _page(
    lab: Lab,
    codes: Tensor,
    latent: int,
    answers: dict[str, dict[int, Answer]],
    splice: Splice,
    top: int,
) -> Page:
    own = codes[..., latent]
    fires = own > 0
    found = {factor: each[latent] for factor, each in answers.items()}
    return Page(
        latent=latent, density=float(fires.float().mean()),
        strength=float(own[fires].mean()) if bool(fires.any()) else 0.0,
        tokens=_tokens(lab, splice, latent, fires), answers=found, way=way_of(found),
        top=tuple(_top(lab, own, top)),
    )  # fmt: skip


def way_of(answers: dict[str, Answer]) -> str:
    """Return how a latent knows, by what it surely answers to."""
    sure = {factor for factor, one in answers.items() if one.sure}
    image = sure & {"information", "salience"}
    if "query" in sure and image:
        return "transjective"
    if "query" in sure:
        return WAYS["query"]
    if not image:
        return "unclear"
    return WAYS[max(image, key=lambda factor: abs(answers[factor].value))]


def _answers(
    lab: Lab, kept: Kept, clean: Tensor, chosen: Sequence[int]
) -> dict[str, dict[int, Answer]]:
    def over(codes: Tensor) -> Tensor:
        return torch.stack([mean_over(codes[..., latent], lab.target) for latent in chosen], 1)

    pairs: dict[str, Tensor] = {}
    for factor in ("information", "salience"):
        high, low = (codes_of(lab.edited(factor, dose), kept) for dose in (1.0, 0.0))
        pairs[factor] = over(high) - over(low)
    with suppress(NotApplicable):
        pairs["query"] = over(clean) - over(codes_of(lab.asked("other"), kept))
    strength = clean.sum((0, 1)) / (clean > 0).sum((0, 1)).clamp(min=1)
    found: dict[str, dict[int, Answer]] = {}
    for factor, change in pairs.items():
        each = change / strength[list(chosen)].clamp(min=1e-12)
        found[factor] = {latent: _answer(lab, each[:, at]) for at, latent in enumerate(chosen)}
    return found


def _answer(lab: Lab, values: Tensor) -> Answer:
    grouped = by_cluster(values, lab.clusters())
    if float(abs(grouped).max()) < 1e-9:
        return Answer(value=0.0, low=0.0, high=0.0)
    found = mean_interval(grouped, level=LEVEL)
    return Answer(value=found.value, low=found.low, high=found.high)


def _tokens(lab: Lab, splice: Splice, latent: int, fires: Tensor) -> Answer | None:
    """Return the mean change of tokens on the patches that fire, None where too few do."""
    some = fires.any(1)
    names = {name for name, met in zip(lab.clusters(), some.tolist(), strict=True) if met}
    if len(names) < 3:
        return None
    after = lab.resumed([splice.ablate([latent])], "local")
    region = torch.where(some[:, None], fires, torch.ones_like(fires))
    moved = (lab.tokens(after, region) - lab.tokens(lab.clean, region)) * some
    return _answer(lab, moved)


def _top(lab: Lab, own: Tensor, count: int) -> list[dict[str, Any]]:
    best = own.max(1)
    order = best.values.argsort(descending=True)[:count].tolist()
    rows = []
    for index in order:
        if float(best.values[index]) <= 0:
            break
        patch = int(best.indices[index])
        scene = lab.scenes[index]
        rows.append({
            "index": index, "scene": scene.name, "query": scene.query, "patch": patch,
            "code": float(best.values[index]), "picture": data_uri(crop(lab, index, patch)),
        })  # fmt: skip
    return rows


def crop(lab: Lab, index: int, patch: int) -> Image:
    """Return a patch of a scene with its neighbours, `CROP` pixels a side."""
    image = lab.scenes[index].image
    x, y, width, height = lab.model.patch_boxes((image.height, image.width))[patch]
    box = (x - width, y - height, x + 2 * width, y + 2 * height)
    return image.crop(box).resize((CROP, CROP))


def data_uri(image: Image) -> str:
    """Return a picture as a data URI."""
    held = io.BytesIO()
    image.save(held, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(held.getvalue()).decode()


def plain(page: Page) -> dict[str, Any]:
    """Return a page as JSON data, without its pictures."""
    found = asdict(page)
    found["top"] = [{k: v for k, v in one.items() if k != "picture"} for one in page.top]
    return found
