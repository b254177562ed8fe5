"""Small models as people who never read our code would write them, and what they say of them."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers.utils import ModelOutput

from arrcoc_verify import _torchvision
from arrcoc_verify.adapters import Part, Place, budget, describe, whole
from arrcoc_verify.tap import tap
from tests.adapters.imported import measures, router

_torchvision.prepare()
import timm  # noqa: E402 - a machine without a GPU may need the line before it

SIZE = {"grid": (4, 4), "image_size": (64, 64)}
COLOURS = ("red", "green", "blue", "yellow", "old", "wooden", "small", "never")


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def cells(image):
    return image.unfold(2, 16, 16).unfold(3, 16, 16)


def words(queries):
    return torch.tensor([[float(word in query) for word in COLOURS] for query in queries])


# --- functions only, maps [B, h, w], a conserved total -------------------------------------------


def information(image):
    return cells(image).std((1, 4, 5))


def salience(image):
    mean = cells(image).mean((4, 5))
    return (mean - mean.mean((2, 3), keepdim=True)).abs().mean(1)


def query_relevance(image, query):
    return torch.einsum("bchw,bc->bhw", cells(image).mean((4, 5)), query[:, :3])


def balancing(information, salience, query_relevance, query):
    asked = query.sum(1, keepdim=True).clamp(0, 1)
    weights = torch.cat([1 - asked / 2, torch.ones_like(asked), 1 + asked], 1).softmax(1)
    maps = torch.stack([information, salience, query_relevance], 1)
    mixed = (weights[:, :, None, None] * maps).sum(1)
    return {"relevance": mixed, "weights": weights, "tensions": 1 - weights}


def attending(relevance):
    demand = relevance.flatten(1) ** 2 + 1e-3
    multiplier = 2048 / demand.sum(1)
    return {"demand": demand, "multiplier": multiplier, "tokens": demand * multiplier[:, None]}


def functions_only():
    stages = (information, salience, query_relevance, balancing, attending)
    return describe(
        "functions only",
        {"query": words, **{stage.__name__: stage for stage in stages}},
        **SIZE, lod=(0, 2048), integer=False, conserved_total=True, total=2048.0,
    )  # fmt: skip


# --- one network, hooks only, 64 or 256 tokens a tile --------------------------------------------


class TileRouter(nn.Module):
    def __init__(self):
        super().__init__()
        self.patchify = nn.Conv2d(3, 24, 16, 16)
        self.blocks = nn.Sequential(*[self.Block() for _ in range(2)])
        self.head = nn.Linear(24, 1)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(24, 24)
            self.dropout = nn.Dropout(0.1)

        def forward(self, x):
            r = torch.tanh(self.inner(x))
            return r + self.dropout(r)

    def forward(self, image):
        tokens = self.patchify(image).flatten(2).transpose(1, 2)
        score = self.head(self.blocks(tokens)).squeeze(-1)
        return torch.where(score > score.mean(1, keepdim=True), 256, 64)


def tile_router():
    return whole(
        "tiles of 64 or 256",
        seeded(TileRouter),
        sites={
            "attending.tokens": Place(step="model"),
            "encoder.block": Place(module="blocks.0"),
            "encoder.dropout": Place(module="blocks.1.dropout"),
            "encoder.pixels": Place(module="patchify", argument=0),
            "balancing.relevance": Place(module="head", axes=("image", "patch", "channel")),
        },
        **SIZE, budget_kind="tile_lod", lod=(64, 256), ladder=(64, 256), query_path="none",
    )  # fmt: skip


# --- a timm ViT with a head that keeps the best patches ------------------------------------------


class Pruner(nn.Module):
    def __init__(self):
        super().__init__()
        kind = timm.models.vision_transformer.VisionTransformer
        self.vit = kind(img_size=64, embed_dim=32, depth=2, num_heads=2, num_classes=0)
        self.score = nn.Linear(32 + len(COLOURS), 1)

    def forward(self, image, query):
        patches = self.vit.forward_features(image)[:, 1:]
        asked = query[:, None].expand(-1, patches.shape[1], -1)
        relevance = self.score(torch.cat([patches, asked], 2)).squeeze(-1)
        return relevance, relevance.topk(6, dim=1).indices


def vit_pruner():
    return describe(
        "timm and a head",
        {
            "query": words,
            "prune": seeded(Pruner),
            "membership": Part(run=lambda kept: budget.membership(kept, 16), inputs=("prune.1",)),
        },
        sites={
            "encoder.block_0": Place(module="prune.vit.blocks.0"),
            "encoder.norm": Place(module="prune.vit.norm", argument=0),
            "balancing.relevance": Place(step="prune", key=0, writable=False),
            "balancing.score": Place(module="prune.score", axes=("image", "patch", "channel")),
            "attending.kept": Place(step="prune", key=1, axes=("image", "token")),
        },
        **SIZE, budget_kind="keep_mask", lod=None, conserved_total=True, total=6.0,
    )  # fmt: skip


# --- a keep ratio, a merge count ------------------------------------------------------------------


def keep_ratio():
    def ratio(relevance):
        return 0.25 + relevance.flatten(1).std(1).clamp(0, 0.5)

    def membership(relevance, ratio):
        return budget.share_kept(relevance.flatten(1), ratio)

    return describe(
        "keeps a share",
        {"relevance": salience, "ratio": ratio, "membership": membership},
        **SIZE, budget_kind="keep_ratio", lod=None, query_path="none",
    )  # fmt: skip


def merger():
    def relevance(image):
        return cells(image).mean((1, 4, 5)).flatten(1)

    def tokens(relevance):
        return budget.merged((relevance * 6).long())

    return describe(
        "merges alike",
        {"relevance": relevance, "tokens": tokens},
        **SIZE, budget_kind="merge_count", lod=(0.0625, 1), integer=False, query_path="none",
    )  # fmt: skip


# --- outputs of other kinds -----------------------------------------------------------------------

Routed = namedtuple("Routed", ["features", "relevance"])


@dataclass
class Decision(ModelOutput):
    tokens: torch.Tensor = None
    demand: torch.Tensor = None


def other_outputs():
    def route(image):
        features = cells(image).flatten(4).mean(-1).permute(0, 2, 3, 1)  # [B, h, w, C]
        return Routed(features, features.std(-1))

    def decide(relevance):
        return Decision(tokens=(64 + 336 * relevance.clamp(0, 1)).round().int(), demand=relevance)

    def report(decide):
        return OrderedDict(
            most=decide.tokens.flatten(1).amax(1).float()
        )  # by attribute, as theirs is used

    return describe(
        "other outputs",
        {"route": route, "decide": decide, "report": Part(run=report, stage="report")},
        sites={"attending.demand": Place(step="decide", key="demand", writable=False)},
        **SIZE, lod=(64, 400), query_path="none",
    )  # fmt: skip


# --- plain functions inside steps, taps, numpy, state ---------------------------------------------


def imported_function():
    return describe(
        "imported by name",
        {"decide": router.decide},
        sites={"knowing.information": Place(function=measures.spread)},
        **SIZE, lod=(64, 1088), integer=False, query_path="none",
    )  # fmt: skip


def tapped():
    def tokens(image):
        score = tap("score", cells(image).std((1, 4, 5)).flatten(1))
        return 64 + score.argsort(1).argsort(1)

    return describe(
        "tapped",
        {"tokens": tokens},
        sites={"balancing.relevance": Place(tap="score")},
        **SIZE, lod=(64, 79), conserved_total=True, query_path="none",
    )  # fmt: skip


def in_numpy():
    def relevance(image):
        return np.asarray(image).reshape(len(image), 3, 4, 16, 4, 16).std((1, 3, 5))

    def tokens(relevance):
        return np.clip(64 + 336 * np.asarray(relevance), 64, 400).round().astype(np.int64)

    return describe("numpy", {"relevance": relevance, "tokens": tokens}, **SIZE, query_path="none")


class Counting:
    """Counts its calls, which does no harm, and holds a network."""

    def __init__(self):
        self.calls = 0
        self.net = seeded(lambda: nn.Conv2d(3, 1, 16, 16))

    def relevance(self, image):
        self.calls += 1
        return self.net(image).squeeze(1).sigmoid()

    def tokens(self, relevance, floor=64, *, ceiling=400):
        return floor + (ceiling - floor) * relevance


def with_state():
    held = Counting()
    return describe(
        "counts its calls",
        {"relevance": held.relevance, "tokens": held.tokens},
        sites={"encoder.net": Place(module=held.net)},
        **SIZE, integer=False, query_path="none",
    )  # fmt: skip


# --- modes, types and ways of calling that libraries use ----


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 16, 16)
        self.norm = nn.LayerNorm(8)

    @torch.inference_mode()
    def forward(self, pixel_values):
        hidden = self.embed(pixel_values).flatten(2).transpose(1, 2)
        return {"hidden": self.norm(input=hidden)}


def in_inference_mode():
    encoder = seeded(Encoder)
    half = seeded(lambda: nn.Linear(8, 1)).bfloat16()

    def relevance(hidden, head=half):
        return head(hidden.bfloat16()).sigmoid().squeeze(-1)

    def tokens(relevance):
        return (64 + 336 * relevance.float()).round()

    return describe(
        "inference mode",
        {"encoder": Part(run=encoder, inputs=("image",)), "relevance": relevance, "tokens": tokens},
        sites={"encoder.hidden_in": Place(module="encoder.norm", argument=0)},
        **SIZE, tolerance=1e-2, query_path="none",
    )  # fmt: skip


class Tokenizer:
    """Pads a batch of texts to its longest, as tokenizers do."""

    def __call__(self, queries):
        rows = [[1 + len(word) for word in text.split()] for text in queries]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def with_tokenizer():
    embedding = seeded(lambda: nn.Embedding(64, 3))

    def text(input_ids):
        return embedding(input_ids)

    def query(text, attention_mask):
        mask = attention_mask[:, :, None]
        return (text * mask).sum(1) / mask.sum(1)

    def tokens(query_relevance):
        return 64 + 336 * query_relevance.sigmoid()

    return describe(
        "with a tokenizer",
        {
            "tokenize": Tokenizer(), "text": Part(run=text, stage="query"), "query": query,
            "query_relevance": query_relevance, "tokens": tokens,
        },
        **SIZE, integer=False, batch_size=1,
    )  # fmt: skip


EVERY = (
    functions_only, tile_router, vit_pruner, keep_ratio, merger, other_outputs, imported_function,
    tapped, in_numpy, with_state, in_inference_mode,
    with_tokenizer,
)  # fmt: skip
