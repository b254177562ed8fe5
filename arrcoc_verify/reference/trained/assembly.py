"""The trained reference model's modules together, with the names of its steps as methods."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify.errors import BadModel
from arrcoc_verify.reference import allocator
from arrcoc_verify.reference.trained import network, realising, tower
from arrcoc_verify.scenes import fixtures

LOW, HIGH = 64.0, 400.0
TOTAL = 88.0 * realising.GRID**2
"""Budget of a picture in tokens: 88 a patch on average."""
LEAST_DEMAND = 1e-6
FOLDER = "trained"
EVIDENCE = 0.2
"""Scale of class evidence, whose logits reach about 5 to 10."""


class Allocator(nn.Module):
    """What is learned behind two encoders; each method is one step of the model under test."""

    def __init__(self, channels: int, embed: int) -> None:
        """Build it untrained.

        Args:
            channels: of the image encoder's patches.
            embed: width in which patches and queries meet.
        """
        super().__init__()
        self.context = network.Context(channels)
        self.information, self.salience = network.Information(), network.Salience()
        self.query_relevance = network.QueryRelevance(embed)
        self.balancer, self.superposition = network.Balancer(embed), network.Superposition()
        self.curve, self.head = network.Curve(), network.TaskHead()

    def seen(self, context: Tensor, glance: Tensor) -> Tensor:
        """Return patches in context beside mean and spread of their colours, `[.., WIDTH + 6]`."""
        mean = F.avg_pool2d(glance, realising.FLOOR)
        square = F.avg_pool2d(glance * glance, realising.FLOOR)
        spread = (square - mean * mean).clamp(min=1e-8).sqrt()
        colour = torch.cat([mean - 0.5, spread], 1).flatten(2).transpose(1, 2)
        return torch.cat([context, 8 * colour.to(context)], 2)

    def values(self) -> Tensor:
        """Return `[scorer, feature]`: each feature's part in its scorer's sum."""
        reads = (self.information.read, self.salience.read, self.query_relevance.read)
        return torch.stack([F.softplus(read.raw) for read in reads])

    def mix(self, carried: Tensor) -> Tensor:
        """Return the weighted sum of the scores, `[image, patch]`."""
        return (carried @ self.superposition.readout).clamp(min=0)

    def attending_features(self, relevance: Tensor, carried: Tensor) -> Tensor:
        """Return balancing's vectors, turned, at the length that relevance gives them."""
        along = (carried @ self.superposition.readout).clamp(min=network.TINY)
        return (relevance / along)[..., None] * (carried @ self.curve.turn)

    def demand(self, features: Tensor) -> Tensor:
        """Return relevance to the learned power, plus a trace, `[image, patch]`, float64."""
        axis = self.superposition.readout @ self.curve.turn
        return (features @ axis).double().clamp(min=0) ** self.curve.power.double() + LEAST_DEMAND

    def multiplier(self, demand: Tensor) -> Tensor:
        """Return the number that spends the whole budget, `[image]`."""
        return allocator.solve_multiplier(demand, TOTAL, LOW, HIGH)

    def lod(self, demand: Tensor, multiplier: Tensor) -> Tensor:
        """Return continuous tokens, 64..400."""
        return allocator.level_of_detail(demand, multiplier, LOW, HIGH)


class Reference(Allocator):
    """The allocator on the two towers that the package ships weights for."""

    def __init__(self, text: Path) -> None:
        """Build it untrained; `text` is the folder of the text tower's configuration."""
        super().__init__(network.CHANNELS, tower.EMBED)
        self.towers: Any = tower.two_towers(text)
        self.classifier = nn.Linear(network.CHANNELS, 1000)
        self.classes = nn.Parameter(torch.zeros(1000, tower.EMBED), requires_grad=False)

    @property
    def trunk(self) -> Any:
        """The image tower before its pooling, a timm model."""
        return self.towers.visual.trunk

    def patches(self, glance: Tensor) -> Tensor:
        """Return the image tower's features `[image, patch, 1280]`."""
        return tower.patch_features(self.trunk, glance)

    def met(self, patches: Tensor) -> Tensor:
        """Return patches in the space of queries, unit length, `[image, patch, 384]`."""
        return F.normalize(self.towers.visual.head(patches), dim=2)

    def query(self, pieces: Tensor) -> Tensor:
        """Return queries `[image, 384]`, unit length."""
        return F.normalize(self.towers.text(pieces), dim=1)

    def evidence(self, logits: Tensor, query: Tensor) -> Tensor:
        """Return `[image, patch]`: class logits, weighted by the classes' nearness to the query."""
        near = torch.softmax(network.SHARPNESS * query @ self.classes.T.to(query), dim=1)
        return EVIDENCE * torch.einsum("bnk,bk->bn", logits, near)


def text_folder() -> Path:
    """Return the folder of the text tower's configuration and tokenizer."""
    return fixtures.folder() / FOLDER / "text"


def shipped() -> Path:
    """Return the file of the weights that the package ships."""
    return fixtures.folder() / FOLDER / "model.safetensors"


def load(path: Path | None = None) -> Reference:
    """Return the trained model, in float32 and ready to run.

    Args:
        path: weights, or a checkpoint of training, which holds only what learns; what it lacks is
            taken from the shipped weights. None means those alone.

    Raises:
        BadModel: there are no such weights, or they are of another model.
    """
    model = Reference(text_folder())
    wanted = model.state_dict()
    state: dict[str, Tensor] = {}
    for file in filter(None, (shipped(), path)):
        state |= _read(file, wanted)
    if missing := wanted.keys() - state.keys():
        raise BadModel(f"{shipped()} is incomplete: it lacks {', '.join(sorted(missing)[:5])}")
    model.load_state_dict({name: value.to(wanted[name].dtype) for name, value in state.items()})
    tower.prepare(model.eval().trunk)
    return model.requires_grad_(False)


def _read(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadModel(
            f"wanted the trained reference model's weights in {path}, cannot read them: {error}; "
            "reinstall arrcoc_verify, or make them with `arrcoc-verify train-reference`"
        ) from error
    other = [name for name, value in state.items()
             if name not in wanted or value.shape != wanted[name].shape]  # fmt: skip
    if other or not state:
        raise BadModel(f"{path} holds the weights of another model: {', '.join(other[:5])}")
    return state
