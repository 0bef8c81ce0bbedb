"""Plain products: short and long rows against the formula in float64, in every precision."""

import pytest
import torch

from vidiff.gate import TOLERANCE, formula
from zoo.attention.matmul import SHORT, MatMul


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("keys", [7, SHORT - 1, SHORT, 45])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_short_and_long_rows_are_the_formula(dtype, keys, masked):
    dice = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(2, 3, n, 10, generator=dice).to(dtype) for n in (5, keys, keys))
    mask = torch.rand(2, 1, 5, keys, generator=dice) > 0.5 if masked else None
    out, truth = MatMul()(q, k, v, mask), formula(q.double(), k.double(), v.double(), mask)
    assert out.dtype == dtype
    assert (out.double() - truth).abs().max() < TOLERANCE[dtype][0] * v.double().abs().max()


def test_heads_that_are_views_of_one_projection():
    qkv = torch.randn(2, 9, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)  # (B,heads,N,Dh), strided
    out = MatMul()(*qkv)
    torch.testing.assert_close(out, MatMul()(*(y.contiguous() for y in qkv)), rtol=0, atol=1e-6)
