"""The sparse path gives what the dense formulas give: selection, reconstruction and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrcoc_verify.dictionary import kernels as fast
from arrcoc_verify.dictionary.kernels import selection
from arrcoc_verify.dictionary.kernels.primitives import bag_dot, largest
from arrcoc_verify.dictionary.kernels.selection import candidates
from arrcoc_verify.dictionary.kernels.step import Adam, SparseStep

SAMPLES, CHANNELS, LATENTS, K = 24, 10, 48, 5


def drawn(seed=0, samples=SAMPLES, channels=CHANNELS, latents=LATENTS, dtype=torch.float64):
    torch.manual_seed(seed)
    x = torch.randn(samples, channels, dtype=dtype)
    w_enc = torch.randn(latents, channels, dtype=dtype)
    b_enc = torch.randn(latents, dtype=dtype) * 0.1
    w_dec = torch.nn.functional.normalize(torch.randn(latents, channels, dtype=dtype), dim=1)
    b_dec = torch.randn(channels, dtype=dtype)
    return x, w_enc, b_enc, w_dec, b_dec


def dense_rows(pre, k):
    """TopK as everyone writes it."""
    top = pre.relu().topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values)


def dense_batch(pre, k):
    """BatchTopK as everyone writes it."""
    flat = pre.relu().flatten()
    top = flat.topk(round(k * pre.shape[0]))
    return torch.zeros_like(flat).scatter(0, top.indices, top.values).view_as(pre)


# Selection


@given(
    rows=st.integers(1, 6), columns=st.integers(1, 2100), share=st.floats(0, 1),
    seed=st.integers(0, 99), ties=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_grouped_search_finds_the_largest(rows, columns, share, seed, ties):
    torch.manual_seed(seed)
    values = torch.randn(rows, columns)
    values = values.round() if ties else values
    k = max(1, round(share * min(columns, 70)))
    found, places = largest(values, k)
    assert torch.equal(found, values.gather(1, places))
    assert all(len(set(row)) == k for row in places.tolist())
    expected = values.sort(dim=1, descending=True).values[:, :k]
    assert torch.equal(expected, found.sort(dim=1, descending=True).values)


def test_rows_select_their_k_largest_whatever_the_chunk():
    x, w_enc, b_enc, *_ = drawn()
    expected = dense_rows(x @ w_enc.T + b_enc, K)
    for chunk in (1, 7, SAMPLES, 1000):
        codes = fast.encode_select(x, w_enc, b_enc, K, how=fast.Select(chunk=chunk))
        torch.testing.assert_close(expected, codes.dense())
        assert SAMPLES * K == len(codes.values)


@pytest.mark.parametrize("k", [0.04, 1, 2.5, 5, 40, LATENTS])
def test_a_batch_selects_k_times_its_samples(k):
    x, w_enc, b_enc, *_ = drawn()
    codes = fast.encode_select(x, w_enc, b_enc, k, how=fast.Select(scope="batch"))
    torch.testing.assert_close(dense_batch(x @ w_enc.T + b_enc, k), codes.dense())
    assert round(k * SAMPLES) == len(codes.values)


def test_a_sample_that_takes_nearly_all_of_the_batch_gets_it():
    x, w_enc, b_enc, *_ = drawn()
    x[3] *= 1000
    codes = fast.encode_select(x, w_enc, b_enc, 1, how=fast.Select(scope="batch"))
    torch.testing.assert_close(dense_batch(x @ w_enc.T + b_enc, 1), codes.dense())
    assert codes.offsets.diff()[3] > LATENTS / 3


def test_only_the_latents_on_offer_are_selected():
    x, w_enc, b_enc, *_ = drawn()
    offered = torch.tensor([1, 5, 6, 17, 30, 31, 47])
    codes = fast.encode_select(x, w_enc, b_enc, 3, how=fast.Select(latents=offered))
    pre = torch.full((SAMPLES, LATENTS), -1.0, dtype=x.dtype)
    pre[:, offered] = (x @ w_enc.T + b_enc)[:, offered]
    torch.testing.assert_close(dense_rows(pre, 3), codes.dense())


def test_the_query_moves_what_is_compared():
    x, w_enc, b_enc, *_ = drawn()
    query, w_query = torch.randn(SAMPLES, 3, dtype=x.dtype), torch.randn(3, LATENTS, dtype=x.dtype)
    codes = fast.encode_select(x, w_enc, b_enc, K, shift=(query, w_query))
    torch.testing.assert_close(dense_rows(x @ w_enc.T + b_enc + query @ w_query, K), codes.dense())


def test_samples_without_positive_evidence_get_zeros():
    x, w_enc, _, w_dec, b_dec = drawn()
    nothing = torch.full((LATENTS,), -1e3, dtype=x.dtype)
    for scope in ("row", "batch"):
        codes = fast.encode_select(x, w_enc, nothing, K, how=fast.Select(scope=scope))
        assert not codes.values.any()
        torch.testing.assert_close(b_dec.expand_as(x), fast.decode(codes, w_dec, b_dec))


def test_impossible_numbers_of_latents_are_refused():
    x, w_enc, b_enc, *_ = drawn()
    with pytest.raises(ValueError, match="got 49"):
        fast.encode_select(x, w_enc, b_enc, LATENTS + 1)
    with pytest.raises(ValueError, match="whole number"):
        fast.encode_select(x, w_enc, b_enc, 2.5)
    with pytest.raises(ValueError, match=r"\(0, 2\], the latents on offer"):
        fast.encode_select(x, w_enc, b_enc, 3, how=fast.Select(latents=torch.tensor([0, 1])))


HARD = {
    "noise": lambda x, w, b: (x, w, b),
    "one loud channel": lambda x, w, b: (x + 300 * torch.eye(x.shape[1])[0], w, b),
    "far from the origin": lambda x, w, b: (x + 20, w + 0.2, b),
    "unequal norms": lambda x, w, b: (x, w * torch.logspace(-3, 2, len(w))[:, None], b),
    "large biases": lambda x, w, b: (x, w, b * 100),
    "few directions": lambda x, w, b: (x[:, :3] @ x[:3], w, b),
    "twins": lambda x, w, b: (x, w[: len(w) // 2].repeat(2, 1) * (1 + 1e-4 * b[:, None]), b * 0),
    "halves that cancel": lambda x, w, b: (
        x[:, :32].repeat(1, 2) * 50, torch.cat([w[:, :32], -w[:, :32] + 0.01 * w[:, 32:]], 1), b),
}  # fmt: skip


@pytest.mark.parametrize("kind", HARD)
def test_proposals_change_no_selection(kind):
    x, w_enc, b_enc = HARD[kind](*drawn(1, 200, 64, 4096, torch.float32)[:3])
    codes = fast.encode_select(x, w_enc, b_enc, 16, how=fast.Select(proposals=True))
    exact = x.double() @ w_enc.double().T + b_enc.double()
    values, chosen = codes.values.view(200, 16), codes.indices.view(200, 16)
    scale = x.norm(dim=1, keepdim=True) * w_enc.norm(dim=1).max() + b_enc.abs().max()
    rounding = 4e-6 * scale  # of float32 sums; bfloat16 is off by 1000 times this
    assert ((values - exact.gather(1, chosen).relu()).abs() < rounding).all()
    least = exact.topk(16, dim=1).values[:, -1:]
    assert (exact.gather(1, chosen) > least - 2 * rounding).all()
    assert all(len(set(row)) == 16 for row in chosen.tolist())


def test_proposals_are_used_and_rarely_doubted(products):
    x, w_enc, b_enc, *_ = drawn(2, 500, 256, 4096, torch.float32)
    fast.encode_select(x, w_enc, b_enc, 32, how=fast.Select(proposals=True))
    assert (torch.bfloat16, 500, candidates(32)) == products[0]
    assert all(dtype == torch.float32 and rows < 25 for dtype, rows, _ in products[1:])


# Decoding and gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_of_named_rows_are_the_same_by_either_way(dtype):
    torch.manual_seed(0)
    left, right = torch.randn(4, 70, dtype=dtype), torch.randn(9, 70, dtype=dtype)
    offsets = torch.tensor([0, 3, 3, 8, 10])  # the second row has none
    rows = torch.tensor([0, 0, 0, 2, 2, 2, 2, 2, 3, 3])
    indices = torch.tensor([8, 0, 3, 1, 7, 2, 0, 4, 8, 5])
    exact = (left.double() @ right.double().T)[rows, indices].to(dtype)

    near = {"rtol": 0.02, "atol": 0.05} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(exact, bag_dot(left, rows, right, indices), **near)
    torch.testing.assert_close(exact, bag_dot(left, rows, right, indices, offsets), **near)
    none = rows[:0]
    assert 0 == len(bag_dot(left, none, right, none, torch.zeros(5, dtype=torch.int64)))


def parameters(seed=0, query=False):
    x, *weights = drawn(seed)
    names = ["w_enc", "b_enc", "w_dec", "b_dec"]
    found = dict(zip(names, weights, strict=True))
    if query:
        found["w_query"] = torch.randn(3, LATENTS, dtype=x.dtype)
    return x, {name: value.requires_grad_() for name, value in found.items()}


def assert_same(p, found):
    for name, parameter in p.items():
        torch.testing.assert_close(parameter.grad, getattr(found, name), msg=name)


@pytest.mark.parametrize(("scope", "dense"), [("row", dense_rows), ("batch", dense_batch)])
def test_the_backward_pass_is_that_of_the_dense_formula(scope, dense):
    x, p = parameters()
    target = torch.randn_like(x)
    codes = dense((x - p["b_dec"]) @ p["w_enc"].T + p["b_enc"], K)
    decoded = codes @ p["w_dec"] + p["b_dec"]
    (decoded - target).square().sum().backward()

    centred = (x - p["b_dec"]).detach()
    sparse = fast.encode_select(centred, p["w_enc"], p["b_enc"], K, how=fast.Select(scope=scope))
    again = fast.decode(sparse, p["w_dec"], p["b_dec"])
    torch.testing.assert_close(decoded.detach(), again)
    term = fast.Term(codes=sparse, grad=2 * (again - target))
    found = fast.backward([term], centred, p["w_enc"], p["w_dec"])
    assert_same(p, found)
    along = (p["w_dec"].grad * p["w_dec"]).sum(1)
    torch.testing.assert_close(along.detach(), found.along)


def test_auxk_reaches_encoder_and_decoder_of_dead_latents_and_nothing_else():
    x, p = parameters()
    dead = torch.arange(30, 48)
    pre = (x - p["b_dec"]) @ p["w_enc"].T + p["b_enc"]
    alive = pre.clone()
    alive[:, dead] = -1
    decoded = dense_rows(alive, K) @ p["w_dec"] + p["b_dec"]
    left = (x - decoded).detach()
    aux = torch.zeros_like(pre).index_copy(1, dead, dense_rows(pre[:, dead], 4)) @ p["w_dec"]
    ((x - decoded).square().sum() + (left - aux).square().sum() / 32).backward()

    centred = (x - p["b_dec"]).detach()
    rest = fast.Select(latents=torch.arange(30))
    first = fast.encode_select(centred, p["w_enc"], p["b_enc"], K, how=rest)
    second = fast.encode_select(centred, p["w_enc"], p["b_enc"], 4, how=fast.Select(latents=dead))
    off = fast.decode(first, p["w_dec"], p["b_dec"]) - x
    missed = fast.decode(second, p["w_dec"]) + off
    terms = [
        fast.Term(codes=first, grad=2 * off),
        fast.Term(codes=second, grad=missed / 16, biased=False),
    ]
    found = fast.backward(terms, centred, p["w_enc"], p["w_dec"])
    assert_same(p, found)
    assert found.w_enc[dead].norm() > 0.01


def test_nested_prefixes_cost_one_decoding_and_share_gradients():
    x, p = parameters()
    sizes = (6, 20, LATENTS)
    codes = dense_batch((x - p["b_dec"]) @ p["w_enc"].T + p["b_enc"], K)
    nested = torch.stack([codes[:, :n] @ p["w_dec"][:n] + p["b_dec"] for n in sizes])
    (nested - x).square().sum().backward()

    centred = (x - p["b_dec"]).detach()
    sparse = fast.encode_select(centred, p["w_enc"], p["b_enc"], K, how=fast.Select(scope="batch"))
    again = fast.decode(sparse, p["w_dec"], p["b_dec"], prefixes=sizes)
    torch.testing.assert_close(nested.detach(), again)
    term = fast.Term(codes=sparse, grad=2 * (again - x), prefixes=sizes)
    assert_same(p, fast.backward([term], centred, p["w_enc"], p["w_dec"]))


@pytest.mark.parametrize("prefixes", [(), (8, LATENTS)])
def test_any_loss_differentiates_through_the_sparse_node(prefixes):
    def loss(decoded, values):
        return (decoded - 1).abs().pow(1.5).sum() + values.pow(1.3).sum()

    x, p = parameters(3, query=True)
    x.requires_grad_()
    query = torch.randn(SAMPLES, 3, dtype=x.dtype, requires_grad=True)
    codes = dense_rows((x - p["b_dec"]) @ p["w_enc"].T + p["b_enc"] + query @ p["w_query"], K)
    sizes = prefixes or (LATENTS,)
    nested = torch.stack([codes[:, :n] @ p["w_dec"][:n] + p["b_dec"] for n in sizes])
    kept = codes[codes > 0]
    loss(nested, kept).backward()
    expected = [t.grad.clone() for t in (x, query, *p.values())]
    for tensor in (x, query, *p.values()):
        tensor.grad = None

    weights = fast.Weights(**p, centre=p["b_dec"])
    decoded, sparse = fast.reconstruct(x, weights, K, query=query, prefixes=prefixes)
    loss(decoded, sparse.values[sparse.values > 0]).backward()
    for want, tensor in zip(expected, (x, query, *p.values()), strict=True):
        torch.testing.assert_close(want, tensor.grad)


def test_projection_leaves_what_turns_a_row_and_unit_norm_keeps_directions():
    x, p = parameters()
    sparse = fast.encode_select(x, p["w_enc"], p["b_enc"], K)
    term = fast.Term(codes=sparse, grad=torch.randn_like(x))
    found = fast.backward([term], x, p["w_enc"], p["w_dec"])
    w_dec = p["w_dec"].detach()
    expected = found.w_dec - (found.w_dec * w_dec).sum(1, keepdim=True) * w_dec
    torch.testing.assert_close(expected, fast.project_(found.w_dec, w_dec, found.along))
    longer = fast.unit_norm_(w_dec * torch.linspace(0.1, 9, LATENTS)[:, None])
    torch.testing.assert_close(w_dec, longer)


# Steps


@pytest.mark.parametrize(("scope", "dense"), [("row", dense_rows), ("batch", dense_batch)])
def test_a_step_is_adam_on_the_dense_loss_with_unit_decoder_rows(scope, dense):
    torch.manual_seed(4)
    x, p = parameters(4)
    step = SparseStep(
        {name: value.detach().clone() for name, value in p.items()}, K,
        how=fast.Select(scope=scope), settings=Adam(beta2=0.99),
    )  # fmt: skip
    step.rate.fill_(0.01)
    adam = torch.optim.Adam(p.values(), lr=0.01, betas=(0.9, 0.99))
    for _ in range(4):
        batch = torch.randn_like(x)
        codes = dense((batch - p["b_dec"]) @ p["w_enc"].T + p["b_enc"], K)
        losses = (codes @ p["w_dec"] + p["b_dec"] - batch).square().sum(1)
        adam.zero_grad()
        losses.mean().backward()
        with torch.no_grad():
            w, g = p["w_dec"], p["w_dec"].grad
            g -= (g * w).sum(1, keepdim=True) * w
            adam.step()
            w /= w.norm(dim=1, keepdim=True)
        torch.testing.assert_close(losses.detach(), step(batch))
    for name, parameter in p.items():
        torch.testing.assert_close(parameter.detach(), step.state[name], msg=name)


@pytest.mark.parametrize(("latents", "used"), [(1024, False), (2048, True)])
def test_proposals_are_for_large_encoders(latents, used, products, monkeypatch):
    monkeypatch.setattr(selection, "fast_bfloat16", lambda _: True)
    x, weight = torch.randn(8, 256), torch.randn(latents, 256)
    fast.encode_select(x, weight, torch.zeros(latents), 4)
    assert used == any(dtype == torch.bfloat16 for dtype, _, _ in products)
