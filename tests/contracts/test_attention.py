"""What every registered attention promises: the softmax formula, in values and gradients, or a refusal.

The truth is computed in float64. Tolerances are relative to max|v| (values) and to the largest gradient.
"""

import copy
import math

import pytest
import torch

import zoo.attention  # noqa: F401
from vidiff.registry import ATTENTION

TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
GRADIENT = {torch.float64: 1e-12, torch.float32: 3e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def made(name):
    return ATTENTION[name].build(ATTENTION[name].tiny)


@pytest.fixture(params=[n for n in ATTENTION.names() if made(n).refuses("cpu", torch.float32, 16, True) is None])
def attention(request):
    """Every attention that runs on a CPU."""
    return made(request.param)


def accepts(attention, device, dtype, head_dim, masked):
    return attention.refuses(device, dtype, head_dim, masked) is None


def inputs(b, heads, n, m, d, seed=0):
    random = torch.Generator().manual_seed(seed)
    q, k, v, g = (torch.randn(b, heads, length, d, generator=random).double() for length in (n, m, m, n))
    return q, k, v, g


def square(attention, n, m):
    """(n, m), or (m, m) for an attention among neighbours, which only one sequence has."""
    return (m, m) if hasattr(attention, "seen") else (n, m)


def local(attention, n, m, mask):
    """The mask with the pairs left out that the attention does not look at by itself."""
    if not hasattr(attention, "seen"):
        return mask
    seen = attention.seen(n, m, torch.device("cpu"))
    return seen if mask is None else mask & seen


def truth(q, k, v, mask=None):
    """softmax(q k^T / sqrt(d)) v, row by row; a row that sees nothing is zero."""
    out = torch.zeros_like(q)
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(q.shape[-1])
    keep = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    for b, h, n in torch.cartesian_prod(*(torch.arange(s) for s in scores.shape[:3])).tolist():
        seen = keep[b, h, n]
        if seen.any():
            weights = scores[b, h, n][seen].exp()
            out[b, h, n] = (weights / weights.sum()) @ v[b, h][seen]
    return out


def compare(attention, q, k, v, g, mask=None, dtype=torch.float32, device="cpu"):
    cast = [x.to(dtype) for x in (q, k, v, g)]
    exact = [x.double().requires_grad_() for x in cast[:3]]
    tried = [x.to(device).requires_grad_() for x in cast[:3]]
    expected = truth(*exact, local(attention, q.shape[2], k.shape[2], mask))
    out = attention(*tried, None if mask is None else mask.to(device))
    assert out.dtype == dtype and out.shape == q.shape
    assert (out.cpu().double() - expected).abs().max() <= TOLERANCE[dtype] * v.abs().max()
    if (expected != 0).any():
        wanted = torch.autograd.grad(expected, exact, cast[3].double())
        got = torch.autograd.grad(out, tried, cast[3].to(device))
        largest = max(w.abs().max() for w in wanted)
        for a, b in zip(got, wanted, strict=True):
            assert (a.cpu().double() - b).abs().max() <= GRADIENT[dtype] * largest


SHAPES = [(2, 3, 11, 7, 16), (1, 2, 1, 1, 8), (3, 1, 5, 13, 9), (2, 2, 1, 6, 40), (1, 3, 33, 33, 24)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(attention, shape, dtype):
    b, heads, n, m, d = shape
    if accepts(attention, "cpu", dtype, d, False):
        compare(attention, *inputs(b, heads, *square(attention, n, m), d), dtype=dtype)


MASKS = {
    "causal": lambda n, m: torch.ones(n, m, dtype=torch.bool).tril(),
    "random": lambda n, m: torch.rand(2, 1, n, m, generator=torch.Generator().manual_seed(3)) > 0.4,
    "of_keys": lambda n, m: torch.tensor([[True] * m, [True] * 2 + [False] * (m - 2)])[:, None, None],
    "one_row_sees_nothing": lambda n, m: torch.arange(n)[:, None] != 1 + torch.zeros(m, dtype=torch.long),
    "nobody_sees_anything": lambda n, m: torch.zeros(1, 3, n, m, dtype=torch.bool),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", MASKS)
def test_masks_keep_what_is_true(attention, kind, dtype):
    if accepts(attention, "cpu", dtype, 16, True):
        n, m = square(attention, 6, 9)
        compare(attention, *inputs(2, 3, n, m, 16), mask=MASKS[kind](n, m), dtype=dtype)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ATTENTION.names())
def test_the_same_on_cuda(name):
    attention = made(name)
    for dtype in TOLERANCE:
        for b, heads, n, m, d in SHAPES:
            if accepts(attention, "cuda", dtype, d, False):
                compare(attention, *inputs(b, heads, *square(attention, n, m), d), dtype=dtype, device="cuda")
        for mask in MASKS.values():
            if accepts(attention, "cuda", dtype, 16, True):
                n, m = square(attention, 6, 9)
                compare(attention, *inputs(2, 3, n, m, 16), mask=mask(n, m), dtype=dtype, device="cuda")


def test_a_row_that_sees_nothing_is_zero_and_so_is_its_gradient(attention):
    n, m = square(attention, 4, 5)
    q, k, v, g = (x.float() for x in inputs(1, 2, n, m, 8))
    q.requires_grad_()
    mask = torch.ones(n, m, dtype=torch.bool)
    mask[2] = False
    out = attention(q, k, v, mask)
    assert (out[:, :, 2] == 0).all() and out.isfinite().all()
    grad = torch.autograd.grad(out, q, g)[0]
    assert (grad[:, :, 2] == 0).all() and grad.isfinite().all()


def test_large_scores_do_not_overflow(attention):
    q, k, v, _ = (x.float() for x in inputs(1, 1, *square(attention, 3, 4), 16))
    out = attention(300 * q, 300 * k, v)
    winner = torch.einsum("bhnd,bhmd->bhnm", q, k).argmax(-1)
    assert torch.allclose(out[0, 0], v[0, 0][winner[0, 0]], atol=1e-4)


def test_strided_heads_are_as_good_as_contiguous_ones(attention):
    qkv = torch.randn(2, 5, 3, 4, 8, generator=torch.Generator().manual_seed(1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    assert torch.allclose(attention(q, k, v), attention(*(x.contiguous() for x in (q, k, v))), atol=1e-6)


def test_inputs_are_left_alone(attention):
    n, m = square(attention, 4, 5)
    q, k, v, _ = (x.float() for x in inputs(1, 2, n, m, 8))
    mask = torch.rand(n, m, generator=torch.Generator().manual_seed(0)) > 0.5
    kept = [x.clone() for x in (q, k, v, mask)]
    attention(q, k, v, mask)
    assert all(torch.equal(a, b) for a, b in zip(kept, (q, k, v, mask), strict=True))


def test_it_can_be_copied(attention):
    q, k, v, _ = (x.float() for x in inputs(1, 2, *square(attention, 4, 5), 8))
    assert torch.equal(copy.deepcopy(attention)(q, k, v), attention(q, k, v))


@pytest.mark.parametrize("name", ATTENTION.names())
def test_refusals_are_one_line_and_name_a_way_out(name):
    for device in ("cpu", "cuda"):
        for dtype in TOLERANCE:
            reason = made(name).refuses(device, dtype, 17, True)
            assert reason is None or (reason.startswith(f"attention={name}") and "\n" not in reason)
