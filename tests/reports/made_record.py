"""Makes a realistic record without any engine: 60 claims of six outcomes, 12 cases with maps."""

import csv
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from arrcoc_verify.report import event as ev
from arrcoc_verify.report.record import Record
from arrcoc_verify.report.writer import Header, RecordWriter
from arrcoc_verify.verdict import Case, Estimate, GateResult, Outcome, Suspect, Verdict, Waiver

GRID = (12, 16)
H, R, Q, X, A, N = (
    Outcome.HOLDS,
    Outcome.REFUTED,
    Outcome.INCONCLUSIVE,
    Outcome.INVALID,
    Outcome.NOT_APPLICABLE,
    Outcome.NOT_RUN,
)


def _claims() -> tuple[tuple[str, str, Outcome, float | None, float, float | None, str, str], ...]:
    """Return id, kind, outcome, effect, half width, margin, unit and sentence of every claim."""
    with (Path(__file__).parent / "made_claims.csv").open(newline="") as file:
        return tuple(
            (
                r["id"],
                r["kind"],
                Outcome(r["outcome"]),
                float(r["effect"]) if r["effect"] else None,
                float(r["half_width"]),
                float(r["margin"]) if r["margin"] else None,
                r["unit"],
                r["sentence"],
            )
            for r in csv.DictReader(file)
        )


CLAIMS = _claims()
QUERIES = (
    "find the fish",
    "where is the hammer?",
    "the red cup on the table",
    "أين السمكة الزرقاء؟",
)
PALETTE = ((92, 122, 138), (150, 132, 104), (104, 128, 96), (134, 108, 122))


