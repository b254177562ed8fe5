"""The Triton kernels give what the torch fallback gives; `test_triton_kernels.py` runs this file.

It is run in a process of its own, because Triton reads `TRITON_INTERPRET` when it is imported.
"""

import pytest
import torch

from arrcoc_verify.dictionary import kernels as fast
from arrcoc_verify.dictionary.kernels import primitives, triton_kernels, triton_step
from arrcoc_verify.dictionary.kernels import step as steps


@pytest.fixture
def kernels_everywhere(monkeypatch):
    """Let Triton have tensors of the CPU."""
    for module in (primitives, steps):
        monkeypatch.setattr(module, "triton_kernels", lambda where: triton_kernels)


def rounded(*shape):
    return torch.randn(*shape).round()


@pytest.mark.parametrize(("make", "rows", "columns", "k"), [
    (torch.randn, 3, 3000, 32),
    (torch.randn, 2, 40, 40),
    (torch.randn, 2, 1500, 1),
    (torch.randn, 1, 3000, 100),
    (lambda *shape: -torch.rand(*shape), 2, 2500, 7),
    (rounded, 2, 3000, 20),
    (torch.zeros, 2, 2000, 5),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_gives_its_largest_in_falling_order_ties_by_column(make, rows, columns, k, dtype):
    torch.manual_seed(rows + columns)
    pre = make(rows, columns).to(dtype)
    values, indices = triton_kernels.row_largest(pre, k)
    expected = pre.sort(dim=1, descending=True, stable=True)
    assert torch.equal(expected.values[:, :k], values)
    assert torch.equal(expected.indices[:, :k], indices)


def test_sums_and_products_are_those_of_the_fallback():
    torch.manual_seed(0)
    offsets = torch.tensor([0, 0, 3, 3, 20, 41, 50])
    indices, values, table = torch.randint(0, 30, (50,)), torch.randn(50), torch.randn(30, 70)
    torch.testing.assert_close(
        primitives.bag_sum(values, indices, offsets, table),
        triton_kernels.bag_sum(values, indices, offsets, table),
    )
    rows, left = torch.randint(0, 9, (50,)), torch.randn(9, 70)
    torch.testing.assert_close(
        primitives.bag_dot(left, rows, table, indices),
        triton_kernels.bag_dot(left, rows, table, indices),
    )


def parameters():
    torch.manual_seed(0)
    w_dec = torch.nn.functional.normalize(torch.randn(60, 20), dim=1)
    return {
        "w_enc": w_dec * 0.7, "b_enc": torch.randn(60) * 0.05, "w_dec": w_dec.clone(),
        "b_dec": torch.randn(20) * 0.1,
    }  # fmt: skip


@pytest.mark.parametrize("scope", ["row", "batch"])
@pytest.mark.usefixtures("kernels_everywhere")
def test_the_whole_backward_pass_runs_on_them(monkeypatch, scope):
    p, x = parameters(), torch.randn(16, 20)
    sizes, how = (20, 60), fast.Select(scope=scope)

    def found():
        codes = fast.encode_select(x, p["w_enc"], p["b_enc"], 4, how=how)
        decoded = fast.decode(codes, p["w_dec"], p["b_dec"], prefixes=sizes)
        term = fast.Term(codes=codes, grad=decoded - x, prefixes=sizes)
        return fast.backward([term], x, p["w_enc"], p["w_dec"])

    ours = found()
    monkeypatch.setattr(primitives, "triton_kernels", lambda where: None)
    expected = found()
    for name in ("w_enc", "b_enc", "w_dec", "b_dec", "along"):
        torch.testing.assert_close(getattr(expected, name), getattr(ours, name))


@pytest.mark.parametrize("scope", ["row", "batch"])
def test_fused_steps_train_as_plain_ones(monkeypatch, scope):
    torch.manual_seed(1)
    batches = [torch.randn(16, 20) for _ in range(3)]
    how = fast.Select(scope=scope)
    plain = steps.SparseStep(parameters(), 4, how=how)
    expected = [plain(x) for x in batches]
    assert plain.kernels is None
    for module in (primitives, steps):
        monkeypatch.setattr(module, "triton_kernels", lambda where: triton_kernels)
    fused = steps.SparseStep(parameters(), 4, how=how)
    assert triton_step is fused.kernels
    for x, want in zip(batches, expected, strict=True):
        torch.testing.assert_close(want, fused(x))
    for name in steps.TRAINED:
        for moment in ("", "mean_", "square_"):
            key = moment + name
            torch.testing.assert_close(plain.state[key], fused.state[key], rtol=1e-4, atol=1e-7)


def test_fused_steps_learn_in_bfloat16_as_in_float32(monkeypatch):
    torch.manual_seed(2)
    x = torch.randn(8, 20)
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        step = steps.SparseStep(parameters(), 4, dtype=dtype)
        step.rate.fill_(0.03)
        losses[dtype] = torch.stack([step(x).mean() for _ in range(4)])
        for module in (primitives, steps):
            monkeypatch.setattr(module, "triton_kernels", lambda where: triton_kernels)
    assert torch.bfloat16 == step.state["half_w_dec"].dtype
    torch.testing.assert_close(losses[torch.float32], losses[torch.bfloat16], rtol=0.02, atol=0)
    assert losses[torch.bfloat16][-1] < 0.7 * losses[torch.bfloat16][0]
    torch.testing.assert_close(torch.ones(60), step.state["w_dec"].norm(dim=1))
