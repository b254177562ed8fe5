"""Models of strangers: described in a few lines, they run, and their sites are where they are."""

import functools

import pytest
import torch
from torch import nn

from arrcoc_verify.adapters import Part, Place, describe, whole
from arrcoc_verify.adapters.pictures import QUERIES, pictures
from arrcoc_verify.errors import BadModel, TrainingMode, UnknownName
from arrcoc_verify.graph import Edit, run
from arrcoc_verify.model import Declaration, ModuleOutput, Output
from tests.adapters import strangers
from tests.adapters.strangers import SIZE, cells, seeded

IMAGES = pictures(3, (64, 64))
ASKED = list(QUERIES[:3])


def brightness(image):
    return cells(image).mean((1, 4, 5))


def even(relevance):
    return torch.full_like(relevance, 64)


def test_a_step_named_like_a_role_is_the_site_of_that_role():
    model = strangers.functions_only()
    assert model.role("information").name == "knowing.information"
    assert model.role("information").axes == ("image", "row", "column")
    assert model.role("tokens").at == Output(step="attending", key="tokens")


def test_the_pictures_reach_functions_as_a_tensor_in_zero_to_one():
    seen = []

    def tokens(image):
        seen.append(image)
        return brightness(image)

    describe("looks", {"tokens": tokens}, **SIZE)
    assert (2, 3, 64, 64) == tuple(seen[0].shape)
    assert 0 <= float(seen[0].min()) <= float(seen[0].max()) <= 1


def test_an_own_image_step_takes_the_place_of_the_default_one():
    def image(images):
        return torch.stack([torch.full((3, 64, 64), float(len(images))) for _ in images])

    model = describe("own", {"image": image, "tokens": brightness}, **SIZE)
    assert ["image", "tokens"] == [step.name for step in model.steps]
    assert float(run(model, IMAGES, ASKED).allocation.tokens.max()) == 3.0


def test_what_a_mapping_returns_but_nothing_reads_is_a_report_and_no_cause():
    model = strangers.functions_only()
    assert model.role("weights") is None
    assert model.role("reported_weights").name == "balancing.weights"
    assert model.role("multiplier") is None
    assert not model.site("attending.multiplier").writable


def test_a_mapping_entry_that_a_later_step_reads_is_a_cause():
    def balance(image):
        return {"relevance": brightness(image), "weights": torch.ones(len(image), 3)}

    def tokens(relevance, weights):
        return relevance * weights.sum(1)[:, None, None]

    model = describe("reads both", {"balance": balance, "tokens": tokens}, **SIZE)
    assert model.role("weights").writable
    assert ("balance.relevance", "balance.weights") == model.steps[-1].inputs


@pytest.mark.parametrize("make", strangers.EVERY, ids=lambda make: make.__name__)
def test_every_stranger_gives_an_allocation_of_sixteen_patches(make):
    found = run(make(), IMAGES, ASKED, read=make().sites).allocation
    for name in ("relevance", "tokens", "membership"):
        assert (3, 16) == tuple(getattr(found, name).shape)


def test_the_only_tokens_of_a_tile_router_are_64_and_256():
    found = run(strangers.tile_router(), IMAGES, ASKED, read=["balancing.relevance"])
    assert {64.0, 256.0} == set(found.allocation.tokens.unique().tolist())


def test_chosen_indices_become_a_membership():
    found = run(strangers.vit_pruner(), IMAGES, ASKED)
    assert [6, 6, 6] == found.allocation.membership.sum(1).tolist()
    kept = found["attending.kept"]
    assert found.allocation.membership.gather(1, kept).all()


def test_a_merge_shares_one_token_among_its_patches():
    found = run(strangers.merger(), IMAGES, ASKED)
    groups = (found["balancing.relevance"] * 6).long()
    assert [len(row.unique()) for row in groups] == found.allocation.tokens.sum(1).round().tolist()


def test_a_library_output_keeps_its_type_on_the_way_to_the_next_step():
    found = run(strangers.other_outputs(), IMAGES, ASKED)
    assert isinstance(found.chunks[0].outputs["decide"], strangers.Decision)
    assert found["report.most"].tolist() == found.allocation.tokens.amax(1).tolist()


