"""What every attention promises: vidiff.types.Attention, the softmax formula in values and gradients, or a refusal.

The truth is computed in float64. Tolerances are relative to max|v| (values) and to the largest gradient.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidiff.checks.parts import Beside, apart, draw, require
from vidiff.registry import Component

VALUES = {torch.float64: 1e-12, torch.float32: 3e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
GRADIENTS = {torch.float64: 1e-12, torch.float32: 3e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
SHAPES = ((2, 3, 11, 7, 16), (1, 2, 1, 1, 8), (3, 1, 5, 13, 9), (2, 2, 1, 6, 40), (1, 3, 33, 33, 24))
"""(B, heads, N, M, Dh)."""
MASKS: dict[str, Callable[[int, int], Tensor]] = {
    "causal": lambda n, m: torch.ones(n, m, dtype=torch.bool).tril(),
    "random": lambda n, m: torch.rand(2, 1, n, m, generator=torch.Generator().manual_seed(3)) > 0.4,
    "of keys": lambda n, m: torch.tensor([[True] * m, [True] * 2 + [False] * (m - 2)])[:, None, None],
}
EMPTY: dict[str, Callable[[int, int], Tensor]] = {
    "with one row of False": lambda n, m: torch.arange(n)[:, None] != 1 + torch.zeros(m, dtype=torch.long),
    "all False": lambda n, m: torch.zeros(1, 3, n, m, dtype=torch.bool),
}


def make(component: Component, masked: bool = False) -> Any:
    """One that runs on this machine's CPU in float32."""
    attention = component.build(component.tiny)
    reason = attention.refuses("cpu", torch.float32, 16, masked)
    if reason:
        raise Beside(reason)
    return attention


def square(attention: Any, n: int, m: int) -> tuple[int, int]:
    """(n, m), or (m, m) for an attention among neighbours, which only one sequence has."""
    return (m, m) if hasattr(attention, "seen") else (n, m)


def local(attention: Any, n: int, m: int, mask: Tensor | None) -> Tensor | None:
    """The mask with the pairs left out that the attention does not look at by itself."""
    if not hasattr(attention, "seen"):
        return mask
    seen = attention.seen(n, m, torch.device("cpu"))
    return seen if mask is None else mask & seen


def inputs(b: int, heads: int, n: int, m: int, d: int) -> list[Tensor]:
    """q, k, v and the gradient of the output, in float64."""
    lengths = (n, m, m, n)
    return [draw(b, heads, length, d, seed=i).double() for i, length in enumerate(lengths)]


