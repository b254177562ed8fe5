"""What a run over planted failures says in figures."""

from arrcoc_verify.debug.planted import Row, summary


def row(name, **more):
    return Row(name=name, planted=("scorer_blind",), cause_first=True, mended=True, **more)


def test_a_verdict_that_the_fault_had_hidden_is_worse_but_no_harm():
    rows = [
        row("clean", flipped=(), harmed=()),
        row("hidden", flipped=("whole.paraphrase-is-stable",), harmed=()),
        row("harmed", flipped=("a", "b"), harmed=("b",)),
        Row(name="cheap", planted=("scorer_blind",), skipped="it costs too little"),
    ]
    found = summary(rows, "reference:analytic", 0)
    assert (found["n"], found["repaired"]) == (3, 1 / 3)
    assert found["figures"]["mended, no verdict worse"]["count"] == 1
    assert found["figures"]["mended, no verdict worse than the sound model's"]["count"] == 2
    assert [one["name"] for one in found["not_counted"]] == ["cheap"]


def test_what_the_sound_model_itself_would_have_reached_is_said_where_it_is_known():
    name = "no verdict worse with the sound model in its place"
    rows = [
        row("clean", flipped=(), harmed=(), hidden=()),
        row("hidden", flipped=("a",), harmed=(), hidden=("a",)),
    ]

    assert summary(rows, "reference:analytic", 0)["figures"][name]["count"] == 1
    older = [*rows, row("older", flipped=(), harmed=())]
    assert name not in summary(older, "reference:analytic", 0)["figures"]


def test_without_the_suite_nothing_is_said_of_verdicts():
    found = summary([row("clean")], "reference:analytic", 0)
    assert found["repaired"] is None
    assert "mended, no verdict worse" not in found["figures"]