def test_a_library_output_keeps_its_type_when_one_entry_is_written():
    model = strangers.other_outputs()
    edit = Edit(site="attending.tokens", write=lambda old: old + 1)
    found = run(model, IMAGES, ASKED, edits=[edit])
    plain = run(model, IMAGES, ASKED)
    assert found["report.most"].tolist() == (plain["report.most"] + 1).tolist()


def test_a_function_imported_by_name_elsewhere_is_read_and_written():
    model = strangers.imported_function()
    edit = Edit(site="knowing.information", write=torch.ones_like)
    assert run(model, IMAGES, ASKED, edits=[edit]).allocation.tokens.unique().tolist() == [128.0]


def test_keyword_only_arguments_and_defaults_are_left_to_the_function():
    found = run(strangers.with_state(), IMAGES, ASKED).allocation
    assert torch.allclose(found.tokens, 64 + 336 * found.relevance)


def test_an_argument_that_nothing_makes_is_named_with_the_nearest():
    def tokens(imgae):
        return brightness(imgae)

    with pytest.raises(
        UnknownName, match=r"argument .* of step 'tokens' 'imgae': did you mean 'image'"
    ):
        describe("misspelt", {"tokens": tokens}, **SIZE)


def test_an_argument_that_a_later_step_makes_is_told_so():
    with pytest.raises(BadModel, match=r"'tokens' reads 'relevance', which comes after it"):
        describe("late", {"tokens": even, "relevance": brightness}, **SIZE)


def test_an_argument_that_two_steps_make_must_be_said():
    def one(image):
        return {"map": brightness(image)}

    def tokens(map):  # noqa: A002
        return map

    with pytest.raises(BadModel, match=r"'map' of step 'tokens' could be any of one.map, two.map"):
        describe("twice", {"one": one, "two": one, "tokens": tokens}, **SIZE)


def test_what_a_step_raises_is_told_in_one_sentence_with_its_line():
    def tokens(image):
        raise ZeroDivisionError("nothing to divide")

    with pytest.raises(BadModel, match=r"step 'tokens' failed.*nothing to divide \(test_callables"):
        describe("raises", {"tokens": tokens}, **SIZE)


def test_a_shape_that_could_be_two_things_must_be_said():
    def tokens(image):
        return brightness(image)

    def features(image):
        return torch.zeros(len(image), 4, 4, 4)

    steps = {"features": Part(run=features, stage="encoder"), "tokens": tokens}
    place = {"encoder.features": Place(step="features")}
    with pytest.raises(BadModel, match=r"could be .*'row', 'column', 'channel'.* or .*'channel'"):
        describe("cube", steps, sites=place, **SIZE)
    axes = ("image", "channel", "row", "column")
    model = describe("cube", steps, sites={"encoder.features": Place(step="features", axes=axes)},
                     **SIZE)  # fmt: skip
    assert axes == model.site("encoder.features").axes


def test_a_model_that_allocates_nothing_is_refused():
    with pytest.raises(BadModel, match="needs a site with role 'tokens' or 'membership'"):
        describe("looks only", {"relevance": brightness}, **SIZE)


def test_a_field_of_the_declaration_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="mean 'conserved_total'"):
        describe("wrong", {"tokens": brightness}, **SIZE, conserved=True)
    with pytest.raises(BadModel, match="needs 'image_size'"):
        describe("wrong", {"tokens": brightness}, grid=(4, 4))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Place(module="prune.vit.blocs.0"), "mean 'vit.blocks.0'"),
        (Place(module="query.net"), "is a function, not a torch module"),
        (Place(module="prun.vit"), "mean 'prune'"),
        (Place(function=even), "met no activation"),
        (Place(tap="never"), "met no activation"),
        (Place(), "needs one of module, function, tap and step"),
        (Place(step="prun"), "mean 'prune'"),
        (Place(module="prune", key=7), "wants entry 7, got a tuple of 2"),
    ],
)  # fmt: skip
def test_a_place_where_nothing_fires_is_refused_when_it_is_described(place, message):
    steps = {"query": strangers.words, "prune": seeded(strangers.Pruner), "tokens": brightness}
    with pytest.raises((BadModel, UnknownName), match=message):
        describe("places", steps, sites={"encoder.here": place}, **SIZE)


