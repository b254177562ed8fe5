"""Runs: what is resumed equals what is run whole, whatever the graph, the edits and the batches."""

import dataclasses
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from arrcoc_verify.errors import (
    BadModel,
    BadQuery,
    CompiledModule,
    NonFinite,
    ShapeMismatch,
    SiteDidNotFire,
    SiteFiredTwice,
    TrainingMode,
    UnknownName,
    UsageError,
)
from arrcoc_verify.graph import Edit, resume, run
from arrcoc_verify.model import ModuleOutput, Site, Tapped
from arrcoc_verify.tap import tap
from tests.unit.small_models import build, pictures, pixels, queries, site, step

COUNT = 3


def combined(name, weights, shape):
    """Return a step's callable: a bent weighted sum, tapped, as a tensor or in a container.

    Division is rounded correctly, so the bits do not depend on how many numbers go through at once.
    """

    def compute(*inputs):
        total = sum(weight * value for weight, value in zip(weights, inputs, strict=True))
        value = tap(name, total / (1 + total.abs()))
        if shape == "mapping":
            return {"a": value, "b": value * 2}
        return (value, value - 1) if shape == "tuple" else value

    return compute


# Strategies draw plain data and the tests build from it: what checks types draws at random, too.
WEIGHTS = st.sampled_from([-2.0, 0.5, 1.0, 3.0])
SHAPES = {"tensor": (None,), "mapping": ("a", "b"), "tuple": (0, 1)}
EDITS = st.lists(
    st.tuples(
        st.integers(0, 30), st.sampled_from(["write", "value", "row", "draw"]), st.booleans()
    ),
    max_size=3,
)


@st.composite
def graphs(draw):
    """What a random small graph is made of: for each step its sources, weights, shape and flags."""
    sources, specs = ["start"], []
    count = draw(st.integers(2, 5))
    for index in range(count):
        last = index == count - 1
        chosen = draw(st.lists(st.sampled_from(sources), min_size=1, max_size=3, unique=True))
        weights = draw(st.lists(WEIGHTS, min_size=len(chosen), max_size=len(chosen)))
        shape = "tensor" if last else draw(st.sampled_from(sorted(SHAPES)))
        flags = {"transient": not last and draw(st.booleans()), "pure": draw(st.booleans())}
        specs.append((f"s{index}", chosen, weights, shape, flags))
        sources += [f"s{index}" if key is None else f"s{index}.{key}" for key in SHAPES[shape]]
    return specs


def built(specs):
    """Return the model, every step of which has a tap and one or two results as sites."""
    steps, sites = [step("start", lambda images: pixels(images)[:, :, 0], "images")], []
    for name, chosen, weights, shape, flags in specs:
        steps.append(step(name, combined(name, weights, shape), *chosen, **flags))
        role = "tokens" if name == specs[-1][0] else None
        for key in SHAPES[shape]:
            made = site(f"attending.{name}_{key}", "image patch", role, step=name, key=key)
            sites.append(made)
        at, tapped = Tapped(step=name, name=name), f"attending.tap_{name}"
        sites.append(Site(name=tapped, stage="attending", axes=("image", "patch"), at=at))
    return build(steps, sites)


def edits_of(model, drawn):
    """Return edits of the sites of a model, of every kind."""
    names = sorted(model.sites)
    values = torch.arange(COUNT * 4, dtype=torch.float64).reshape(COUNT, 4) / 7
    kinds = {
        "write": {"write": lambda old: old * 2 + 1},
        "value": {"value": values},
        "row": {"value": values[:1]},
        "draw": {"draw": lambda rows: torch.tensor([[float(row)] * 4 for row in rows]).double()},
    }
    half = torch.tensor([True, False, True, False])
    return [
        Edit(site=names[index % len(names)], where=half if masked else None, **kinds[kind])
        for index, kind, masked in drawn
    ]


@given(specs=graphs(), first=EDITS, second=EDITS, size=st.integers(1, COUNT))
@settings(max_examples=80)
def test_a_resumed_run_equals_a_whole_run_with_all_edits_bit_for_bit(specs, first, second, size):
    model = built(specs)
    first, second, names = edits_of(model, first), edits_of(model, second), sorted(model.sites)
    base = run(model, pictures(COUNT), queries(COUNT), edits=first, batch_size=size)
    resumed = resume(base, edits=second, read=names)
    both = [*first, *second]
    whole = run(model, pictures(COUNT), queries(COUNT), edits=both, read=names, batch_size=size)
    for name in names:
        assert torch.equal(whole[name], resumed[name]), name


