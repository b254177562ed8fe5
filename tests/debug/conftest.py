"""Cases on the analytic model, made once."""

import pytest

from arrcoc_verify.debug.bench import donor_scenes, make_donors
from arrcoc_verify.debug.planted import cases_of
from arrcoc_verify.reference import analytic


@pytest.fixture(scope="session")
def sound():
    return analytic.model()


@pytest.fixture(scope="session")
def cases(sound):
    return cases_of(sound)


@pytest.fixture(scope="session")
def donors(sound):
    return make_donors(sound, donor_scenes(sound))
