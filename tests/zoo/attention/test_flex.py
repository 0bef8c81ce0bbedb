"""flex: its refusals, and its masks through torch's uncompiled form, which a CPU has without gradients."""

import pytest
import torch

import zoo.attention  # noqa: F401
from vidiff.registry import build
from zoo.attention.flex import flex, plain


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "text"),
    [
        ("cpu", torch.float32, 64, "trains on CUDA devices only (this is cpu)"),
        ("cuda", torch.float64, 64, "cannot compute in float64"),
        ("cuda", torch.bfloat16, 8, "needs a head_dim of at least 16 (this is 8)"),
        ("cuda", torch.bfloat16, 64, None),
    ],
)
def test_where_it_refuses(device, dtype, head_dim, text):
    reason = build("attention", "flex").refuses(device, dtype, head_dim, True)
    assert reason is None if text is None else text in reason


def test_a_cpu_is_refused_when_called():
    q = torch.zeros(1, 2, 3, 16)
    with pytest.raises(ValueError, match=r"CUDA devices only.*Use attention=sdpa"):
        build("attention", "flex")(q, q, q)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_masks(masked):
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 16, generator=random) for n in (5, 7, 7))
    mask = torch.rand(2, 1, 5, 7, generator=random) > 0.4 if masked else None
    if masked:
        mask[1, 0, 3] = False
    out = flex(plain(), q, k, v, mask)
    assert torch.allclose(out, build("attention", "math")(q, k, v, mask), atol=1e-5)
    assert not masked or (out[1, :, 3] == 0).all()