@given(specs=graphs(), drawn=EDITS)
@settings(max_examples=40)
def test_the_batch_size_changes_nothing_an_edit_writes(specs, drawn):
    model = built(specs)
    edits, names = edits_of(model, drawn), sorted(model.sites)
    one, other = (
        run(model, pictures(COUNT), queries(COUNT), edits=edits, read=names, batch_size=size)
        for size in (1, COUNT)
    )
    for name in names:
        assert torch.equal(one[name], other[name]), name
    assert one.changed == other.changed


def counting(model):
    """Return a model that counts how often each step runs, and the counts."""
    counts = Counter()

    def wrap(one):
        def compute(*inputs):
            counts[one.name] += 1
            return one.run(*inputs)

        return dataclasses.replace(one, run=compute)

    return dataclasses.replace(model, steps=tuple(wrap(one) for one in model.steps)), counts


def chain():
    steps = [
        step("start", lambda images: pixels(images).mean(2), "images"),
        step("features", lambda value: value + 1, "start"),
        step("relevance", lambda value: value * 2, "features"),
        step("side", lambda value: value - 1, "features"),
        step("tokens", lambda value: value * 3, "relevance"),
    ]
    sites = [
        site("knowing.features", "image patch"),
        site("knowing.side", "image patch"),
        site("balancing.relevance", "image patch", "relevance"),
        site("attending.tokens", "image patch", "tokens"),
    ]
    return build(steps, sites)


def test_only_what_lies_downstream_of_an_edit_is_computed_again():
    model, counts = counting(chain())
    base = run(model, pictures(2), queries(2))
    counts.clear()
    resume(base, edits=[Edit(site="balancing.relevance", write=lambda old: old + 1)])
    assert {"tokens": 1} == dict(counts)


def test_a_step_whose_result_is_replaced_is_not_computed():
    model, counts = counting(chain())
    base = run(model, pictures(2), queries(2))
    counts.clear()
    value = base["balancing.relevance"] + 1
    frozen = Edit(site="balancing.relevance", value=value)
    moved = resume(base, edits=[frozen, Edit(site="knowing.features", write=torch.zeros_like)])
    assert {"side": 1, "tokens": 1} == dict(counts)
    assert torch.equal(value * 3, moved["attending.tokens"])


def test_a_transient_result_is_made_again_when_something_reads_it():
    model = chain()
    steps = [dataclasses.replace(one, transient=one.name == "features") for one in model.steps]
    model, counts = counting(dataclasses.replace(model, steps=tuple(steps)))
    base = run(model, pictures(2), queries(2))
    assert "features" not in base.chunks[0].outputs
    with pytest.raises(UsageError, match="was not read in this run"):
        base["knowing.features"]
    counts.clear()
    found = resume(base, edits=[], read=["knowing.features"])
    assert {"features": 1} == dict(counts)
    assert torch.equal(2 * found["knowing.features"], base["balancing.relevance"])


def test_the_base_of_a_resumed_run_is_left_as_it_was():
    base = run(chain(), pictures(2), queries(2))
    held = {name: base[name].clone() for name in base.model.sites}
    resume(base, edits=[Edit(site="knowing.features", write=torch.zeros_like)])
    assert all(torch.equal(held[name], base[name]) for name in held)
    assert base.edits == ()


def test_a_value_that_replaces_a_view_takes_its_layout_so_that_sums_keep_their_order():
    read = []

    def total(features):
        read.append(features.stride())
        return features.sum(2)

    model = build(
        [step("pixels", pixels, "images"),
         step("features", lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), "pixels"),
         step("relevance", total, "features"), step("tokens", torch.exp, "relevance")],
        [site("knowing.features", "image patch channel"),
         site("balancing.relevance", "image patch", "relevance"),
         site("attending.tokens", "image patch", "tokens")],
    )  # fmt: skip
    base = run(model, pictures(2), queries(2))
    value = base["knowing.features"].contiguous()
    again = resume(base, edits=[Edit(site="knowing.features", value=value)])
    assert read[0] == read[-1] != value.stride()
    assert torch.equal(again["attending.tokens"], base["attending.tokens"])


def test_what_an_edit_changed_is_reported_by_site():
    base = run(chain(), pictures(2), queries(2))
    assert base.changed == {}
    same = Edit(site="knowing.features", write=torch.clone)
    assert resume(base, edits=[same]).changed == {"knowing.features": 0.0}
    where = torch.tensor([True, False, False, False])
    moved = Edit(site="balancing.relevance", write=lambda old: old - 2.5, where=where)
    assert resume(base, edits=[moved]).changed == {"balancing.relevance": 2.5}


