"""math: float32 inside, whatever comes in and whatever AMP says."""

import torch

import zoo.attention  # noqa: F401
from vidiff.registry import build


def qkv(dtype):
    return torch.randn(3, 2, 3, 5, 8, generator=torch.Generator().manual_seed(0)).to(dtype).unbind(0)


def test_halves_are_computed_in_float32_and_rounded_once():
    attention, halves = build("attention", "math"), qkv(torch.bfloat16)
    assert torch.equal(attention(*halves), attention(*(x.float() for x in halves)).bfloat16())


def test_amp_stays_out():
    attention, inputs = build("attention", "math"), qkv(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = attention(*inputs)
    assert torch.equal(inside, attention(*inputs))
