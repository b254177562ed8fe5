"""What the plugin knows during one session: settings, the experiment, and what came back."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from arrcoc_verify.config import Config
from arrcoc_verify.pytest_plugin import options
from arrcoc_verify.pytest_plugin.marker import claims_of, makes_claims
from arrcoc_verify.verdict import Verdict, to_json, verdict_from_json

if TYPE_CHECKING:
    from arrcoc_verify.experiment import Experiment


class Session:
    """One pytest session.

    Attributes:
        settings: resolved options.
        family: number of claims that share alpha; known after collection.
        expected: ids of collected tests that make claims.
        ended: ids of those that came to an end.
        unready: ids of those whose setup failed.
        verdicts: (test, verdict) as they came back.
        gates: gate id -> result as JSON.
        about: model and pictures as JSON, for the record; empty until known.
    """

    def __init__(self, config: pytest.Config) -> None:
        """Read the options; a wrong one is a usage error of pytest."""
        self.settings: Config = options.read(config)
        self.family = self.settings.family or 1
        self.expected: set[str] = set()
        self.ended: set[str] = set()
        self.unready: set[str] = set()
        self.verdicts: list[tuple[str, Verdict]] = []
        self.gates: dict[str, Mapping[str, Any]] = {}
        self.about: dict[str, Any] = {}
        self._told: set[str] = set()
        self._announced = False
        self._experiment: Experiment | None = None

    @property
    def experiment(self) -> "Experiment":
        """The model on its scenes; loaded on first use.

        Raises:
            ArrcocError: the model or the pictures cannot be used.
        """
        if self._experiment is None:
            self._experiment = _make(self.settings, self.family)
        return self._experiment

    def collected(self, items: list[pytest.Item]) -> None:
        """Note which tests make claims, and how many claims share alpha."""
        mine = [item for item in items if makes_claims(item)]
        self.expected |= {item.nodeid for item in mine}
        self.family = self.settings.family or max(1, sum(claims_of(item) for item in mine))

    def news(self, verdicts: list[Verdict]) -> dict[str, Any]:
        """Return what a report carries to the controller: plain JSON."""
        experiment = self._experiment
        gates = {} if experiment is None else experiment.gates
        fresh = [gate for name, gate in gates.items() if name not in self._told]
        self._told |= {gate.id for gate in fresh}
        expected = [] if self._announced else sorted(self.expected)
        self._announced = True
        data = {
            "expected": expected,
            "family": self.family,
            "verdicts": to_json(verdicts),
            "gates": to_json(fresh),
            "about": {} if experiment is None else _about(experiment),
        }
        return dict(json.loads(json.dumps(data, allow_nan=False, default=float)))

    def receive(self, nodeid: str, news: Mapping[str, Any]) -> None:
        """Take what a report carried."""
        self.expected |= set(news["expected"])
        self.family = max(self.family, news["family"])
        self.verdicts += [(nodeid, verdict_from_json(one)) for one in news["verdicts"]]
        self.gates |= {one["id"]: one for one in news["gates"]}
        self.about = self.about or dict(news["about"])

    @property
    def lost(self) -> list[str]:
        """Tests that were collected and made no claim: no result came back, or setup failed."""
        return sorted(self.expected - self.ended)


SESSION = pytest.StashKey[Session]()
MADE = pytest.StashKey[list[Verdict]]()


def session_of(config: pytest.Config) -> Session:
    """Return the plugin's state of this session."""
    return config.stash[SESSION]


def _make(settings: Config, family: int) -> "Experiment":
    from arrcoc_verify.adapters import load
    from arrcoc_verify.audit import scene_set
    from arrcoc_verify.errors import BadConfig
    from arrcoc_verify.experiment import Experiment
    from arrcoc_verify.prepare import on_device, with_profile
    from arrcoc_verify.trial import Settings

    if settings.model is None:
        raise BadConfig(NO_MODEL)
    model = on_device(with_profile(load(settings.model), settings.profile), settings.device)
    scenes = scene_set(
        model, settings.images, per_cluster=settings.per_cluster, seed=settings.seed,
        skip_bad=settings.skip_bad_rows,
    )  # fmt: skip
    how = Settings(
        alpha=settings.alpha, confidence=settings.confidence, seed=settings.seed,
        per_cluster=settings.per_cluster, waivers=settings.waivers, device=settings.device,
    )  # fmt: skip
    return Experiment(model, scenes, how, family)


NO_MODEL = (
    "tests make claims, but no model is named: give --arrcoc-model SPEC, arrcoc_model in the ini "
    "file, or model under [tool.arrcoc_verify] in pyproject.toml"
)


def _about(experiment: "Experiment") -> dict[str, Any]:
    model, scenes = experiment.model, experiment.scenes
    return {
        "subject": {
            "name": model.name, "spec": model.spec or model.name, "adapter": model.adapter,
            "digest": model.digest, "declaration": to_json(model.declaration),
        },
        "data": {
            "name": scenes.name, "digest": scenes.digest, "scenes": len(scenes.asserted),
            "photographs": len({scene.unit for scene in scenes.asserted}),
            "roles": {"assert": len(scenes.asserted), "select": len(scenes.selected)},
        },
    }  # fmt: skip
