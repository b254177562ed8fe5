"""What several tests of dictionaries watch."""

import pytest

from arrcoc_verify.dictionary.kernels import selection


@pytest.fixture
def products(monkeypatch):
    """Return what every product of samples and encoder was asked: (dtype, samples, k)."""
    asked, original = [], selection.row_topk

    def watched(x, weight, bias, k, chunk):
        asked.append((x.dtype, len(x), k))
        return original(x, weight, bias, k, chunk)

    monkeypatch.setattr(selection, "row_topk", watched)
    return asked
