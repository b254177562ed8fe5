"""The pytest plugin: a user's tests say what a model does, and verdicts decide them.

    def test_salience_causes_tokens(arrcoc):
        arrcoc.causes("salience", region="target", at_least=2)

Only pytest and the standard library are imported until a test asks for a model. Results travel from
workers as plain JSON on the reports, so pytest-xdist changes nothing.
"""

from arrcoc_verify.pytest_plugin.hooks import (
    arrcoc,
    arrcoc_experiment,
    arrcoc_model,
    arrcoc_scenes,
    pytest_addoption,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_report_header,
    pytest_report_teststatus,
    pytest_runtest_makereport,
    pytest_runtest_setup,
)
from arrcoc_verify.pytest_plugin.saying import Arrcoc, ClaimFailed, ClaimInvalid

__all__ = [
    "Arrcoc",
    "ClaimFailed",
    "ClaimInvalid",
    "arrcoc",
    "arrcoc_experiment",
    "arrcoc_model",
    "arrcoc_scenes",
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_report_header",
    "pytest_report_teststatus",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
]