def test_a_step_that_writes_into_its_input_does_not_reach_the_cache():
    def writes(value):
        return value.add_(1)

    steps = [
        step("start", lambda images: pixels(images).mean(2), "images"),
        step("relevance", writes, "start"),
        step("tokens", lambda one, other: one + other, "relevance", "start"),
    ]
    sites = [
        site("encoder.start", "image patch"),
        site("attending.tokens", "image patch", "tokens"),
    ]
    found = run(build(steps, sites), pictures(2), queries(2))
    assert torch.equal(pixels(pictures(2)).mean(2), found["encoder.start"])
    assert torch.equal(2 * found["encoder.start"] + 1, found["attending.tokens"])


def taps(times, name="attending.tap"):
    def tokens(images):
        value = pixels(images).mean(2)
        for _ in range(times):
            value = tap("here", value)
        return value

    at = Tapped(step="tokens", name="here")
    inside = Site(name=name, stage="attending", axes=("image", "patch"), at=at)
    return build(
        [step("tokens", tokens, "images")],
        [site("attending.tokens", "image patch", "tokens"), inside],
    )


@pytest.mark.parametrize("use", ["edits", "read"])
@pytest.mark.parametrize(("times", "error"), [(0, SiteDidNotFire), (2, SiteFiredTwice)])
def test_there_is_no_silent_no_op(use, times, error):
    name = "attending.tap"
    given_ = {"edits": [Edit(site=name, write=torch.clone)]} if use == "edits" else {"read": [name]}
    said = r"attending.tap.* (met no activation|fired 2 times)"
    with pytest.raises(error, match=said):
        run(taps(times), pictures(2), queries(2), **given_)
    base = run(taps(times), pictures(2), queries(2))
    with pytest.raises(error, match=said):
        resume(base, **{"edits": [], **given_})


def test_a_site_that_fires_for_one_batch_only_is_not_silent():
    def tokens(images):
        value = pixels(images).mean(2)
        return tap("here", value) if len(images) == 2 else value

    model = dataclasses.replace(taps(1), steps=(step("tokens", tokens, "images"),))
    with pytest.raises(SiteDidNotFire):
        run(model, pictures(3), queries(3), read=["attending.tap"], batch_size=2)


def test_an_unknown_site_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match=r"mean 'balancing.relevance'"):
        run(chain(), pictures(1), queries(1), read=["balancing.relevanse"])
    base = run(chain(), pictures(1), queries(1))
    with pytest.raises(UnknownName, match=r"mean 'attending.tokens'"):
        base["attending.token"]


def test_a_module_in_training_mode_is_refused_before_anything_runs():
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    net[0].eval()
    model, counts = counting(dataclasses.replace(chain(), modules=(net,)))
    with pytest.raises(TrainingMode, match=r"'small' is in training mode; call .eval\(\)"):
        run(model, pictures(1), queries(1))
    assert not counts
    net.eval()
    base = run(model, pictures(1), queries(1))
    net[1].train()
    with pytest.raises(TrainingMode, match="module '1'"):
        resume(base, edits=[])


@pytest.mark.parametrize("text", ["", "   ", None, 3, b"bytes"])
def test_a_query_that_is_no_text_is_refused(text):
    with pytest.raises(BadQuery, match="must be text that is not empty"):
        run(chain(), pictures(1), [text])


def test_images_and_queries_of_different_number_are_refused():
    with pytest.raises(UsageError, match="got 2, 1"):
        run(chain(), pictures(2), queries(1))
    with pytest.raises(UsageError, match="at least one"):
        run(chain(), [], [])


def test_a_number_that_is_not_finite_is_told_with_its_step_and_query():
    def breaks(value):
        return torch.where(value == value.amax(), torch.nan, value)

    model = chain()
    steps = [dataclasses.replace(one, run=breaks) if one.name == "relevance" else one
             for one in model.steps]  # fmt: skip
    with pytest.raises(NonFinite, match=r"step 'relevance' of 'small' returned NaN.*'query 0'"):
        run(dataclasses.replace(model, steps=tuple(steps)), pictures(1), queries(1))


