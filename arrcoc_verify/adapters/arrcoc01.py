"""The published ARR-COC 0.1 components, from a folder that the user names.

Imported are the user's own files: whichever of them define the six names in `PARTS`. Their
package's `__init__`, which pulls in a language model, runs only where that works. The graph is the
published one: a 13-channel texture, three scorers (two of them plain functions), a balancer whose
weights come out of `weight_predictor`, and a top-K allocator that gives every kept patch a budget
of one. What the published model has not is declared in `LACKS`.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from arrcoc_verify.adapters.budget import membership
from arrcoc_verify.adapters.locate import told
from arrcoc_verify.adapters.modules import digest_of
from arrcoc_verify.adapters.pixels import Pixels
from arrcoc_verify.adapters.weights import fill
from arrcoc_verify.errors import BadModel
from arrcoc_verify.model import (
    Declaration,
    FunctionResult,
    Model,
    ModuleOutput,
    Output,
    Site,
    Step,
)

PARTS = (
    "generate_texture_array",
    "information_score",
    "perspectival_score",
    "ParticipatoryScorer",
    "AdaptiveTensionBalancer",
    "TokenAllocator",
)
"""Functions and classes that are looked for in the folder's files."""

LACKS = (
    "level of detail: every kept patch has the same budget, so only membership can be caused",
    "batch invariance: scores are scaled by the minimum and maximum of the whole batch, so images "
    "go through one by one",
    "tensions: get_tension_values() reports constants; the weights come from weight_predictor",
    "a language model: a query is embedded as the mean of fixed random vectors of its words",
)
"""What the published 0.1 has not, in plain words."""

GRID, SIZE, CHANNELS = 32, 512, 13
_MAP = ("image", "row", "column")
_HIDDEN = ("image", "channel", "row", "column")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes that the published wrapper takes from its language model.

    Attributes:
        query_dim: dimension of the query embedding.
        hidden_dim: width of the balancer.
        keep: patches kept of 1,024.
        seed: of the parts' initial weights, where no weights are named.
        weights: safetensors with `scorer.*` and `balancer.*`, or None.
    """

    query_dim: int = 1536
    hidden_dim: int = 128
    keep: int = 200
    seed: int = 0
    weights: Path | None = None


def published(folder: Path, settings: Settings | None = None) -> Model:
    """Return the model under test made of the components in `folder`.

    Raises:
        BadModel: the folder lacks a part, or a part does not have the published interface.
    """
    chosen = settings or Settings()
    parts = find(folder)
    scorer, balancer, allocator = _built(parts, chosen)
    homes = {name: sys.modules[parts[name].__module__] for name in PARTS[:3]}
    steps = _steps(homes, scorer, balancer, allocator, chosen)
    lacks = LACKS if chosen.weights else (*LACKS, "training: weights are seeded at random")
    return Model(
        name="arr-coc 0.1",
        steps=steps,
        sites={site.name: site for site in _sites(parts, scorer, balancer)},
        declaration=Declaration(
            grid=(GRID, GRID),
            image_size=(SIZE, SIZE),
            budget_kind="keep_mask",
            lod=None,
            conserved_total=True,
            total=float(chosen.keep),
            batch_invariant=False,
            batch_size=1,
            spatial_prior=True,
            lacks=lacks,
        ),
        modules=(scorer, balancer, allocator),
        adapter="arrcoc01",
        digest=digest_of((scorer, balancer, allocator), [parts[name] for name in PARTS]),
    )


def find(folder: Path) -> dict[str, Any]:
    """Return the six published parts of a folder, by name.

    Raises:
        BadModel: no file defines one of them, or its file cannot be imported.
    """
    if not folder.is_dir():
        raise BadModel(f"there is no folder {folder}; wanted the package folder of ARR-COC 0.1")
    homes: dict[str, str] = {}
    for file in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise told(f"{file} cannot be read", error) from error
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in PARTS:
                homes.setdefault(node.name, file.stem)
    missing = [name for name in PARTS if name not in homes]
    if missing:
        raise BadModel(
            f"no file of {folder} defines {', '.join(missing)}; wanted the folder that holds "
            "texture.py, knowing.py, balancing.py and attending.py of ARR-COC 0.1"
        )
    modules = _import(folder.resolve(), sorted(set(homes.values())))
    return {name: getattr(modules[home], name) for name, home in homes.items()}


def _import(folder: Path, names: Sequence[str]) -> dict[str, ModuleType]:
    """Import files of a package, with its own `__init__` where that works and without it else."""
    package = _package_name(folder)
    try:
        return _imported(package, folder, names, run_init=True)
    except (Exception, SystemExit):  # noqa: BLE001 - their integration module may want anything
        _forget(package)
    try:
        return _imported(package, folder, names, run_init=False)
    except (Exception, SystemExit) as error:
        _forget(package)
        raise told(f"the parts in {folder} cannot be imported", error) from error


def _imported(
    package: str, folder: Path, names: Sequence[str], *, run_init: bool
) -> dict[str, ModuleType]:
    _open_package(package, folder, run_init=run_init)
    return {name: importlib.import_module(f"{package}.{name}") for name in names}


def _forget(package: str) -> None:
    for key in list(sys.modules):
        if key == package or key.startswith(package + "."):
            del sys.modules[key]


def _package_name(folder: Path) -> str:
    """Return the folder's own name, or one that is free where another package has that name."""
    held = sys.modules.get(folder.name)
    if folder in [Path(path).resolve() for path in getattr(held, "__path__", [])]:
        return folder.name
    named = folder.name.isidentifier() and held is None
    if named and importlib.util.find_spec(folder.name) is None:
        return folder.name
    return f"_arrcoc01_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def _open_package(package: str, folder: Path, *, run_init: bool) -> None:
    if package in sys.modules:
        return
    init = folder / "__init__.py"
    module = ModuleType(package)
    module.__path__ = [str(folder)]
    if run_init and init.is_file():
        spec = importlib.util.spec_from_file_location(
            package, init, submodule_search_locations=[str(folder)]
        )
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            sys.modules[package] = module
            spec.loader.exec_module(module)
            return
    sys.modules[package] = module


