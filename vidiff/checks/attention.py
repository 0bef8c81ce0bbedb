"""What every attention promises: vidiff.types.Attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.checks.parts import Beside, draw, require
from vidiff.registry import Component

B, HEADS, N, DH = 2, 3, 7, 8


def make(component: Component, masked: bool = False):
    """One that runs on this machine's CPU in float32."""
    attention = component.build(component.tiny)
    reason = attention.refuses("cpu", torch.float32, DH, masked)
    if reason:
        raise Beside(reason)
    return attention


def truth(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) v in float64; a row that sees nothing is zero."""
    scores = q.double() @ k.double().transpose(-1, -2) / math.sqrt(q.shape[-1])
    keep = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    weights = scores.masked_fill(~keep, -1e9).softmax(-1) * keep
    return weights @ v.double()


def asked(attention) -> tuple[list[Tensor], Tensor | None]:
    """Queries, keys and values, and what an attention among neighbours looks at by itself."""
    seen = attention.seen(N, N, torch.device("cpu")) if hasattr(attention, "seen") else None
    return [draw(B, HEADS, N, DH, seed=i) for i in range(3)], seen


def is_attention(component: Component) -> None:
    """It computes softmax(q k^T / sqrt(Dh)) v for q, k, v (B,heads,N,Dh): a missing transpose, a swapped axis or
    another scale shows against float64."""
    attention = make(component)
    qkv, seen = asked(attention)
    out = attention(*qkv)
    require(out.shape == qkv[0].shape, f"it gives {tuple(out.shape)} for queries {tuple(qkv[0].shape)}.")
    off = (out.double() - truth(*qkv, seen)).abs().max().item()
    require(off <= 1e-4, f"values are off by up to {off:.3g}.")


def a_mask_keeps_what_is_true(component: Component) -> None:
    """mask True = keep: what is False must have no influence, and a row that may see nothing is zero."""
    attention = make(component, masked=True)
    qkv, seen = asked(attention)
    mask = draw(B, 1, N, N, seed=9) > -0.3
    mask = mask | torch.eye(N, dtype=torch.bool)
    off = (attention(*qkv, mask).double() - truth(*qkv, mask if seen is None else mask & seen)).abs().max().item()
    require(off <= 1e-4, f"values are off by up to {off:.3g}.")


def gradients_are_right(component: Component) -> None:
    """Gradients for queries, keys and values are those of the formula."""
    attention = make(component)
    qkv, seen = asked(attention)
    weight = draw(B, HEADS, N, DH, seed=5)
    ours, exact = ([x.clone().requires_grad_() for x in qkv] for _ in range(2))
    got = torch.autograd.grad((attention(*ours) * weight).sum(), ours)
    wanted = torch.autograd.grad((truth(*exact, seen) * weight).sum(), exact)
    off = max((a - b).abs().max().item() for a, b in zip(got, wanted, strict=True))
    require(off <= 1e-4, f"gradients are off by up to {off:.3g}.")


CHECKS = (is_attention, a_mask_keeps_what_is_true, gradients_are_right)