def truth(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) v in float64; a row that sees nothing is zero."""
    scores = q.double() @ k.double().transpose(-1, -2) / math.sqrt(q.shape[-1])
    keep = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    weights = scores.masked_fill(~keep, -1e9).softmax(-1) * keep
    return weights @ v.double()


def compare(
    attention: Any, shape: tuple[int, ...], mask: Tensor | None, dtype: torch.dtype, device: str = "cpu"
) -> tuple[float, float]:
    """How far values and gradients are off, as a part of the largest. Raises Broken for another shape or dtype."""
    q, k, v, g = (x.to(dtype) for x in inputs(*shape))
    exact, ours = ([x.to(to).requires_grad_() for x in (q, k, v)] for to in (torch.float64, device))
    expected = truth(*exact, local(attention, q.shape[2], k.shape[2], mask))
    out = attention(*ours, None if mask is None else mask.to(device))
    require(out.shape == q.shape, f"it gives {tuple(out.shape)} for queries {tuple(q.shape)}.")
    require(out.dtype == dtype, f"it gives {out.dtype} for {dtype}.")
    values = apart(out.cpu().double(), expected, 0, 0) / v.double().abs().max().item()
    if not (expected != 0).any():
        return values, 0.0
    wanted = torch.autograd.grad(expected, exact, g.double())
    got = torch.autograd.grad(out, ours, g.to(device))
    largest = max(w.abs().max().item() for w in wanted)
    return values, max(apart(a.cpu().double(), b, 0, 0) for a, b in zip(got, wanted, strict=True)) / largest


def tried(attention: Any, masked: bool, d: int) -> list[torch.dtype]:
    """The dtypes that it takes on a CPU."""
    return [dtype for dtype in VALUES if attention.refuses("cpu", dtype, d, masked) is None]


def is_attention(component: Component) -> None:
    """It computes softmax(q k^T / sqrt(Dh)) v for q, k, v (B,heads,N,Dh) in every dtype that it does not refuse: a
    missing transpose, a swapped axis or another scale shows against float64."""
    attention = make(component)
    for b, heads, n, m, d in SHAPES:
        for dtype in tried(attention, False, d):
            shape = (b, heads, *square(attention, n, m), d)
            off, _ = compare(attention, shape, None, dtype)
            require(off <= VALUES[dtype], f"values of {shape} in {dtype} are off by up to {off:.3g} of the largest.")


def gradients_are_right(component: Component) -> None:
    """Gradients for queries, keys and values are those of the formula."""
    attention = make(component)
    for b, heads, n, m, d in SHAPES:
        for dtype in tried(attention, False, d):
            shape = (b, heads, *square(attention, n, m), d)
            _, off = compare(attention, shape, None, dtype)
            require(off <= GRADIENTS[dtype], f"gradients of {shape} in {dtype} are off by up to {off:.3g}.")


def masked_alike(component: Component, masks: dict[str, Callable[[int, int], Tensor]]) -> None:
    """Values and gradients under these masks."""
    attention = make(component, masked=True)
    n, m = square(attention, 6, 9)
    for kind, mask in masks.items():
        for dtype in tried(attention, True, 16):
            values, gradients = compare(attention, (2, 3, n, m, 16), mask(n, m), dtype)
            require(values <= VALUES[dtype], f"values in {dtype} are off by up to {values:.3g} with a mask {kind}.")
            require(gradients <= GRADIENTS[dtype], f"gradients in {dtype} are off by {gradients:.3g} with one {kind}.")


def a_mask_keeps_what_is_true(component: Component) -> None:
    """mask True = keep, and it may be (N,M), (B,1,1,M) or (B,1,N,M): what is False must have no influence, on values
    or on gradients."""
    masked_alike(component, MASKS)


def a_row_that_sees_nothing_is_zero(component: Component) -> None:
    """A query that may see nothing is answered with zero, and its gradient is zero: the softmax of nothing is 0/0, and
    one NaN there spoils a whole training run."""
    masked_alike(component, EMPTY)
    attention = make(component, masked=True)
    n, m = square(attention, 4, 5)
    q, k, v, g = (x.float() for x in inputs(1, 2, n, m, 8))
    q.requires_grad_()
    mask = torch.ones(n, m, dtype=torch.bool)
    mask[2] = False
    out = attention(q, k, v, mask)
    (grad,) = torch.autograd.grad(out, q, g)
    for what, part in (("answer", out), ("gradient", grad)):
        require(part.isfinite().all(), f"the {what} is not finite.")
        require((part[:, :, 2] == 0).all(), f"its {what} is up to {part[:, :, 2].abs().max().item():.3g}.")


def large_scores_do_not_overflow(component: Component) -> None:
    """With scores of thousands the softmax takes the largest: subtract the maximum before exp."""
    attention = make(component)
    q, k, v, _ = (x.float() for x in inputs(1, 1, *square(attention, 3, 4), 16))
    n, m = q.shape[2], k.shape[2]
    seen = local(attention, n, m, torch.ones(n, m, dtype=torch.bool))
    winner = (q @ k.transpose(-1, -2)).masked_fill(~seen, -math.inf).argmax(-1)
    off = apart(attention(300 * q, 300 * k, v)[0, 0], v[0, 0][winner[0, 0]], 1e-4)
    require(off <= 0, f"it is off by {off + 1e-4:.3g}.")


def strided_heads_are_as_good(component: Component) -> None:
    """Views of one projection answer as copies do: a kernel that wants contiguous memory must make it."""
    qkv = draw(2, 5, 3, 4, 8, seed=1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    attention = make(component)
    off = apart(attention(q, k, v), attention(*(x.contiguous() for x in (q, k, v))), 1e-6)
    require(off <= 0, f"they differ by {off + 1e-6:.3g}.")


def leaves_its_inputs_alone(component: Component) -> None:
    """It does not write into queries, keys, values or mask: the caller uses them again."""
    attention = make(component, masked=True)
    n, m = square(attention, 4, 5)
    q, k, v, _ = (x.float() for x in inputs(1, 2, n, m, 8))
    given = (q, k, v, torch.rand(n, m, generator=torch.Generator().manual_seed(0)) > 0.5)
    kept = [x.clone() for x in given]
    attention(*given)
    for name, before, after in zip(("q", "k", "v", "mask"), kept, given, strict=True):
        require(torch.equal(before, after), f"{name} was changed.")


def can_be_copied(component: Component) -> None:
    """A deep copy answers the same: averaged weights are a copy of the network with its attention."""
    attention = make(component)
    q, k, v, _ = (x.float() for x in inputs(1, 2, *square(attention, 4, 5), 8))
    require(torch.equal(copy.deepcopy(attention)(q, k, v), attention(q, k, v)), "the copy answers otherwise.")


def refuses_in_one_line(component: Component) -> None:
    """`refuses` gives None, or one line that begins with attention=NAME: it is shown to the user as it is."""
    attention = component.build(component.tiny)
    for device in ("cpu", "cuda"):
        for dtype in VALUES:
            reason = attention.refuses(device, dtype, 17, True)
            told = reason is None or (reason.startswith(f"attention={component.name}") and "\n" not in reason)
            require(told, f"on {device} in {dtype}: {reason!r}")


CHECKS = (is_attention, gradients_are_right, a_mask_keeps_what_is_true, a_row_that_sees_nothing_is_zero,
          large_scores_do_not_overflow, strided_heads_are_as_good, leaves_its_inputs_alone, can_be_copied,
          refuses_in_one_line)  # fmt: skip
