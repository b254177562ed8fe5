import json

import pytest
import torch

from arrcoc_verify import audit
from arrcoc_verify.adapters import load
from arrcoc_verify.cli.ending import run as command
from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.pages import Answer, feature_pages, way_of
from arrcoc_verify.dictionary.splice import Splice
from arrcoc_verify.dictionary.storage import Kept, of_model, save_dictionary, weights_digest
from arrcoc_verify.errors import UnknownName, UsageError
from arrcoc_verify.faults.controls import FAULTS
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.reference.analytic import PLANTED
from arrcoc_verify.report import event
from arrcoc_verify.report.latents import render
from arrcoc_verify.report.record import Record
from arrcoc_verify.scenes.compose import scenes
from arrcoc_verify.suite.latents import choose, feature_claims, with_features
from arrcoc_verify.trial import Settings, try_model

SITES = {"information": "information_features", "salience": "salience_features",
         "query_relevance": "query_features"}  # fmt: skip


def true_dictionary(name):
    """The planted directions of a stage as a dictionary that knows them."""
    directions = PLANTED[name].directions
    config = DictionaryConfig(
        architecture="topk", d_in=48, latents=len(directions), k=min(12, len(directions))
    )
    made = Dictionary(config)
    with torch.no_grad():
        made.W_dec.copy_(directions / directions.norm(dim=1, keepdim=True))
        made.W_enc.copy_(made.W_dec)
    return Kept(dictionary=made, about={"site": f"knowing.{SITES[name]}"})


@pytest.fixture(scope="module")
def lab():
    return Lab(load("reference:analytic"), scenes("select", per_cluster=1))


@pytest.mark.parametrize("name", SITES)
def test_latents_that_answer_cause_tokens_and_random_directions_do_not_as_much(name, lab):
    (claim,) = feature_claims(lab, [true_dictionary(name)])
    found = claim.measure(lab)
    assert float(found.values.mean()) > 4.0
    assert float(found.values.mean()) > 2 * float(found.placebos.mean()) + 4.0


@pytest.mark.parametrize("name", SITES)
def test_where_the_score_goes_around_its_features_they_cause_nothing(name):
    (fault,) = [one for one in FAULTS if one.name == f"score-around-features:{name}"]
    model = fault.make()
    selected, asserted = (Lab(model, scenes(role, per_cluster=1)) for role in ("select", "assert"))
    claims = feature_claims(selected, [true_dictionary(name)])
    (verdict,) = try_model(asserted, selected, claims, [], Settings()).verdicts
    assert verdict.outcome == "refuted"
    assert (verdict.effect.value, verdict.null.value) == (0.0, 0.0)


def test_placebos_write_as_much_as_ablating_does_patch_by_patch(lab):
    kept = true_dictionary("information")
    splice = Splice(lab.clean, kept.site, kept.dictionary)
    latents = choose(lab, kept, "information")
    way = torch.nn.functional.normalize(torch.arange(1.0, 49, dtype=torch.float64), dim=0)
    native = lab.clean[kept.site].double()
    gone = splice.ablate(latents).value.double() - native
    pushed = splice.push(splice.contribution(latents), way).value.double() - native
    assert float(gone.norm(dim=-1).max()) > 0.1
    assert torch.allclose(pushed.norm(dim=-1), gone.norm(dim=-1), atol=1e-6)
    assert torch.allclose(pushed, pushed.norm(dim=-1, keepdim=True) * way, atol=1e-6)


def test_a_dictionary_that_answers_to_nothing_has_no_such_claim(lab):
    kept = true_dictionary("information")
    with torch.no_grad():
        kept.dictionary.W_enc.zero_()
    (claim,) = feature_claims(lab, [kept])
    with pytest.raises(NotApplicable, match=r"no latent of the dictionary of knowing\.information"):
        claim.measure(lab)


def test_without_a_dictionary_there_is_no_claim(lab):
    assert feature_claims(lab, []) == []


def test_what_the_image_alone_decides_never_answers_to_the_query(lab):
    for name in ("information", "salience"):
        for page in feature_pages(lab, true_dictionary(name), 4):
            assert page.answers["query"].value == 0.0
            assert page.way in ("propositional", "perspectival", "unclear")
            assert page.top[0]["code"] >= page.top[-1]["code"]
            assert page.top[0]["picture"].startswith("data:image/webp;base64,")


def test_few_photographs_say_nothing_of_a_latent(lab):
    with pytest.raises(NotApplicable, match="8 independent"):
        feature_pages(lab.subset(range(3)), true_dictionary("salience"), 1)


def test_the_way_of_knowing_is_what_surely_answers():
    yes, no = Answer(value=0.5, low=0.2, high=0.8), Answer(value=0.5, low=-0.1, high=1.1)
    small = Answer(value=-0.1, low=-0.2, high=-0.05)
    assert way_of({"information": yes, "salience": small, "query": no}) == "propositional"
    assert way_of({"information": small, "salience": yes, "query": no}) == "perspectival"
    assert way_of({"information": no, "salience": no, "query": yes}) == "participatory"
    assert way_of({"information": yes, "salience": no, "query": yes}) == "transjective"
    assert way_of({"information": no, "salience": no, "query": no}) == "unclear"


