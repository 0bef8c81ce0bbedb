"""torch's own fused attention, which picks a flash, a memory-efficient, a cuDNN or a plain kernel, or the one named.

Dao 2023, FlashAttention-2 (2307.08691); Rabe & Staats 2021 (2112.05682). Fused kernels need memory linear in the
number of tokens, `math` quadratic.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from vidiff.gate import alone, decided_while_tracing
from vidiff.registry import ATTENTION

Kernel = Literal["auto", "flash", "efficient", "math", "cudnn"]

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


@ATTENTION.register("sdpa")
class SDPA:
    """torch.nn.functional.scaled_dot_product_attention. Any device, any head_dim; with `kernel` that kernel or none."""

    def __init__(self, kernel: Kernel = "auto"):
        self.kernel = kernel

    @property
    def forward_mode(self) -> bool:
        """torch's fused kernels have no forward-mode derivative, its plain one does."""
        return self.kernel == "math"

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B,heads,N,Dh), k v (B,heads,M,Dh), mask True = keep -> (B,heads,N,Dh), zeros where all is masked.

        Raises ValueError where the kernel cannot run; another one never takes its place.
        """
        if self.kernel == "auto" or q.is_meta:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        reason = refusal(self.kernel, q.device.type, q.dtype, q.shape[-1], mask is not None)
        if reason:
            raise ValueError(reason)
        with sdpa_kernel(KERNELS[self.kernel]):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def refuses(self, device: str, dtype: Any, head_dim: int, masked: bool) -> str | None:
        """Never with `auto`; else where the kernel named cannot run, which is found out by trying."""
        return None if self.kernel == "auto" else refusal(self.kernel, device, dtype, head_dim, masked)


@decided_while_tracing
def refusal(kernel: str, device: str, dtype: torch.dtype, head_dim: int, masked: bool) -> str | None:
    """Why this kernel cannot run, or None."""
    if device != "meta" and not runs(kernel, device, dtype, head_dim, masked):
        case = f"{device}, {str(dtype).removeprefix('torch.')}, head_dim {head_dim}" + ", with a mask" * masked
        return f"attention=sdpa: torch has no {kernel} kernel for {case}. Use attention.kernel=auto or another kernel."
    return None


@cache
def runs(*case: Any) -> bool:
    """Whether torch runs this kernel, found out once, by trying."""
    return alone(attempt, *case)


def attempt(kernel: str, device: str, dtype: torch.dtype, head_dim: int, masked: bool) -> bool:
    """Eight tokens, forward and backward."""
    try:
        x = torch.zeros(1, 1, 8, head_dim, device=device, dtype=dtype)
        mask = torch.ones(8, 8, dtype=torch.bool, device=device) if masked else None
        with sdpa_kernel(KERNELS[kernel]):
            x.requires_grad_()
            F.scaled_dot_product_attention(x, x, x, attn_mask=mask).sum().backward()
    except (RuntimeError, AssertionError):  # torch without CUDA raises the second
        return False
    return True