def test_a_step_that_returns_nothing_is_refused():
    model = chain()
    steps = [dataclasses.replace(one, run=lambda value: None) if one.name == "side" else one
             for one in model.steps]  # fmt: skip
    with pytest.raises(BadModel, match="step 'side' returned nothing"):
        run(dataclasses.replace(model, steps=tuple(steps)), pictures(1), queries(1))


def test_a_write_of_another_shape_is_refused():
    for write in (lambda old: old[:, :2], lambda old: old[:1]):
        with pytest.raises(ShapeMismatch, match="the edit returned"):
            run(chain(), pictures(2), queries(2), edits=[Edit(site="knowing.side", write=write)])


def test_a_batch_coupled_model_goes_through_one_by_one():
    seen = []

    def start(images):
        seen.append(len(images))
        return pixels(images).mean(2)

    model = chain()
    declared = dataclasses.replace(model.declaration, batch_invariant=False, batch_size=8)
    steps = (step("start", start, "images"), *model.steps[1:])
    run(dataclasses.replace(model, steps=steps, declaration=declared), pictures(3), queries(3))
    assert [1, 1, 1] == seen


def test_an_entry_of_a_step_that_is_not_there_is_told():
    steps = [
        step("start", lambda images: {"maps": pixels(images).mean(2)}, "images"),
        step("tokens", lambda value: value, "start.map"),
    ]
    model = build(steps, [site("attending.tokens", "image patch", "tokens")])
    with pytest.raises(BadModel, match="step 'start' returned nothing under 'map'"):
        run(model, pictures(1), queries(1))


def test_a_site_whose_shape_varies_between_batches_cannot_be_read_as_one():
    def text(queries):
        length = max(map(len, queries))
        return torch.zeros(len(queries), length, 2)

    steps = [*chain().steps, step("text", text, "queries")]
    sites = [*chain().sites.values(), site("query.text", "image token channel")]
    found = run(build(steps, sites), pictures(2), ["a", "bc"], batch_size=1)
    with pytest.raises(ShapeMismatch, match=r"another shape in each batch .*\(1, 2\), \(2, 2\)"):
        found["query.text"]


def test_a_map_with_one_channel_is_read_as_a_map():
    steps = [step("tokens", lambda images: pixels(images).mean(2)[..., None], "images")]
    model = build(steps, [site("attending.tokens", "image patch channel", "tokens")])
    assert run(model, pictures(2), queries(2)).allocation.tokens.shape == (2, 4)


def test_a_module_in_a_compiled_one_is_refused_by_name():
    net = nn.Sequential(nn.Linear(4, 4)).double().eval()
    net.compile(backend="eager")
    steps = [step("tokens", lambda images: net(pixels(images).mean(2)), "images")]
    at = ModuleOutput(step="tokens", module=net[0])
    inside = Site(name="encoder.inner", stage="encoder", axes=("image", "patch"), at=at)
    model = build(steps, [site("attending.tokens", "image patch", "tokens"), inside])
    model = dataclasses.replace(model, modules=(net,))
    with pytest.raises(CompiledModule, match=r"'encoder.inner' lies in a compiled module \(Sequ"):
        run(model, pictures(1), queries(1), read=["encoder.inner"])


def test_an_allocation_that_lies_inside_a_step_can_always_be_read():
    model = taps(1)
    inside = dataclasses.replace(model.sites["attending.tap"], role="relevance")
    model = dataclasses.replace(model, sites={**model.sites, "attending.tap": inside})
    base = run(model, pictures(3), queries(3), batch_size=2)
    assert torch.equal(base["attending.tokens"], base.allocation.relevance)
    edit = Edit(site="attending.tap", write=lambda old: old + 1)
    moved = resume(base, edits=[edit]).allocation
    assert torch.equal(base.allocation.relevance + 1, moved.relevance)
    for value in ({"write": lambda old: old * 0}, {"value": torch.zeros(3, 4)}):
        late = resume(base, edits=[Edit(site="attending.tokens", **value)]).allocation
        assert torch.equal(base.allocation.relevance, late.relevance)
        assert not late.tokens.any()


def test_a_number_that_is_not_finite_in_an_entry_is_told_with_its_query():
    def start(images):
        value = pixels(images).mean(2)
        return {"fine": value, "broken": value / torch.tensor([1.0, 0.0])[: len(value), None]}

    steps = [step("start", start, "images"), step("tokens", lambda value: value, "start.fine")]
    model = build(steps, [site("attending.tokens", "image patch", "tokens")])
    with pytest.raises(NonFinite, match=r"step 'start'.*'query 1'"):
        run(model, pictures(2), queries(2))