def _built(parts: Mapping[str, Any], chosen: Settings) -> tuple[nn.Module, nn.Module, nn.Module]:
    sizes = {
        "texture": CHANNELS,
        "channel": CHANNELS,
        "query": chosen.query_dim,
        "hidden": chosen.hidden_dim,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        scorer = _make(parts["ParticipatoryScorer"], sizes)
        balancer = _make(parts["AdaptiveTensionBalancer"], sizes)
        allocator = _make(
            parts["TokenAllocator"], dict.fromkeys(("token", "k", "num"), chosen.keep)
        )
    if not hasattr(balancer, "weight_predictor"):
        raise BadModel("AdaptiveTensionBalancer has no `weight_predictor`: its weights are unknown")
    if chosen.weights is not None:
        fill(nn.ModuleDict({"scorer": scorer, "balancer": balancer}), chosen.weights)
    return scorer.eval(), balancer.eval(), allocator.eval()


def _make(kind: Callable[..., Any], sizes: Mapping[str, int]) -> nn.Module:
    given = {}
    for word in inspect.signature(kind).parameters:
        fits = [size for start, size in sizes.items() if word.lower().startswith(start)]
        if fits:
            given[word] = fits[0]
    try:
        made = kind(**given)
    except Exception as error:
        raise told(f"{getattr(kind, '__name__', kind)} could not be made", error) from error
    if not isinstance(made, nn.Module):
        raise BadModel(f"{getattr(kind, '__name__', kind)} is not a torch module")
    return made


def embed(queries: Sequence[str], dimension: int) -> Float[Tensor, "image channel"]:
    """Return the mean of fixed random vectors, one for each word of a query, unit variance each.

    A word's vector is drawn from a generator seeded by the word's sha256, so it is the same on
    every machine and in every run.
    """
    return torch.stack([_words(query, dimension).mean(0) for query in queries])


def _words(query: str, dimension: int) -> Tensor:
    rows = []
    for word in query.lower().split():
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.randn(dimension, generator=generator))
    return torch.stack(rows)


