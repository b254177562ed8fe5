from arrcoc_verify.report.audit_json import audit_json
from arrcoc_verify.report.record import Record


def test_it_has_exactly_what_was_promised(record: Record) -> None:
    data = audit_json(record, "page.html")
    assert ["model", "claims", "gates", "report", "seconds", "peak_mib"] == list(data)
    claim = next(c for c in data["claims"] if c["id"] == "query.paraphrase-bounded")
    assert {
        "id": "query.paraphrase-bounded",
        "stage": "query",
        "verdict": "refuted",
        "effect": 21.5,
        "interval": [16.3, 26.7],
        "n": 36,
        "reason": "the whole interval lies on the other side of the margin",
    } == claim
    gate = next(g for g in data["gates"] if g["id"] == "knowing.query-liveness")
    assert ["id", "passed", "reason"] == list(gate)
    assert gate["passed"] is False
    assert ("shopfront-allocator 2.3", "page.html") == (data["model"], data["report"])
    assert (214.6, 1312.4) == (data["seconds"], data["peak_mib"])


def test_a_claim_without_a_size_has_null(record: Record) -> None:
    claim = next(c for c in audit_json(record)["claims"] if c["verdict"] == "not_applicable")
    assert (None, None) == (claim["effect"], claim["interval"])
