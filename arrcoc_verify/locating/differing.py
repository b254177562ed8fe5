"""The first site at which a relation breaks that ought to hold: the fault lies at it or before it.

Each gate that can fail is repeated with every site read, in the order in which they are computed.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.errors import ArrcocError, NonFinite
from arrcoc_verify.graph import Run, run
from arrcoc_verify.lab import Lab
from arrcoc_verify.model import Model, Site, patches_last
from arrcoc_verify.scenes.queries import pad
from arrcoc_verify.stats.description import position_r2
from arrcoc_verify.suite.gates import FLAT, PRIOR

FEW = 6
"""Scenes that are run with every site read."""
SAME = 1e-6
"""Difference, relative to the greatest value, that counts as none."""


def in_order(model: Model) -> list[Site]:
    """Return the sites in the order in which their steps are computed."""
    place = {step.name: at for at, step in enumerate(model.steps)}
    return sorted(model.sites.values(), key=lambda site: place[site.at.step])


def _read(lab: Lab, images: Sequence[Image.Image], queries: Sequence[str],
          batch_size: int | None = None) -> Run:  # fmt: skip
    return run(
        lab.model, list(images), list(queries), read=list(lab.model.sites), batch_size=batch_size
    )


def _off(one: Tensor, two: Tensor) -> float:
    size = float(one.double().abs().max())
    off = float((one.double() - two.double()).abs().max())
    return off / size if size > 0 else off


def _first(lab: Lab, differs: Callable[[Site], bool]) -> Site | None:
    for site in in_order(lab.model):
        try:
            if differs(site):
                return site
        except (ArrcocError, IndexError, RuntimeError):
            continue  # a site that cannot be read or compared tells nothing
    return None


def _limit(lab: Lab) -> float:
    return max(SAME, 10 * lab.model.declaration.tolerance)


def unrepeatable(lab: Lab) -> Site | None:
    """Return the first site that differs between equal calls, or when the order is turned."""
    few = lab.subset(range(min(FEW, len(lab))))
    images, queries = [s.image for s in few.scenes], [s.query for s in few.scenes]
    one, two = _read(lab, images, queries), _read(lab, images, queries)
    back = _read(lab, images[::-1], queries[::-1])
    return _first(
        lab,
        lambda site: (
            not torch.equal(one[site.name], two[site.name])
            or _off(one[site.name], back[site.name].flip(0)) > _limit(lab)
        ),
    )


def batch_bound(lab: Lab) -> Site | None:
    """Return the first site that differs when the neighbours in the batch do."""
    size = min(8, len(lab), lab.model.declaration.batch_size)
    few = lab.subset(range(size))
    images, queries = [s.image for s in few.scenes], [s.query for s in few.scenes]
    alone = _read(lab, images, queries, 1)
    together = _read(lab, images, queries, size)
    half = (size + 1) // 2
    plain = [Image.new("RGB", images[0].size)] * (size - half)
    mixed = _read(lab, [*images[:half], *plain], [*queries[:half], *queries[::-1][: size - half]])
    return _first(
        lab,
        lambda site: (
            _off(alone[site.name], together[site.name]) > _limit(lab)
            or _off(alone[site.name][:half], mixed[site.name][:half]) > _limit(lab)
        ),
    )


def padding_bound(lab: Lab) -> Site | None:
    """Return the first site that differs with white space around a query or long ones beside it."""
    few = lab.subset(range(min(FEW, len(lab))))
    images, queries = [s.image for s in few.scenes], [s.query for s in few.scenes]
    plain = _read(lab, images, queries)
    spaced = _read(lab, images, [f"  {query}  \n" for query in queries])
    beside = _read(lab, images * 2, queries + [pad(query, 60) for query in queries])
    count = len(few)
    return _first(
        lab,
        lambda site: (
            _off(plain[site.name], spaced[site.name]) > _limit(lab)
            or _off(plain[site.name], beside[site.name][:count]) > _limit(lab)
        ),
    )


def not_finite(lab: Lab) -> Site | None:
    """Return the site at or behind the first step that is not finite."""
    size = lab.model.declaration.image_size[::-1]
    noise = np.random.default_rng(lab.seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    odd = [*(Image.new("RGB", size, (g, g, g)) for g in (0, 255, 128)), Image.fromarray(noise)]
    for images, queries in (
        ([s.image for s in lab.scenes[:FEW]], [s.query for s in lab.scenes[:FEW]]),
        (odd, ["?", "qxz vbn", "describe everything", lab.scenes[0].query]),
    ):
        try:
            run(lab.model, images, queries)
        except NonFinite as error:
            found = re.search(r"step '([^']+)'", str(error))
            return _behind(lab.model, found.group(1)) if found else None
    return None


def _behind(model: Model, step: str) -> Site | None:
    reached = {step, *model.downstream(step)}
    return next((site for site in in_order(model) if site.at.step in reached), None)


def constant(lab: Lab) -> Site | None:
    """Return the first site with a role that is the same for all pictures, queries or patches."""
    few = lab.subset(range(min(FEW, len(lab))))
    images, queries = [s.image for s in few.scenes], [s.query for s in few.scenes]
    own, broad = _read(lab, images, queries), _read(lab, images, ["describe everything"] * len(few))

    def dead(site: Site) -> bool:
        if site.role is None:
            return False
        value, other = own[site.name].double(), broad[site.name].double()
        same = max(float((value - value[:1]).abs().max()), float((value - other).abs().max()))
        if not site.per_patch:
            return same == 0.0
        laid = patches_last(value, site, lab.grid)
        return same == 0.0 or float((laid - laid[:, :1]).abs().max()) <= SAME * float(
            laid.abs().max()
        )

    return _first(lab, dead)


def deaf_to_pictures(lab: Lab) -> Site | None:
    """Return the first site that pictures should reach and other pictures leave as it was."""
    few = lab.subset(range(min(FEW, len(lab))))
    images, queries = [s.image for s in few.scenes], [s.query for s in few.scenes]
    one, two = _read(lab, images, queries), _read(lab, images[1:] + images[:1], queries)
    return _unmoved(lab, one, two, "images")


def deaf_to_queries(lab: Lab) -> Site | None:
    """Return the first site that queries should reach and other queries leave as it was."""
    few = lab.subset(range(min(FEW, len(lab))))
    images = [s.image for s in few.scenes]
    one = _read(lab, images, [s.query for s in few.scenes])
    two = _read(lab, images, [s.other_query or "describe everything" for s in few.scenes])
    return _unmoved(lab, one, two, "queries")


def _unmoved(lab: Lab, one: Run, two: Run, root: str) -> Site | None:
    reached = set(lab.model.downstream(root))
    said = {"reported_weights", "reported_tensions"}
    return _first(
        lab,
        lambda site: (
            site.at.step in reached
            and site.role not in said
            and _off(one[site.name], two[site.name]) <= SAME
        ),
    )


def unseen_part(lab: Lab) -> Site | None:
    """Return the first site of patches that noise in some part of the picture leaves as it was."""
    rows, columns = lab.grid
    scene = lab.scenes[0]
    generator = np.random.default_rng(lab.seed)
    images, masks = [scene.image], []
    for down in np.array_split(np.arange(rows), min(3, rows)):
        for across in np.array_split(np.arange(columns), min(3, columns)):
            mask = np.zeros((rows, columns), dtype=bool)
            mask[down[0] : down[-1] + 1, across[0] : across[-1] + 1] = True
            height, width = scene.image.height // rows, scene.image.width // columns
            inside = np.kron(mask, np.ones((height, width), dtype=bool))
            pixels = scene.pixels.copy()
            pixels[: inside.shape[0], : inside.shape[1]][inside] = generator.integers(
                0, 256, (int(inside.sum()), 3)
            )
            images.append(Image.fromarray(pixels))
            masks.append(torch.as_tensor(mask.flatten()))
    result = _read(lab, images, [scene.query] * len(images))
    reached = set(lab.model.downstream("images"))

    def unseen(site: Site) -> bool:
        if not site.per_patch or site.at.step not in reached:
            return False
        value = patches_last(result[site.name], site, lab.grid).double()
        moved = (value[1:] - value[:1]).abs()
        moved = moved if moved.ndim == 2 else moved.amax(2)
        size = float(value.abs().max())
        return min(float(m[k].max()) for m, k in zip(moved, masks, strict=True)) <= SAME * size

    return _first(lab, unseen)


def uneven_on_blank(lab: Lab) -> Site | None:
    """Return the first site of patches that differ on a blank picture."""
    size = lab.model.declaration.image_size[::-1]
    shades = [Image.new("RGB", size, (g, g, g)) for g in (40, 128, 215)]
    blank = _read(lab, shades, [lab.scenes[i % len(lab)].query for i in range(3)])
    few = lab.scenes[:FEW]
    natural = _read(lab, [s.image for s in few], [s.query for s in few])

    def uneven(site: Site) -> bool:
        if not site.per_patch:
            return False
        value = patches_last(blank[site.name], site, lab.grid).double()
        usual = patches_last(natural[site.name], site, lab.grid).double()
        spread = float((value.amax(1) - value.amin(1)).max())
        whole = site.role == "tokens" and lab.model.declaration.integer
        return spread > (1.0 if whole else FLAT * float(usual.std(1, unbiased=False).max()))

    return _first(lab, uneven)


def bound_to_place(lab: Lab) -> Site | None:
    """Return the first map that place explains, over pictures moved and mirrored at random."""
    generator = np.random.default_rng(lab.seed)
    rows, columns = lab.grid
    images, queries = [], []
    for scene in lab.scenes:
        step = (
            int(generator.integers(rows)) * scene.image.height // rows,
            int(generator.integers(columns)) * scene.image.width // columns,
        )
        moved = np.roll(scene.pixels, step, (0, 1))
        moved = moved[::-1, ::-1] if generator.integers(2) else moved
        images.append(Image.fromarray(np.ascontiguousarray(moved)))
        queries.append(scene.query)
    result = run(lab.model, images, queries, read=lab.inner_sites)

    def placed(site: Site) -> bool:
        if not site.per_patch:
            return False
        value = patches_last(result[site.name], site, lab.grid).double()
        if value.ndim != 2:
            return False
        return position_r2(list(value.unflatten(1, lab.grid).numpy())) > PRIOR + 1 / len(images)

    return _first(lab, placed)


def written_back(reason: str, model: Model) -> Site | None:
    """Return the site that a failed identity patch names."""
    found = re.search(r"writing '([^']+)' back", reason)
    return model.sites.get(found.group(1)) if found else None


REPEATS: dict[str, Callable[[Lab], Site | None]] = {
    "runtime.finite": not_finite,
    "runtime.determinism": unrepeatable,
    "runtime.batch-invariance": batch_bound,
    "runtime.site-liveness": constant,
    "input.live": deaf_to_pictures,
    "input.every-part-live": unseen_part,
    "query.live": deaf_to_queries,
    "query.padding": padding_bound,
    "input.position-prior": bound_to_place,
    "input.blank-image": uneven_on_blank,
}
"""Gate -> the experiment that finds where it breaks."""


def first_of_gates(failed: Sequence[tuple[str, str]], lab: Lab) -> Iterator[tuple[str, Site]]:
    """Yield gate and first differing site for gates `(id, reason)` that failed.

    What is not finite comes alone: behind it nothing can be compared.
    """
    names = dict(failed)
    if "runtime.finite" in names:
        failed = [("runtime.finite", names["runtime.finite"])]
    for name, reason in failed:
        try:
            if name == "runtime.identity-patch":
                site = written_back(reason, lab.model) if len(failed) == 1 else None
            else:
                site = REPEATS[name](lab) if name in REPEATS else None
        except Exception:  # noqa: BLE001 - a model that crashes here names no site
            site = None
        if site is not None:
            yield name, site