def _steps(
    homes: Mapping[str, ModuleType],
    scorer: nn.Module,
    balancer: Any,
    allocator: nn.Module,
    chosen: Settings,
) -> tuple[Step, ...]:
    def called(name: str, *rest: object) -> Callable[[Tensor], Any]:
        # Looked up at each call: a site replaces the function in its namespace.
        return lambda value: getattr(homes[name], name)(value, *rest)

    def mixed(info: Tensor, stands_out: Tensor, related: Tensor, query: Tensor) -> Tensor:
        scores = [score.flatten(1) for score in (info, stands_out, related)]
        result: Tensor = _call(balancer, scores, query)
        return result.reshape(len(query), -1)

    def reported(_relevance: Tensor) -> Tensor:
        values = list(balancer.get_tension_values().values())
        return torch.tensor([[float(value) for value in values]]).expand(len(_relevance), -1)

    def chosen_patches(relevance: Tensor) -> Tensor:
        return _indices(_call(allocator, [relevance], None))

    def members(indices: Tensor) -> Bool[Tensor, "image patch"]:
        return membership(indices, GRID * GRID)

    scores = ("information", "salience", "query_relevance")
    return (
        Step(name="image", run=Pixels((SIZE, SIZE)), inputs=("images",), transient=True, pure=True),
        Step(name="query", run=lambda q: embed(q, chosen.query_dim), inputs=("queries",)),
        Step(name="texture", run=called("generate_texture_array", GRID), inputs=("image",)),
        Step(name="information", run=called("information_score"), inputs=("texture",)),
        Step(name="salience", run=called("perspectival_score"), inputs=("texture",)),
        Step(name="query_relevance", run=scorer, inputs=("texture", "query")),
        Step(name="relevance", run=mixed, inputs=(*scores, "query")),
        Step(name="tensions", run=reported, inputs=("relevance",)),
        Step(name="indices", run=chosen_patches, inputs=("relevance",)),
        Step(name="membership", run=members, inputs=("indices",)),
    )


def _call(module: nn.Module, scores: list[Tensor], query: Tensor | None) -> Any:
    """Call a part by what its arguments are called: scores in order, positions, query, size."""
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(1, -1, 2).expand(len(scores[0]), -1, -1)
    given: list[Any] = []
    left = list(scores)
    for word, parameter in inspect.signature(module.forward).parameters.items():
        if "position" in word:
            given.append(places)
        elif "query" in word and query is not None:
            given.append(query)
        elif "size" in word:
            given.append((GRID, GRID))
        elif left:
            given.append(left.pop(0))
        elif parameter.default is inspect.Parameter.empty:
            raise BadModel(
                f"{type(module).__name__} wants {word!r}, which ARR-COC 0.1 does not have"
            )
        else:
            break
    return module(*given)


def _indices(result: Any) -> Tensor:
    """Return the kept indices `[image, kept]` of an allocator's result."""
    entries = result if isinstance(result, tuple | list) else [result]
    for item in entries:
        if isinstance(item, Tensor) and not item.is_floating_point() and item.ndim == 2:
            return item
    raise BadModel("TokenAllocator returned no integer tensor [image, kept] of chosen patches")


def _sites(parts: Mapping[str, Any], scorer: nn.Module, balancer: nn.Module) -> list[Site]:
    def function(name: str, step: str, part: str) -> Site:
        at = FunctionResult(step=step, function=parts[part])
        return Site(name=name, stage="knowing", axes=_MAP, at=at, role=step)

    def module(name: str, step: str, held: nn.Module, axes: tuple[str, ...]) -> Site:
        at = ModuleOutput(step=step, module=held)
        role = "weights" if name == "balancing.weights" else None
        return Site(name=name, stage=name.partition(".")[0], axes=axes, at=at, role=role)

    def result(name: str, step: str, axes: tuple[str, ...], role: str | None) -> Site:
        stage, writable = name.partition(".")[0], role != "reported_tensions"
        at = Output(step=step)
        return Site(name=name, stage=stage, axes=axes, at=at, role=role, writable=writable)

    texture_at = FunctionResult(step="texture", function=parts["generate_texture_array"])
    sites = [
        Site(name="encoder.texture", stage="encoder", axes=_HIDDEN, at=texture_at),
        result("query.embedding", "query", ("image", "channel"), "query"),
        function("knowing.information", "information", "information_score"),
        function("knowing.salience", "salience", "perspectival_score"),
        result("knowing.query_relevance", "query_relevance", _MAP, "query_relevance"),
        result("balancing.relevance", "relevance", ("image", "patch"), "relevance"),
        result(
            "balancing.reported_tensions", "tensions", ("image", "channel"), "reported_tensions"
        ),
        result("attending.indices", "indices", ("image", "token"), None),
        result("attending.membership", "membership", ("image", "patch"), "membership"),
    ]
    weights = balancer.weight_predictor
    if isinstance(weights, nn.Module):
        sites.append(module("balancing.weights", "relevance", weights, ("image", "channel")))
        for index, part in enumerate(weights.children()):
            if isinstance(part, nn.ReLU):
                name = f"balancing.hidden_{index}"
                sites.append(module(name, "relevance", part, ("image", "channel")))
    for index, part in enumerate(getattr(scorer, "texture_proj", nn.Module()).children()):
        name = f"knowing.projection_{index}"
        sites.append(module(name, "query_relevance", part, _HIDDEN))
    return sites
