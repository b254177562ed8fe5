"""Sessions inside the session: a user's test file against a small router."""

import functools
import importlib
import importlib.metadata
from pathlib import Path

import pytest

ROUTERS = Path(__file__).parents[1] / "e2e" / "routers.py"


@pytest.fixture(scope="session", autouse=True)
def scenes_once():
    """Compose scenes once: they are the same for every inner session, and nothing changes them."""
    audit = importlib.import_module("arrcoc_verify.audit")
    experiment = importlib.import_module("arrcoc_verify.experiment")
    importlib.import_module("arrcoc_verify.adapters")
    made = {}
    original = audit.scene_set

    @functools.wraps(original)
    def scene_set(model, images=None, **settings):
        key = (model.declaration.grid, str(images), *sorted(settings.items()))
        if key not in made:
            made[key] = original(model, images, **settings)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "scene_set", scene_set)
        # The kept positive controls belong to the code as it was last released.
        patch.setattr(experiment, "kept_controls", dict)
        yield


def installed():
    """Whether pytest finds the plugin by itself."""
    return bool(importlib.metadata.entry_points(group="pytest11", name="arrcoc"))


@pytest.fixture
def judge(pytester):
    """Run a user's file; returns pytest's result."""

    def run(source, *options, router="sound", per_cluster=1, cache=False):
        if source:
            pytester.makepyfile(test_mine=source)
        plugin = [] if installed() else ["-p", "arrcoc_verify.pytest_plugin"]
        model = [f"--arrcoc-model={ROUTERS}:{router}"] if router else []
        size = [f"--arrcoc-per-cluster={per_cluster}"] if router else []
        kept = [] if cache else ["-p", "no:cacheprovider"]
        return pytester.runpytest(*plugin, *kept, *model, *size, *options)

    return run
