"""Adapters that each tell one lie, and a sound one that they are made from."""

import dataclasses

import numpy as np
import torch
from torch import nn

from arrcoc_verify.adapters import Part, Place, describe
from arrcoc_verify.model import ModuleOutput, Site
from tests.adapters.strangers import SIZE, cells, seeded, words


def information(image):
    return cells(image).std((1, 4, 5)).flatten(1)


def query_relevance(image, query):
    return torch.einsum("bchw,bc->bhw", cells(image).mean((4, 5)), query[:, :3]).flatten(1)


def relevance(information, query_relevance):
    return information + query_relevance


def tokens(relevance):
    share = (relevance + 0.1) / (relevance + 0.1).sum(1, keepdim=True)
    return 64 + 1024 * share


class Scorer(nn.Module):
    """A score of the picture by a small network."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 16, 16)
        self.unused = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, image):
        r = self.first(image)
        return self.last((r + self.dropout(r)).relu()).flatten(1).sigmoid()


def sound(steps=None, sites=None, **declared):
    """Return a model that tells the truth, with some steps and words replaced."""
    given = {
        **({"image": (steps or {})["image"]} if "image" in (steps or {}) else {}),
        "query": words,
        "information": information,
        "query_relevance": query_relevance,
        "relevance": relevance,
        "tokens": tokens,
        **(steps or {}),
    }
    said = {"lod": (64, 1088), "integer": False, "conserved_total": True, "total": 2048}
    return describe("sound", given, sites=sites, **{**SIZE, **said, **declared})


def with_network(net=None, **sites):
    net = net or seeded(Scorer)
    return sound({"information": Part(run=net, inputs=("image",))}, sites)


def lies(model, **declared):
    return dataclasses.replace(
        model, declaration=dataclasses.replace(model.declaration, **declared)
    )


def nondeterministic():
    return sound({"information": lambda image: information(image) + torch.rand(1) / 100})


def batch_coupled():
    def relevance(information, query_relevance):
        mixed = information + query_relevance
        return (mixed - mixed.min()) / (mixed.max() - mixed.min())

    return sound({"relevance": relevance})


def neighbour_by_padding():
    def query(queries):
        longest = max(len(text) for text in queries)
        return words(queries) * len(queries[0]) / longest

    return sound({"query": query})


def site_fires_twice():
    net = seeded(Scorer)

    def twice(image):
        return net(net.last.weight.mean() + image) + net(image)

    model = sound({"information": twice})
    at = ModuleOutput(step="information", module=net.first)
    return with_site(model, "encoder.first", at, ("image", "channel", "row", "column"))


def with_site(model, name, at, axes, **more):
    site = Site(name=name, stage=name.partition(".")[0], axes=axes, at=at, **more)
    return dataclasses.replace(model, sites={**model.sites, name: site})


def site_never_fires():
    net = seeded(Scorer)
    model = sound({"information": Part(run=net, inputs=("image",))})
    at = ModuleOutput(step="information", module=net.unused)
    return with_site(model, "encoder.unused", at, ("image", "channel"))


def dead_site():
    net = seeded(Scorer)

    def ignores(image):
        net.unused(information(image)[:, :4])
        return information(image)

    return sound({"information": ignores}, {"encoder.unused": Place(module=net.unused)})


def report_that_acts():
    return sound(sites={"knowing.information": Place(step="information", writable=False)})


def writes_in_place():
    def relevance(information, query_relevance):
        return information.add_(query_relevance)

    return sound({"relevance": Part(run=relevance, pure=True)})


def shrinks_pictures():
    def image(images):
        for picture in images:
            picture.thumbnail((32, 32))
        grey = torch.stack([torch.from_numpy(np.array(p.convert("L"))) for p in images])
        small = (grey.float() / 255)[:, None].expand(-1, 3, -1, -1)
        return nn.functional.interpolate(small, (64, 64))

    return sound({"image": image})


def wrong_grid():
    return lies(sound(), grid=(5, 5))


def wrong_axes():
    model = sound()
    site = dataclasses.replace(model.site("query.query"), axes=("image", "patch"))
    return dataclasses.replace(model, sites={**model.sites, "query.query": site})


def not_conserved():
    return sound({"tokens": lambda relevance: 64 + 100 * relevance.clamp(0, 1)})


def another_total():
    return lies(sound(), total=4096.0)


def remembers_the_last():
    held = {}

    def information_(image):
        now = information(image)
        last = held.get("last", now)
        held["last"] = now if last.shape != now.shape else torch.maximum(now, last)
        return held["last"]

    return sound({"information": information_})


def keeps_results_by_query():
    held = {}

    def relevance(information, query_relevance, queries):
        rows = zip(queries, information + query_relevance, strict=True)
        return torch.stack([held.setdefault(query, row.clone()) for query, row in rows])

    return sound({"relevance": relevance})


def reuses_a_buffer():
    held = {}

    def relevance(information, query_relevance):
        buffer = held.setdefault(len(information), torch.zeros_like(information))
        return buffer.copy_(information + query_relevance)

    return sound({"relevance": relevance})


def hidden_road():
    held = {}

    def stash(information):
        held["stashed"] = information
        return information * 1.0

    def tokens(relevance):  # an edit of relevance finds what the last picture left here
        return 64 + 1024 * torch.softmax(relevance + held["stashed"], 1)

    first = {"query": words, "information": information}
    rest = {"query_relevance": query_relevance, "relevance": relevance, "tokens": tokens}
    steps = {**first, "stash": Part(run=stash, stage="report"), **rest}
    return describe("hidden road", steps, **SIZE, lod=(64, 1088), integer=False, batch_size=1)


def knows_its_own_tensors():
    net = seeded(Scorer)
    kept = {}

    def information(image):
        found = net(image)
        return found if found is kept["last"] else found * 1.01

    net.register_forward_hook(lambda _module, _args, output: kept.update(last=output))
    return sound({"information": information}, {"encoder.net": Place(module=net)})


def not_finite():
    def relevance(information, query_relevance):
        return (information + query_relevance) / query_relevance.sum()

    model = sound()
    steps = [dataclasses.replace(one, run=relevance) if one.name == "relevance" else one
             for one in model.steps]  # fmt: skip
    return lies(dataclasses.replace(model, steps=tuple(steps)), batch_size=1)


def hides_its_network():
    net = seeded(Scorer)
    return dataclasses.replace(sound({"information": Part(run=net, inputs=("image",))}), modules=())


def swallows_errors():
    net = seeded(Scorer)

    def careful(image):
        try:
            return net(image)
        except Exception:  # noqa: BLE001
            return information(image)

    axes = ("image", "channel", "row", "column")
    return sound({"information": careful}, {"encoder.first": Place(module=net.first, axes=axes)})


def clears_hooks():
    net = seeded(Scorer)

    def clearing(image):
        found = net(image)
        net.first._forward_hooks.clear()
        return found

    axes = ("image", "channel", "row", "column")
    return sound({"information": clearing}, {"encoder.first": Place(module=net.first, axes=axes)})


def misspells_a_role():
    model = sound()
    site = model.role("query_relevance")
    wrong = dataclasses.replace(site, name="knowing.query_relevence", role=None)
    sites = {name: one for name, one in model.sites.items() if name != site.name}
    return dataclasses.replace(model, sites={**sites, wrong.name: wrong})


def above_the_ceiling():
    return lies(sound(), lod=(64.0, 120.0))


def off_the_ladder():
    return lies(sound(), ladder=(64.0, 128.0, 256.0))


def fractions():
    return lies(sound(), integer=True)


EACH = {
    nondeterministic: "deterministic",
    batch_coupled: "batch-invariant",
    neighbour_by_padding: "batch-invariant",
    site_fires_twice: "fires-once",
    site_never_fires: "fires-once",
    misspells_a_role: "roles",
    dead_site: "reaches-output",
    report_that_acts: "reaches-output",
    writes_in_place: "inputs-untouched",
    shrinks_pictures: "inputs-untouched",
    wrong_grid: "axes",
    wrong_axes: "axes",
    not_conserved: "conserved-total",
    another_total: "conserved-total",
    remembers_the_last: "stateless",
    keeps_results_by_query: "stateless",
    reuses_a_buffer: "stateless",
    hidden_road: "resume",
    knows_its_own_tensors: "identity",
    not_finite: "runs",
    hides_its_network: "training-refused",
    swallows_errors: "nothing-left",
    clears_hooks: "foreign-hooks",
    above_the_ceiling: "lod-range",
    off_the_ladder: "lod-ladder",
    fractions: "lod-integer",
}
"""Liar -> the one check that catches it."""