def test_the_page_escapes_what_a_model_put_into_its_names():
    page = render("<script>alert(1)</script>", [], {"<b>": []})
    assert "<script>alert" not in page
    assert "&lt;b&gt;" in page


def test_the_command_judges_and_makes_a_page(tmp_path, capsys):
    save_dictionary(tmp_path / "s", true_dictionary("query_relevance"))
    told = tmp_path / "told.json"
    asked = ["features", str(tmp_path), "--count", "2", "--json", str(told)]
    code = command(asked)
    found = json.loads(told.read_text())
    (claim,) = found["claims"]
    assert claim["effect"]["n"] == 22  # every cluster of the scenes that are asserted on
    assert code == {"holds": 0, "refuted": 1, "inconclusive": 3}[claim["outcome"]]
    assert len(found["sites"]["knowing.query_features"]) == 2
    assert (tmp_path / "features.html").read_text().count("data:image/webp") >= 2
    assert "tokens when ablated" in capsys.readouterr().out
    assert command(["features", str(tmp_path / "nothing")]) == 2


@pytest.mark.parametrize("asked", [["features"], ["audit", "--out", "{}/audit", "--dictionaries"]])
def test_two_dictionaries_of_one_site_are_refused_and_named(asked, tmp_path, capsys):
    for name in ("one", "two"):
        save_dictionary(tmp_path / name, true_dictionary("query_relevance"))
    assert command([*(text.format(tmp_path) for text in asked), str(tmp_path)]) == 4
    said = capsys.readouterr().err
    assert "one dictionary of knowing.query_features, found 2" in said
    assert all(str(tmp_path / name) in said for name in ("one", "two"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


QUERY_CLAIM = "knowing.query-latents-cause-tokens"


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    model = load("reference:analytic")
    return audit.run_audit(
        model, audit.scene_set(model, per_cluster=1), Settings(claims=("knowing.*-latents-*",)),
        tmp_path_factory.mktemp("audit") / "run", controls=dict,
        dictionaries=[true_dictionary("query_relevance")],
    )  # fmt: skip


def test_an_audit_with_dictionaries_judges_their_features(audited):
    (verdict,) = audited.verdicts
    assert verdict.id == QUERY_CLAIM
    assert verdict.n == 22
    assert verdict.effect.low > 0  # beyond the placebos, over 22 clusters


def test_its_record_has_what_the_latents_are_and_its_page_shows_them(audited):
    record = Record.load(audited.folder)  # strict: every picture that is named must be there
    (features,) = record.of(event.Features)
    assert features.site == "knowing.query_features"
    assert "query" in {row.chosen for row in features.rows}
    assert all(0 < row.density <= 1 and row.top for row in features.rows)
    codes = [top.code for top in features.rows[0].top]
    assert codes == sorted(codes, reverse=True)
    page = audited.report.read_text()
    assert 'id="features"' in page
    assert page.count("with its neighbours") == sum(len(row.top) for row in features.rows)


def test_a_lost_picture_of_a_patch_is_missed(audited, tmp_path):
    record = Record.load(audited.folder)
    sha = record.of(event.Features)[0].rows[0].top[0].image
    held = audited.folder / "images" / f"{sha}.webp"
    data = held.read_bytes()
    held.unlink()
    try:
        problems = Record.load(audited.folder, strict=False).problems
    finally:
        held.write_bytes(data)
    assert any("a patch of knowing.query_features refers to" in text for text in problems)


def test_latents_are_chosen_on_the_selection_scenes_once_and_only_when_measured(lab, monkeypatch):
    from arrcoc_verify.suite import latents

    labs = []
    plain = latents.choose
    monkeypatch.setattr(latents, "choose", lambda *given: labs.append(given[0]) or plain(*given))
    (claim,) = feature_claims(lab, [true_dictionary("query_relevance")])
    assert labs == []
    others = lab.subset(range(4))
    claim.measure(others)
    claim.measure(others)
    assert labs == [lab]


def test_patterns_choose_among_built_in_claims_and_features(lab):
    features = feature_claims(lab, [true_dictionary("query_relevance")])
    everything = with_features(["*"], features)
    assert [one.id for one in everything][-1] == QUERY_CLAIM
    assert [one.id for one in with_features([QUERY_CLAIM], features)] == [QUERY_CLAIM]
    assert QUERY_CLAIM not in [one.id for one in with_features(["balancing.*"], features)]
    with pytest.raises(UnknownName):
        with_features([QUERY_CLAIM], [])


def test_dictionaries_of_another_model_are_refused(tmp_path):
    save_dictionary(tmp_path / "one", true_dictionary("salience"))
    (found,) = of_model(tmp_path, ["knowing.salience_features"], "mine")
    assert found.site == "knowing.salience_features"
    with pytest.raises(UsageError, match=r"autoencoder of a site of mine; .* knowing"):
        of_model(tmp_path, ["elsewhere"], "mine")


def test_the_digest_of_weights_changes_with_any_of_them():
    one, other = true_dictionary("salience"), true_dictionary("salience")
    assert weights_digest([one]) == weights_digest([other])
    with torch.no_grad():
        other.dictionary.b_enc[0] += 1e-6
    assert weights_digest([one]) != weights_digest([other])
    assert weights_digest([one, one]) != weights_digest([one])
