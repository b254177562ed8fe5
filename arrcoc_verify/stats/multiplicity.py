"""Adjusting for many claims: Holm on p, Holm and BH on e-values, BH for exploration only.

Source: Holm 1979; Benjamini & Hochberg 1995; Wang & Ramdas 2022 (e-BH). The result is always in
the order of the input. Max-t, for claims that share units, is `permutation.max_t`. Written out
here because statsmodels' `multipletests` takes 30 ms a call and a second to import; tests hold the
two against each other.
"""

import numpy as np

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.sample import FloatArray, Values, finite_units


def _p_values(p: Values) -> FloatArray:
    values = finite_units(p, "p-values", least=0)
    if values.size and not bool(((values >= 0.0) & (values <= 1.0)).all()):
        raise UsageError("p-values: wanted numbers in 0..1")
    return values


def holm(p: Values) -> FloatArray:
    """Return Holm-adjusted p-values: family-wise error control under any dependence.

    Args:
        p: one p-value per claim of the family, shape [m]; m may be 0.

    Raises:
        NonFinite: a p-value is NaN.
        UsageError: a p-value outside 0..1.
    """
    values = _p_values(p)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def bh(p: Values) -> FloatArray:
    """Return Benjamini-Hochberg q-values: for exploratory maps only, never for verdicts.

    Controls the false discovery rate under independence or positive dependence.

    Args:
        p: one p-value per cell of the map, shape [m]; m may be 0.

    Raises:
        NonFinite: a p-value is NaN.
        UsageError: a p-value outside 0..1.
    """
    values = _p_values(p)
    order = np.argsort(values, kind="stable")[::-1]
    steps = values[order] * (values.size / np.arange(values.size, 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(steps))
    return adjusted


def _as_p(e: Values) -> FloatArray:
    values = np.asarray(e, dtype=np.float64)
    finite_units(np.where(np.isposinf(values), 0.0, values), "e-values", least=0)
    if bool((values < 0.0).any()):
        raise UsageError("e-values: wanted numbers >= 0")
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(np.minimum(1.0, 1.0 / values), dtype=np.float64)


def e_holm(e: Values) -> FloatArray:
    """Return anytime-valid family-wise adjusted p-values from e-values (Holm on 1 / e).

    A claim is shown at level alpha when its value is <= alpha. Valid under any dependence.

    Args:
        e: one e-value per claim, shape [m], each >= 0; infinity is allowed.

    Raises:
        NonFinite: an e-value is NaN.
        UsageError: a negative e-value.
    """
    return holm(_as_p(e))


def e_bh(e: Values) -> FloatArray:
    """Return e-BH adjusted values: false discovery rate control under any dependence.

    The k-th largest e-value is rejected at level alpha when k * e_(k) / m >= 1 / alpha for it or
    for a smaller one; that is BH on 1 / e, without BH's condition on the dependence.

    Args:
        e: one e-value per claim, shape [m], each >= 0; infinity is allowed.

    Raises:
        NonFinite: an e-value is NaN.
        UsageError: a negative e-value.
    """
    return bh(_as_p(e))
