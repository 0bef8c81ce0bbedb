"""xformers: its refusals, and its layout and masks against a stand-in with the documented interface."""

import sys
from types import ModuleType

import pytest
import torch

import zoo.attention  # noqa: F401
from vidiff.registry import build
from zoo.attention import xformers


def installed(monkeypatch, yes):
    monkeypatch.setattr(xformers, "find_spec", lambda name: object() if yes else None)


def test_a_cpu_is_refused_when_called_and_never_worked_around():
    q = torch.zeros(1, 2, 3, 8)
    attention = build("attention", "xformers")
    text = "attention=xformers needs a CUDA device (this is cpu). Use attention=sdpa."
    assert attention.refuses("cpu", torch.float32, 8, False) == text
    with pytest.raises(ValueError) as error:
        attention(q, q, q)
    assert str(error.value) == text


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    installed(monkeypatch, False)
    assert build("attention", "xformers").refuses("cuda", torch.float16, 64, False) == (
        'attention=xformers: xformers is not installed. pip install -e ".[xformers]", or attention=sdpa.'
    )


@pytest.mark.parametrize(
    ("dtype", "head_dim", "text"),
    [
        (torch.float64, 64, "cannot compute in float64"),
        (torch.bfloat16, 36, "needs a head_dim divisible by 8 (this is 36)"),
        (torch.float32, 6, "needs a head_dim divisible by 4 (this is 6)"),
        (torch.float32, 36, None),
        (torch.float16, 64, None),
    ],
)
def test_types_and_heads_its_kernels_cannot_load(monkeypatch, dtype, head_dim, text):
    installed(monkeypatch, True)
    reason = build("attention", "xformers").refuses("cuda", dtype, head_dim, True)
    assert reason is None if text is None else text in reason


@pytest.fixture
def stand_in(monkeypatch):
    """xformers.ops as documented: (B,N,heads,Dh), an additive bias whose rows are 16-byte aligned."""

    def memory_efficient_attention(query, key, value, attn_bias=None):
        scores = torch.einsum("bnhd,bmhd->bhnm", query, key) * query.shape[-1] ** -0.5
        if attn_bias is not None:
            assert attn_bias.shape == scores.shape and attn_bias.stride(-2) % 8 == 0
            scores = scores + attn_bias
        return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), value)

    package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
    ops.memory_efficient_attention, package.ops = memory_efficient_attention, ops
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(xformers.XFormers, "refuses", lambda *_: None)
    xformers.ops.cache_clear()
    yield
    xformers.ops.cache_clear()


@pytest.mark.parametrize("masked", [False, True])
def test_layout_masks_and_gradients(stand_in, masked):
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=random).requires_grad_() for n in (5, 7, 7))
    mask = torch.rand(2, 1, 5, 7, generator=random) > 0.4 if masked else None
    if masked:
        mask[1, 0, 3] = False
    results = []
    for name in ("math", "xformers"):
        out = build("attention", name)(q, k, v, mask)
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert not masked or (results[1][0][1, :, 3] == 0).all()