def make_record(folder: Path, hostile: str | None = None, cases: int = 12) -> Record:
    """Write a record and read it back; `hostile` is put into every text that a user controls."""
    rng = np.random.default_rng(20251122)
    writer = RecordWriter(folder, _header(hostile))
    _gates(writer, hostile)
    left = cases
    for number, row in enumerate(CLAIMS):
        outcome = row[2]
        want = min(left, {R: 3, Q: 1, X: 1}.get(outcome, 0)) if cases <= 12 else left
        take = min(want, max(1, cases // 8)) if cases > 12 else want
        left -= take
        _claim(writer, rng, number, take, hostile)
    _research(writer, rng, hostile)
    writer.finish(seconds=214.6, peak_mib=1312.4, completed_at="2025-11-22T10:18:49Z")
    return Record.load(folder)


def _header(hostile: str | None) -> Header:
    h = hostile
    return Header(
        command=h or "arrcoc-verify audit --model shop.toml --images photographs/ --seed 20251122",
        subject={
            "name": h or "shopfront-allocator 2.3",
            "spec": h or "shop.toml",
            "adapter": h or "callables",
            "digest": "sha256:" + hashlib.sha256(b"weights").hexdigest(),
            "declaration": {
                "budget_kind": "per-patch LOD",
                "floor": 64,
                "ceiling": 400,
                "total": 24576,
                "grid": "12 × 16",
                "query path": h or "global",
                "batch invariant": True,
            },
        },
        data={
            "name": h or "photographs",
            "digest": "sha256:" + hashlib.sha256(b"d").hexdigest(),
            "photographs": 164,
            "scenes": 312,
            "roles": {"train": 0, "select": 48, "donor": 24, "assert": 72, "repair-confirm": 20},
        },
        config={
            "alpha": 0.01,
            "family": "holm",
            "profile": h or "default",
            "device": "cpu",
            "margins": {"tokens": 16, "weight": 0.05},
            "batch": 16,
        },
        environment={
            "python": "3.11.7",
            "platform": h or "Linux-6.1-x86_64",
            "machine": "x86_64",
            "cores": 2,
            "packages": {"torch": "2.13.0+cpu", "timm": "1.0.31", "numpy": "2.4.6"},
            "variables": {"OMP_NUM_THREADS": "1"},
            "git": {"commit": "5f0c2c1b7a9d4e6f8123456789abcdef01234567", "dirty": False},
        },
        seed=20251122,
        planned=[row[0] for row in CLAIMS],
        tool={"name": "arrcoc-verify", "version": "0.1.0", "digest": "sha256:" + "ab" * 32},
        selftest=None
        if h is None
        else {"rates": [{"name": h, "share": 0.9, "low": 0.8, "high": 0.95, "n": 56}]},
        responsible=({"name": h or "N. Okafor", "role": h or "ran the audit"},),
        started_at="2025-11-22T10:15:14Z",
        run_id="20251122T101514Z-7c1d",
    )


def _gates(writer: RecordWriter, hostile: str | None) -> None:
    with (Path(__file__).parent / "made_gates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        writer.add_gate(
            GateResult(
                id=row["id"],
                sentence=hostile or row["sentence"],
                stage=row["stage"],
                passed={"True": True, "False": False, "": None}[row["passed"]],
                reason=(hostile or row["reason"]) if row["reason"] else "",
                measured=float(row["measured"]) if row["measured"] else None,
                limit=float(row["limit"]) if row["limit"] else None,
                unit="relative",
            )
        )


def _reason(outcome: Outcome, kind: str) -> str:
    return {
        H: "the whole interval lies on the claimed side of the margin; all controls did their part",
        R: "the whole interval lies on the other side of the margin",
        Q: "the interval straddles the margin",
        X: "gate knowing.query-liveness failed: without a live query this reading means nothing",
        A: "the model declares no such stage",
        N: "no case in the assert role met what this claim needs",
    }[outcome]


def _claim(
    writer: RecordWriter, rng: np.random.Generator, number: int, take: int, h: str | None
) -> None:
    name, kind, outcome, value, half, margin, unit, sentence = CLAIMS[number]
    n = 0 if value is None else int(36 + 12 * (number % 3))
    units = names = None
    effect = null = None
    if value is not None:
        effect = Estimate(
            value=value,
            low=value - half,
            high=value + half,
            level=0.99,
            n=n,
            unit=h or unit,
            method=h or "bootstrap-t",
        )
        null = Estimate(
            value=half / 9,
            low=-half / 2,
            high=half / 1.6,
            level=0.99,
            n=n,
            unit=unit,
            method="bootstrap-t",
        )
        units = value + rng.normal(size=n) * half * 2
        names = [f"photograph-{i:03d}" for i in range(n)]
    verdict = Verdict(
        id=name,
        sentence=h or sentence + ".",
        stage=name.split(".")[0],
        kind=kind,
        outcome=outcome,
        reason=h or _reason(outcome, kind),
        operation=h or _operation(kind),
        source=h or "default profile",
        required=name != "knowing.crop-invariance",
        effect=effect,
        null=null,
        margin=margin,
        p_value=None if value is None else 0.0004 + 0.01 * (outcome is Q),
        p_adjusted=None if value is None else 0.0032 + 0.05 * (outcome is Q),
        n=n,
        n_needed=int(n * 2.4) if outcome is Q else None,
        exercise={"cases": n * 4, "batch > 1": n, "ties": 12} if n else {},
        controls={"planted fault": "fired", "spiked effect": "fired", "sound model": "silent"}
        if n
        else {"planted fault": "not_run"},
        failed_gates=("knowing.query-liveness",) if outcome is X else (),
        worst=[_case(writer, rng, name, i, value or 0.0, half, h) for i in range(take)],
        numbers={"violations": 3.0, "fraction above": 0.12} if outcome is R else {},
        waiver=Waiver(
            claim=name,
            reason=h or "known; the next encoder mends it",
            author=h or "M. Ito",
            expires="2026-03-01",
        )
        if name == "balancing.self-report-true"
        else None,
        seconds=3.2,
    )
    writer.add_claim(verdict, units, names or ())


def _operation(kind: str) -> str:
    return {
        "no_effect": "edit the input, hold the rest; the root mean square change is bounded",
        "causes": "patch the region's score from the contrast pair and read the target's tokens",
        "mediates": "patch upstream with and without freezing the mediator",
    }.get(kind, "read the declared quantity at its site in every scene and compare")


def _picture(rng: np.random.Generator, seed: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    width, height = 640, 480
    colour = np.array(PALETTE[seed % 4], dtype=float)
    noise = rng.normal(size=(height // 20, width // 20, 3)) * 26 + colour
    image = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).resize((width, height))
    draw = ImageDraw.Draw(image)
    x, y = 40 * (2 + seed * 3 % 9), 40 * (2 + seed * 5 % 6)
    draw.ellipse((x, y, x + 160, y + 120), fill=(214, 96, 60))
    draw.polygon([(x + 150, y + 60), (x + 200, y + 20), (x + 200, y + 100)], fill=(190, 70, 48))
    draw.rectangle((560 - x // 2, 330 - y // 3, 620 - x // 2, 430 - y // 3), fill=(52, 78, 128))
    return image, (x, y, 200, 120)


def _case(
    writer: RecordWriter,
    rng: np.random.Generator,
    claim: str,
    number: int,
    value: float,
    half: float,
    h: str | None,
) -> Case:
    seed = int(hashlib.sha256(f"{claim}{number}".encode()).hexdigest()[:6], 16)
    image, region = _picture(rng, seed)
    rows, columns = GRID
    yy, xx = np.mgrid[0:rows, 0:columns]
    cx, cy = (region[0] + 100) / 40, (region[1] + 60) / 40
    bump = np.exp(-(((xx - cx) / 3) ** 2 + ((yy - cy) / 2.2) ** 2))
    scores = {
        "information": np.clip(0.25 + 0.5 * bump + 0.09 * rng.normal(size=GRID), 0, 1),
        "salience": np.clip(0.2 + 0.7 * bump + 0.05 * rng.normal(size=GRID), 0, 1),
        "query": 0.503 + 0.002 * rng.normal(size=GRID),
    }
    weights = np.stack([np.full(GRID, w) for w in (0.22, 0.2, 0.58)])
    relevance = sum(w * s for w, s in zip((0.22, 0.2, 0.58), scores.values(), strict=True))
    tokens = np.round(64 + 336 * np.clip((relevance - 0.38) / 0.3, 0, 1) ** 1.5)
    maps = {name: writer.put_array(score.astype(np.float32)) for name, score in scores.items()}
    maps["weights"] = writer.put_array(weights.astype(np.float32))
    maps["relevance"] = writer.put_array(relevance.astype(np.float32))
    maps["tokens"] = writer.put_array(tokens.astype(np.float32))
    got = float(tokens[int(cy), int(cx)])
    steps = (
        ("equal share", 128.0),
        ("information", 151.0),
        ("salience", 173.0),
        ("query", got + 25.0),
        ("conserved budget", got),
    )
    case_id = hashlib.sha256(f"{claim}|{number}|{h or ''}".encode()).hexdigest()[:12]
    return Case(
        id=case_id,
        scene=h or f"harbour-{seed % 97:02d}",
        query=h or QUERIES[seed % 4],
        effect=value + half * (1 + number),
        image=writer.put_image(image),
        maps=maps,
        region=region,
        waterfall=tuple((h or label, tokens) for label, tokens in steps),
        replay=h or f"arrcoc-verify debug --record reports/20251122T101514Z-7c1d --case {case_id}",
    )


def _research(writer: RecordWriter, rng: np.random.Generator, h: str | None) -> None:
    sources = (
        ("information", 0.31),
        ("salience", 0.24),
        ("query", 0.04),
        ("interactions", 0.09),
        ("position", 0.02),
        ("nuisance", 0.30),
    )
    writer.add(
        ev.Decomposition(
            shares=[
                ev.Share(source=h or s, share=v, low=max(0.0, v - 0.035), high=v + 0.04)
                for s, v in sources
            ],
            level=0.95,
            n=48,
            method="balanced factorial, bootstrap over clusters",
        )
    )

    def estimate(value: float, half: float) -> Estimate:
        return Estimate(
            value=value,
            low=value - half,
            high=value + half,
            level=0.99,
            n=48,
            unit="tokens",
            method="bootstrap-t",
        )

    rows = [
        ev.EffectRow(
            scorer=h or name,
            total=estimate(t, 7),
            local=estimate(t * 1.3, 8),
            unrepaired=estimate(t * 1.5, 9),
            mediated=estimate(-t * 0.3, 3),
            analytic={"total": t * 1.02, "local": t * 1.31},
        )
        for name, t in (("information", 41.2), ("salience", 33.8), ("query", 3.1))
    ]
    writer.add(ev.Effects(rows=rows))
    factors = ("information", "salience", "query")
    writer.add(
        ev.Isolation(
            rows=[
                ev.IsolationRow(
                    edited=h or a,
                    measured=h or b,
                    movement=1.8 if a == b else 0.04 + 0.1 * ((i + 2 * j) % 3),
                    limit=None if a == b else 0.2,
                )
                for i, a in enumerate(factors)
                for j, b in enumerate(factors)
            ],
            kept={"information": 140, "salience": 131, "query": 156},
            dropped={"information": 16, "salience": 25, "query": 0},
        )
    )
    points = [
        ev.TensionPoint(
            scene=h or f"harbour-{i:02d}",
            query=h or QUERIES[i % 4],
            values={
                "compress–particularise": float(
                    np.clip(0.5 + 0.13 * rng.normal() + 0.1 * (i % 4), 0, 1)
                ),
                "exploit–explore": float(np.clip(0.35 + 0.1 * rng.normal() + 0.05 * (i % 4), 0, 1)),
                "focus–diversify": float(np.clip(0.6 + 0.05 * rng.normal(), 0, 1)),
            },
        )
        for i in range(48)
    ]
    writer.add(ev.Tension(points=points))
    sites = (
        ("encoder.texture", "encoder", (13, 12, 16)),
        ("knowing.information", "knowing", (192,)),
        ("knowing.salience", "knowing", (192,)),
        ("knowing.query", "knowing", (192,)),
        ("balancing.tensions", "balancing", (3,)),
        ("balancing.weights", "balancing", (192, 3)),
        ("attending.relevance", "attending", (192,)),
        ("attending.tokens", "attending", (192,)),
    )
    writer.add(
        ev.Sites(
            rows=[
                ev.SiteRow(name=h or n, stage=s, shape=shape, dtype="float32")
                for n, s, shape in sites
            ]
        )
    )
    writer.add(
        Suspect(
            stage=h or "balancing", part=h or "balancing", site=h or "balancing.mix",
            reason=h or "3 of 4 refuted claims speak of it",
        )
    )  # fmt: skip
    writer.add(ev.Note(level="warning", text=h or "3 photographs were smaller than the grid"))


if __name__ == "__main__":
    import sys

    made = make_record(Path(sys.argv[1]), cases=int(sys.argv[2]) if len(sys.argv) > 2 else 12)
    print(made.run["counts"])
