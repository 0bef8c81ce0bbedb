"""The first attention that does not refuse, in an order that depends on the machine; it says which."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vidiff.gate import decided_while_tracing, gate
from vidiff.registry import ATTENTION

LOG = logging.getLogger("vidiff.attention")

FEW = 1024
"""Up to this many tokens the N*M weights of a plain product are no burden."""

ORDER = ("sdpa", "xformers", "math")
"""Everywhere else. torch picks among its own kernels; the others come second."""


class Choice(NamedTuple):
    """An attention by name, and why it was taken."""

    name: str
    reason: str


@ATTENTION.register("auto")
class Auto:
    """`matmul` for few tokens in bfloat16 on a CPU that multiplies it, else `sdpa`, `xformers`, `math`.

    Every choice is logged once, to "vidiff.attention"; `chosen` holds those made so far.
    """

    gated = True  # each candidate is

    def __init__(self):
        self.candidates = {name: gate(ATTENTION[name].build(), name) for name in ("matmul", *ORDER)}
        self.chosen: dict[str, Choice] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B,heads,N,Dh), k v (B,heads,M,Dh), mask True = keep -> (B,heads,N,Dh), zeros where all is masked."""
        few = q.shape[-2] <= FEW and k.shape[-2] <= FEW
        name = choose(self, q.device.type, q.dtype, q.shape[-1], mask is not None, few)
        return self.candidates[name](q, k, v, mask)

    def refuses(self, device: str, dtype: Any, head_dim: int, masked: bool) -> str | None:
        """Only where every candidate does."""
        reasons = [self.candidates[name].refuses(device, dtype, head_dim, masked) for name in ORDER]
        return None if None in reasons else " ".join(reasons)

    def first(self, device: str, dtype: torch.dtype, head_dim: int, masked: bool, few: bool) -> Choice:
        """The first that does not refuse, with the reasons of those before it. Raises ValueError when all do."""
        if device == "cpu" and dtype == torch.bfloat16 and few and multiplies_bfloat16():
            return Choice("matmul", "few tokens in bfloat16 on a CPU that multiplies it")
        refusals = []
        for name in ORDER:
            reason = self.candidates[name].refuses(device, dtype, head_dim, masked)
            if reason is None:
                return Choice(name, " ".join(refusals) or f"the first of {', '.join(ORDER)}")
            refusals.append(reason)
        raise ValueError(" ".join(refusals))


@decided_while_tracing
def choose(auto: Auto, device: str, dtype: torch.dtype, head_dim: int, masked: bool, few: bool) -> str:
    """The name of the choice for this case: made and logged once, then remembered."""
    case = f"{device} {str(dtype).removeprefix('torch.')}, head_dim {head_dim}"
    case += ", masked" * masked + f", {'up to' if few else 'over'} {FEW} tokens"
    if case not in auto.chosen:
        auto.chosen[case] = choice = auto.first(device, dtype, head_dim, masked, few)
        LOG.info("attention=auto takes %s for %s: %s.", choice.name, case, choice.reason)
    return auto.chosen[case].name


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AMX, AVX512-BF16); False where torch cannot tell."""
    return any(getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("amx_tile", "avx512_bf16"))
