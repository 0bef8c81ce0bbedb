"""No attention is believed unchecked: on first use it is compared with the formula in float64, or refused.

softmax(q k^T / sqrt(Dh)) v on a small case, values and gradients, once per (attention, device, dtype, head_dim,
masked) and process. The largest error must stay below TOLERANCE times the largest value (or gradient).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vidiff.errors import Refused
from vidiff.types import Attention

LOG = logging.getLogger("vidiff.attention")

TOLERANCE = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (3e-5, 3e-5),
    torch.bfloat16: (1.5e-2, 3e-2),
    torch.float16: (2e-3, 5e-3),
}
"""dtype -> of values, relative to max|v|; of gradients, relative to the largest one."""

TF32 = (2e-3, 5e-3)
"""For float32 where torch.set_float32_matmul_precision has allowed coarser products."""

BATCH, HEADS, TOKENS = 2, 3, 19


class Case(NamedTuple):
    """What is checked once."""

    attention: str
    device: str
    dtype: torch.dtype
    head_dim: int
    masked: bool

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.attention} on {self.device}, {dtype}, head_dim {self.head_dim}" + ", masked" * self.masked


class Outcome(NamedTuple):
    """How far an attention was off, relative as in TOLERANCE, and why it was refused if it was."""

    values: float
    gradients: float
    refused: str = ""


OUTCOMES: dict[Case, Outcome] = {}
"""Everything checked so far in this process."""


def report() -> dict[str, dict[str, Any]]:
    """OUTCOMES in words, for env.json."""
    return {str(case): outcome._asdict() for case, outcome in OUTCOMES.items()}


def gate(attention: Attention, name: str) -> Attention:
    """The attention behind its gate; one that gates its own parts stays as it is."""
    return attention if getattr(attention, "gated", False) else Gated(attention, name)


def decided_while_tracing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function whose answer torch.compile may take as a constant, so that a graph does not break there.

    The same as torch.compiler.assume_constant_result, which would import the whole compiler (a second) to do so.
    """
    function._dynamo_marked_constant = True
    return function


class Gated:
    """An attention that is checked before its first answer of a kind. Raises Refused when it fails."""

    gated = True

    def __init__(self, attention: Attention, name: str):
        self.attention, self.name = attention, name
        self.forward_mode = getattr(attention, "forward_mode", False)
        if hasattr(attention, "seen"):
            self.seen = attention.seen

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B,heads,N,Dh), k v (B,heads,M,Dh), mask True = keep -> (B,heads,N,Dh)."""
        if q.is_meta:
            return self.on_meta(q, k, v, mask)
        refused = check(self, str(q.device), q.dtype, q.shape[-1], mask is not None)
        if refused:
            raise Refused(refused)
        return self.attention(q, k, v, mask)

    def refuses(self, device: str, dtype: Any, head_dim: int, masked: bool) -> str | None:
        """What the attention itself says, and nothing that was found out by the check."""
        return self.attention.refuses(device, dtype, head_dim, masked)

    def on_meta(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Shapes and costs without numbers; torch's formula stands in for what needs a device."""
        if self.refuses("meta", q.dtype, q.shape[-1], mask is not None):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.attention(q, k, v, mask)


@decided_while_tracing
def check(gated: Gated, device: str, dtype: torch.dtype, head_dim: int, masked: bool) -> str:
    """Why this case is refused, or ''. Measured once, logged, remembered in OUTCOMES."""
    case = Case(gated.name, device.partition(":")[0], dtype, head_dim, masked)
    if case not in OUTCOMES:
        values, gradients = alone(errors, gated.attention, device, dtype, head_dim, masked)
        coarse = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
        limits = TF32 if coarse else TOLERANCE[dtype]
        passed = values <= limits[0] and gradients <= limits[1]  # False for NaN
        text = f"values off by {values:.1e} of {limits[0]:.1e}, gradients by {gradients:.1e} of {limits[1]:.1e}"
        way = "Use attention=math" if gated.name != "math" else "This device computes wrongly: use another"
        refused = "" if passed else f"attention={case} does not give softmax(q k'/sqrt(d)) v: {text}. {way}."
        OUTCOMES[case] = Outcome(values, gradients, refused)
        LOG.log(logging.INFO if passed else logging.ERROR, "attention=%s: %s.", case, text)
    return OUTCOMES[case].refused


def alone(compute: Callable[..., Any], *arguments: Any) -> Any:
    """compute(*arguments) in a thread of its own, which AMP, no_grad, recomputation and counters do not reach."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(compute, *arguments).result()


def errors(attention: Attention, device: str, dtype: torch.dtype, head_dim: int, masked: bool) -> tuple[float, float]:
    """The largest error of the values relative to max|v|, and of the gradients relative to the largest one."""
    dice = torch.Generator("cpu").manual_seed(0)
    shape = (BATCH, HEADS, TOKENS, head_dim)
    q, k, v, g = (torch.randn(shape, generator=dice, device="cpu").to(dtype) for _ in range(4))
    mask = torch.rand(BATCH, 1, TOKENS, TOKENS, generator=dice, device="cpu") > 0.4 if masked else None
    if masked:
        mask[1, 0, 3] = False  # a row that sees nothing
    local = attention.seen(TOKENS, TOKENS, torch.device("cpu")) if hasattr(attention, "seen") else None
    keep = local if mask is None else mask if local is None else mask & local
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    tried = [x.to(device).requires_grad_() for x in (q, k, v)]
    truth = formula(*exact, keep)
    out = attention(*tried, None if mask is None else mask.to(device))
    wanted = torch.autograd.grad(truth, exact, g.double())
    got = torch.autograd.grad(out, tried, g.to(device))
    values = (out.cpu().double() - truth).detach().abs().max() / v.double().abs().max()
    largest = max(w.abs().max() for w in wanted)
    gradients = max((a.cpu().double() - b).abs().max() for a, b in zip(got, wanted, strict=True)) / largest
    return values.item(), gradients.item()


def formula(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) v over what is kept; zero where nothing is (Vaswani et al., 1706.03762, eq. 1)."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if keep is None:
        return scores.softmax(-1) @ v
    weights = scores.masked_fill(~keep, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~keep, 0.0)
    return weights @ v
