"""auto: what it takes, that it remembers and says so once, and that it never hides a refusal."""

import logging

import pytest
import torch

import zoo.attention  # noqa: F401
from vidiff.registry import build
from zoo.attention import auto


def qkv(n=6, dtype=torch.float32):
    return torch.randn(3, 1, 2, n, 8, generator=torch.Generator().manual_seed(0)).to(dtype).unbind(0)


def names(attention):
    return [choice.name for choice in attention.chosen.values()]


def refusing(*_):
    return "attention=sdpa: not today."


def test_float32_takes_the_fused_kernel_and_says_so_once(caplog):
    attention = build("attention", "auto")
    with caplog.at_level(logging.INFO, "vidiff.attention"):
        for _ in range(3):
            attention(*qkv())
    assert names(attention) == ["sdpa"]
    assert [r.message for r in caplog.records if " takes " in r.message] == [
        "attention=auto takes sdpa for cpu float32, head_dim 8, up to 1024 tokens: the first of sdpa, xformers, math."
    ]


@pytest.mark.parametrize(("multiplies", "n", "taken"), [(True, 6, "matmul"), (False, 6, "sdpa"), (True, 1025, "sdpa")])
def test_bfloat16_on_a_cpu_takes_products_where_they_are_fast(monkeypatch, multiplies, n, taken):
    monkeypatch.setattr(auto, "multiplies_bfloat16", lambda: multiplies)
    attention = build("attention", "auto")
    attention(*qkv(n, torch.bfloat16))
    assert names(attention) == [taken]


def test_a_mask_or_another_dtype_is_another_choice():
    attention = build("attention", "auto")
    attention(*qkv())
    attention(*qkv(), torch.ones(6, 6, dtype=torch.bool))
    attention(*qkv(dtype=torch.float64))
    assert len(attention.chosen) == 3


def test_the_next_in_order_takes_over_with_the_reason(monkeypatch):
    attention = build("attention", "auto")
    monkeypatch.setattr(attention.candidates["sdpa"], "refuses", refusing, raising=False)
    q, k, v = qkv()
    assert torch.equal(attention(q, k, v), build("attention", "math")(q, k, v))
    (choice,) = attention.chosen.values()
    assert choice.name == "math"
    assert choice.reason.startswith("attention=sdpa: not today. attention=xformers needs a CUDA device (this is cpu).")


def test_when_all_refuse_so_does_auto(monkeypatch):
    monkeypatch.setattr(auto, "ORDER", ("xformers",))
    attention = build("attention", "auto")
    assert attention.refuses("cpu", torch.float32, 8, False).startswith("attention=xformers needs a CUDA device")
    with pytest.raises(ValueError, match="needs a CUDA device"):
        attention(*qkv())


def test_a_compiled_graph_does_not_break():
    attention = build("attention", "auto")
    compiled = torch.compile(lambda q, k, v: attention(q + 1, k, v) * 2, backend="eager", fullgraph=True)
    q, k, v = qkv()
    assert torch.equal(compiled(q, k, v), build("attention", "sdpa")(q + 1, k, v) * 2)
    assert names(attention) == ["sdpa"]
