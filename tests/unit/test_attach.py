"""Sites inside a step: modules, inputs, plain functions, taps; exact, counted, always undone."""

import dataclasses
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

import pytest
import torch
from torch import nn
from transformers.utils import ModelOutput

from arrcoc_verify.attach import attached, copied, entry, namespaces_of, pick, put
from arrcoc_verify.errors import CompiledModule, ShapeMismatch
from arrcoc_verify.model import FunctionResult, ModuleInput, ModuleOutput, Site, Tapped
from arrcoc_verify.tap import tap


def at(location, name="encoder.here"):
    return Site(name=name, stage="encoder", axes=("image", "channel"), at=location)


def zero(site, value):
    return torch.zeros_like(value)


def seen_with(visit, *sites, modules=()):
    return attached(list(sites), visit, list(modules))


class Residual(nn.Module):
    """`r + dropout(r)`: in evaluation mode both terms are the same tensor."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, r):
        return r + self.dropout(r)


def test_zeros_at_the_output_of_an_aliasing_module_leave_the_residual_alone():
    block, r = Residual().eval(), torch.arange(6.0).reshape(2, 3)
    with seen_with(zero, at(ModuleOutput(step="s", module=block.dropout))):
        assert torch.equal(r, block(r))
    assert torch.equal(2 * r, block(r))
    assert torch.equal(torch.arange(6.0).reshape(2, 3), r)


def test_zeros_at_the_input_of_an_aliasing_module_leave_the_residual_alone():
    block, r = Residual().eval(), torch.ones(2, 3)
    with seen_with(zero, at(ModuleInput(step="s", module=block.dropout))):
        assert torch.equal(r, block(r))


class Named(nn.Module):
    def forward(self, image, query=None, *, scale=1.0):
        return image * scale + (0 if query is None else query)


def test_a_positional_input_of_a_module_is_read_and_written():
    net, one, two = Named().eval(), torch.ones(2, 3), torch.full((2, 3), 2.0)
    with seen_with(zero, at(ModuleInput(step="s", module=net, key=1))) as fired:
        assert torch.equal(one, net(one, two))
    assert {"encoder.here": 1} == dict(fired)


def test_an_input_by_keyword_is_read_and_written():
    net, one, two = Named().eval(), torch.ones(2, 3), torch.full((2, 3), 2.0)
    with seen_with(zero, at(ModuleInput(step="s", module=net, key="query"))):
        assert torch.equal(one, net(one, query=two))


@pytest.mark.parametrize("key", [1, "query"])
@pytest.mark.parametrize("by_name", [False, True])
def test_an_input_is_found_however_the_call_gives_it(key, by_name):
    net, one, two = Named().eval(), torch.ones(2, 3), torch.full((2, 3), 2.0)
    with seen_with(zero, at(ModuleInput(step="s", module=net, key=key))):
        assert torch.equal(one, net(one, query=two) if by_name else net(one, two))


@pytest.mark.parametrize(("key", "said"), [(1, "a tuple of 1"), ("query", "a dict with entries")])
def test_an_input_that_is_not_given_is_told(key, said):
    net = Named().eval()
    with (
        seen_with(zero, at(ModuleInput(step="s", module=net, key=key))),
        pytest.raises(ShapeMismatch, match=said),
    ):
        net(torch.ones(2, 3))


Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Result(ModelOutput):
    first: torch.Tensor = None
    second: torch.Tensor = None


@dataclass(frozen=True)
class Frozen:
    first: torch.Tensor
    second: torch.Tensor


def containers():
    one, two = torch.zeros(2), torch.ones(2)
    return {
        "dict": ({"first": one, "second": two}, "second"),
        "dict of numbers": ({0: one, 1: two}, 1),
        "ordered dict": (OrderedDict(first=one, second=two), "second"),
        "read-only mapping": (MappingProxyType({"first": one, "second": two}), "second"),
        "list": ([one, two], 1),
        "tuple": ((one, two), 1),
        "named tuple by index": (Pair(one, two), 1),
        "named tuple by name": (Pair(one, two), "second"),
        "model output by name": (Result(first=one, second=two), "second"),
        "model output by index": (Result(first=one, second=two), 1),
        "dataclass": (Frozen(one, two), "second"),
    }


@pytest.mark.parametrize("name", containers())
def test_an_entry_is_written_in_a_copy_of_the_same_type(name):
    value, key = containers()[name]
    new = torch.full((2,), 7.0)
    fresh = put(value, key, new)
    assert entry(fresh, key) is new
    assert entry(value, key).tolist() == [1.0, 1.0]
    first = 0 if isinstance(key, int) else "first"
    assert entry(fresh, first) is entry(value, first)
    if name != "read-only mapping":
        assert type(value) is type(fresh)


def test_a_written_model_output_shows_it_by_attribute_and_by_key():
    fresh = put(Result(first=torch.zeros(2), second=torch.ones(2)), "first", torch.full((2,), 3.0))
    assert fresh.first.tolist() == fresh["first"].tolist() == fresh[0].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("name", containers())
def test_a_copy_shares_no_tensor_and_keeps_the_type(name):
    value, key = containers()[name]
    fresh = copied(value)
    entry(fresh, key).add_(5)
    assert entry(value, key).tolist() == [1.0, 1.0]
    if name != "read-only mapping":
        assert type(value) is type(fresh)


def test_an_entry_that_is_not_there_is_told_with_what_is():
    site = at(Tapped(step="s", name="t"))
    for value, key, said in (
        ({"maps": torch.ones(1)}, "map", "a dict with entries maps"),
        ((torch.ones(1),), 3, "a tuple of 1"),
        (torch.ones(3), 0, "a Tensor"),
        ({"maps": [1]}, "maps", "wants a tensor, got a list of 1"),
    ):
        with pytest.raises(ShapeMismatch, match=said):
            pick(value, key, site)


@pytest.fixture
def package(monkeypatch):
    """Three namespaces of which two imported a function of the first by name, one under another."""
    made = [ModuleType(f"made_here_{index}") for index in range(3)]
    for module in made:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("def score(x):\n    return x + 1\n", vars(made[0]))
    made[1].score = made[2].renamed = made[0].score
    exec("def use(x):\n    return score(x) * 10\n", vars(made[1]))
    exec("def use(x):\n    return renamed(x) * 100\n", vars(made[2]))
    return made


def test_a_function_is_wrapped_in_every_namespace_that_imported_it(package):
    score, x = package[0].score, torch.ones(2, 3)
    assert {"score", "renamed"} == {name for _, name in namespaces_of(score)}
    with seen_with(zero, at(FunctionResult(step="s", function=score))) as fired:
        assert [0.0, 0.0, 0.0] == [
            float(f(x).sum()) for f in (package[0].score, package[1].use, package[2].use)
        ]
        assert package[0].score.__name__ == "score"
    assert {"encoder.here": 3} == dict(fired)
    assert package[0].score is package[1].score is package[2].renamed is score


def test_a_namespace_that_imports_a_function_later_is_wrapped_too(package):
    score, x = package[0].score, torch.ones(2, 3)
    site = at(FunctionResult(step="s", function=score))
    with seen_with(zero, site):
        pass
    package[0].another = score
    with seen_with(zero, site) as fired:
        assert float(package[0].another(x).sum()) == 0
    assert {"encoder.here": 1} == dict(fired)
    del package[2].renamed
    with seen_with(zero, site):
        assert not hasattr(package[2], "renamed")
    assert not hasattr(package[2], "renamed")


def test_two_sites_of_one_function_both_fire(package):
    def both(x):
        return {"one": x, "two": x * 2}

    package[0].both = both
    sites = [
        at(FunctionResult(step="s", function=both, key=key), f"encoder.{key}")
        for key in ("one", "two")
    ]
    with seen_with(zero, *sites) as fired:
        found = package[0].both(torch.ones(2, 3))
    assert {"encoder.one": 1, "encoder.two": 1} == dict(fired)
    assert float(found["one"].sum() + found["two"].sum()) == 0
    assert package[0].both is both


def test_a_module_that_is_imported_meanwhile_does_not_keep_the_wrapper(package, monkeypatch):
    score = package[0].score
    late = ModuleType("made_here_late")
    with seen_with(zero, at(FunctionResult(step="s", function=score))):
        monkeypatch.setitem(sys.modules, late.__name__, late)
        late.score = package[0].score
        assert late.score is not score
    assert late.score is score


def test_a_tap_is_an_identity_outside_and_a_site_inside():
    x = torch.ones(2, 3)
    assert tap("t", x) is x
    with seen_with(zero, at(Tapped(step="s", name="t"))) as fired:
        assert float(tap("t", x).sum()) == 0
        assert tap("another", x) is x
    assert {"encoder.here": 1} == dict(fired)
    assert tap("t", x) is x


def everywhere(package):
    """Return sites of all kinds, something that calls them all, and the modules."""
    block = Residual().eval()
    sites = [
        at(ModuleOutput(step="s", module=block.dropout), "encoder.out"),
        at(ModuleInput(step="s", module=block.dropout), "encoder.in"),
        at(FunctionResult(step="s", function=package[0].score), "encoder.function"),
        at(Tapped(step="s", name="t"), "encoder.tap"),
    ]
    return sites, lambda x: tap("t", package[1].use(block(x))), block


@pytest.mark.parametrize(
    "failing", ["encoder.out", "encoder.in", "encoder.function", "encoder.tap"]
)
def test_nothing_is_left_after_an_error(package, failing):
    sites, call, block = everywhere(package)
    score, x = package[0].score, torch.ones(2, 3)
    foreign = block.dropout.register_forward_hook(lambda *_: None)

    def visit(site, value):
        if site.name == failing:
            raise KeyError("in the middle")
        return value

    with pytest.raises(KeyError, match="in the middle"), seen_with(visit, *sites):
        call(x)
    assert [foreign.id] == list(block.dropout._forward_hooks)
    assert not block.dropout._forward_pre_hooks
    assert package[0].score is package[1].score is score
    assert tap("t", x) is x


def test_nothing_is_left_when_a_later_site_cannot_be_attached(package):
    sites, _, block = everywhere(package)
    compiled = nn.Linear(3, 3)
    compiled._compiled_call_impl = object()
    last = at(ModuleOutput(step="s", module=compiled), "encoder.last")
    score = package[0].score
    with (
        pytest.raises(CompiledModule),
        seen_with(zero, *sites, last, modules=[block, compiled]),
    ):
        pass
    assert not block.dropout._forward_hooks
    assert package[0].score is score


def test_foreign_hooks_fire_before_ours_and_stay():
    net, order = nn.Identity(), []
    handle = net.register_forward_hook(lambda *_: order.append("theirs"))

    def visit(site, value):
        order.append("ours")
        return value

    with seen_with(visit, at(ModuleOutput(step="s", module=net))):
        net(torch.ones(1))
    net(torch.ones(1))
    assert ["theirs", "ours", "theirs"] == order
    handle.remove()


def test_each_firing_is_counted():
    net = nn.Identity()
    with seen_with(lambda _, value: value, at(ModuleOutput(step="s", module=net))) as fired:
        for _ in range(3):
            net(torch.ones(1))
    assert {"encoder.here": 3} == dict(fired)


def test_a_visit_that_returns_its_argument_leaves_the_very_object():
    held = Result(first=torch.zeros(2), second=torch.ones(2))

    class Net(nn.Module):
        def forward(self, x):
            return held

    net = Net()
    site = at(ModuleOutput(step="s", module=net, key="first"))
    with seen_with(lambda _, value: value, site):
        assert net(torch.ones(1)) is held
    with seen_with(zero, dataclasses.replace(site)):
        assert net(torch.ones(1)) is not held
