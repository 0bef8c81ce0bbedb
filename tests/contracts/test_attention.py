"""What every registered attention promises on CUDA; vidiff.checks.attention has the rest, test_checks.py runs it."""

import pytest
import torch

import zoo.attention  # noqa: F401
from vidiff.checks.attention import EMPTY, GRADIENTS, MASKS, SHAPES, VALUES, compare, square
from vidiff.registry import ATTENTION


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ATTENTION.names())
def test_the_same_on_cuda(name):
    attention = ATTENTION[name].build(ATTENTION[name].tiny)

    def near(shape, mask, dtype):
        values, gradients = compare(attention, shape, mask, dtype, "cuda")
        assert values <= VALUES[dtype] and gradients <= GRADIENTS[dtype]

    for dtype in VALUES:
        for b, heads, n, m, d in SHAPES:
            if attention.refuses("cuda", dtype, d, False) is None:
                near((b, heads, *square(attention, n, m), d), None, dtype)
        for mask in (*MASKS.values(), *EMPTY.values()):
            if attention.refuses("cuda", dtype, 16, True) is None:
                n, m = square(attention, 6, 9)
                near((2, 3, n, m, 16), mask(n, m), dtype)
