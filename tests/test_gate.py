"""The gate: right attentions pass once, wrong ones are refused, and nothing around it is disturbed."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import zoo.attention  # noqa: F401
from vidiff import gate
from vidiff.gate import Gated
from vidiff.registry import build


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Every test meets attentions that were never checked."""
    monkeypatch.setattr(gate, "OUTCOMES", {})


def qkv(n=5, dtype=torch.float32):
    return torch.randn(3, 2, 3, n, 8, generator=torch.Generator().manual_seed(0)).to(dtype).unbind(0)


class Counted:
    """torch's attention, with its calls counted."""

    def __init__(self, change=lambda out, *_: out):
        self.calls, self.change = 0, change

    def __call__(self, q, k, v, mask=None):
        self.calls += 1
        return self.change(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), q, k, v)

    def refuses(self, device, dtype, head_dim, masked):
        return None


def test_checked_on_first_use_of_each_kind_and_never_again():
    inner = Counted()
    gated = Gated(inner, "mine")
    for _ in range(3):
        gated(*qkv())
    assert inner.calls == 3 + 1
    gated(*qkv(), torch.ones(5, 5, dtype=torch.bool))
    gated(*qkv(dtype=torch.bfloat16))
    assert inner.calls == 5 + 3
    Gated(inner, "mine")(*qkv())
    assert inner.calls == 6 + 3, "a copy of the model does not check again"
    assert list(gate.report()) == [
        "mine on cpu, float32, head_dim 8",
        "mine on cpu, float32, head_dim 8, masked",
        "mine on cpu, bfloat16, head_dim 8",
    ]


def untransposed(out, q, k, v):
    """Latte's attention_mode=flash: (B,N,heads,Dh) read as (B,heads,N,Dh)."""
    return out.transpose(1, 2).reshape(out.shape)


WRONG = {
    "heads not transposed": untransposed,
    "no scale": lambda out, q, k, v: (q @ k.transpose(-1, -2)).softmax(-1) @ v,
    "values detached": lambda out, q, k, v: out.detach() + 0 * (q + k + v),
    "coarse": lambda out, *_: out + 1e-3 * out.detach().cos(),
    "not a number": lambda out, *_: out * torch.nan,
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_attention_is_refused_every_time_and_recorded(kind):
    gated = Gated(Counted(WRONG[kind]), "wrong")
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"attention=wrong on cpu.*does not give softmax.*Use attention=math"
        ) as error:
            gated(*qkv())
        assert "\n" not in str(error.value)
    assert gate.report()["wrong on cpu, float32, head_dim 8"]["refused"]


def test_a_mask_that_is_left_out_is_found_when_masks_are_used():
    inner = Counted()
    inner_call = Counted.__call__

    class Deaf(Counted):
        def __call__(self, q, k, v, mask=None):
            return inner_call(inner, q, k, v)

    gated = Gated(Deaf(), "deaf")
    gated(*qkv())
    with pytest.raises(ValueError, match="head_dim 8, masked does not give"):
        gated(*qkv(), torch.ones(5, 5, dtype=torch.bool))


@pytest.mark.parametrize("name", ["math", "matmul", "sdpa", "auto", "window"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_attentions_of_the_zoo_pass(name, dtype):
    attention = gate.gate(build("attention", {"name": name, **({"radius": 4} if name == "window" else {})}), name)
    mask = torch.ones(5, 5, dtype=torch.bool)
    for arguments in (qkv(dtype=dtype), (*qkv(dtype=dtype), mask)):
        attention(*arguments)
    assert gate.OUTCOMES and not any(outcome.refused for outcome in gate.OUTCOMES.values())


@pytest.mark.parametrize("around", ["no_grad", "inference_mode", "autocast", "checkpoint"])
def test_what_is_around_does_not_reach_in(around):
    gated, (q, k, v) = Gated(Counted(), "mine"), qkv()
    rng = torch.get_rng_state()
    if around == "checkpoint":
        q.requires_grad_()
        out = checkpoint(lambda x: gated(x * 2, k, v), q, use_reentrant=False)
        out.square().sum().backward()
        other = q.detach().clone().requires_grad_()
        F.scaled_dot_product_attention(other * 2, k, v).square().sum().backward()
        assert torch.allclose(q.grad, other.grad)
    else:
        contexts = {"autocast": torch.autocast("cpu", torch.bfloat16)}
        with contexts.get(around) or getattr(torch, around)():
            gated(q, k, v)
    (outcome,) = gate.OUTCOMES.values()
    assert outcome.values < 1e-5 and not outcome.refused
    assert torch.equal(torch.get_rng_state(), rng)


def test_on_the_meta_device_nothing_is_checked_and_a_stand_in_has_its_shape():
    q = torch.zeros(2, 3, 5, 16, device="meta")
    for name in ("sdpa", "flex", "xformers", "window"):
        assert gate.gate(build("attention", name), name)(q, q, q).shape == q.shape
    assert not gate.OUTCOMES


def test_a_compiled_graph_does_not_break():
    gated = Gated(Counted(), "mine")
    compiled = torch.compile(
        lambda q, k, v: gated.attention.change(gated(q + 1, k, v) * 2), backend="eager", fullgraph=True
    )
    q, k, v = qkv()
    assert torch.allclose(compiled(q, k, v), F.scaled_dot_product_attention(q + 1, k, v) * 2)
    assert len(gate.OUTCOMES) == 1