def test_a_place_that_fires_twice_is_refused_when_it_is_described():
    shared = nn.Linear(4, 4).eval()

    def tokens(image):
        return shared(shared(brightness(image)))

    with pytest.raises(BadModel, match="fired 2 times"):
        describe("twice", {"tokens": tokens}, sites={"encoder.it": Place(module=shared)}, **SIZE)


def test_a_place_in_two_things_at_once_is_refused():
    with pytest.raises(BadModel, match="one place: got function and tap"):
        Place(function=brightness, tap="x")


def test_a_stage_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="mean 'encoder'"):
        describe("stages", {"tokens": brightness}, sites={"encodr.x": Place(tap="x")}, **SIZE)


def test_a_network_in_training_mode_is_refused_wherever_it_is_held():
    net = nn.Conv2d(3, 1, 16, 16)

    def in_closure(image):
        return net(image).squeeze(1)

    class Holder:
        def __init__(self):
            self.parts = [net]

        def __call__(self, image):
            return self.parts[0](image).squeeze(1)

    for tokens in (in_closure, Holder(), Holder().__call__, functools.partial(in_closure)):
        with pytest.raises(TrainingMode, match=r"call .eval\(\)"):
            describe("trains", {"tokens": tokens}, **SIZE)
    net.eval()
    assert (net,) == describe("evaluates", {"tokens": Holder()}, **SIZE).modules


def test_a_site_in_a_compiled_network_is_refused_when_it_is_described():
    net = seeded(lambda: nn.Conv2d(3, 1, 16, 16))
    steps = {"net": Part(run=torch.compile(net, backend="eager"), inputs=("image",)),
             "tokens": lambda net: net[:, 0]}  # fmt: skip
    with pytest.raises(BadModel, match="lies in a compiled module"):
        describe("compiled", steps, sites={"encoder.net": Place(module=net)}, **SIZE)


def test_a_network_held_in_a_default_argument_is_known():
    assert 2 == len(strangers.in_inference_mode().modules)


def test_describing_a_model_leaves_its_batch_statistics_alone():
    net = nn.Sequential(nn.Conv2d(3, 1, 16, 16), nn.BatchNorm2d(1))
    with pytest.raises(TrainingMode):
        whole("trains", net, inputs=("image",), sites={"attending.tokens": Place(step="model")},
              **SIZE)  # fmt: skip
    assert net[1].num_batches_tracked.item() == 0


def test_a_module_site_that_lies_in_a_step_is_found_by_itself():
    model = strangers.with_state()
    assert isinstance(model.site("encoder.net").at, ModuleOutput)
    assert model.site("encoder.net").at.step == "relevance"


def test_the_digest_follows_weights_and_code():

    def made(seed):
        net = Part(run=seeded(lambda: nn.Conv2d(3, 1, 16, 16), seed), inputs=("image",))
        return describe("net", {"net": net, "tokens": lambda net: net[:, 0]}, **SIZE)

    one, same, other = made(0), made(0), made(1)
    assert one.digest == same.digest
    assert one.digest != other.digest
    assert describe("code", {"tokens": brightness}, **SIZE).digest != one.digest


def test_a_profile_can_be_a_mapping_whose_fields_are_checked():
    made = describe("p", {"tokens": brightness}, **SIZE, profile={"salience_query_free": False})
    assert ("p", False) == (made.profile.name, made.profile.salience_query_free)
    with pytest.raises(UnknownName, match="mean 'margins'"):
        describe("p", {"tokens": brightness}, **SIZE, profile={"margin": {}})
    with pytest.raises(BadModel, match="'margins' of the profile must be a Mapping, got 3"):
        describe("p", {"tokens": brightness}, **SIZE, profile={"margins": 3})


def test_every_field_of_the_declaration_can_be_given():
    given = {"ladder": (64.0, 256.0), "lod": (64.0, 256.0), "spatial_prior": True, "batch_size": 3}
    model = describe("declares", {"tokens": brightness}, **SIZE, **given)
    assert Declaration(**SIZE, **given) == model.declaration
