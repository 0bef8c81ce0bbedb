"""Transformer blocks steered by adaptive layer norm with zero-initialised gates: AdaLN-Zero.

Peebles & Xie 2022 (2212.09748), sec. 3.2. From the condition c come a shift, a scale and a gate,

    x + gate * f((1 + scale) * norm(x) + shift),

once per sample, or per frame where frames have times of their own, never per token. The Linears
behind them start at zero, so a fresh block is the identity.

Axes: B batch, T frames, S tokens of a frame, D width. c is (B,1,1,D) or (B,T,1,D).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.types import Attention
from zoo.layers.attention import Rotation, SelfAttention
from zoo.layers.mlp import MLP, Activation
from zoo.layers.norms import EPS, NORMS, Norm, QKNorm, plain_norm

Over = Literal["joint", "space", "time"]

LAYOUTS = {"joint": "b (t s) d", "space": "(b t) s d", "time": "(b s) t d"}
"""What attends to what: all tokens of a video, those of one frame, or one place through all frames."""


LARGE = 2**17
"""Numbers of a sample from which a CPU is quicker with one LayerNorm for each sample (benchmarks/README.md)."""


def modulate(x: Tensor, shift: Tensor, scale: Tensor, norm: Callable[[Tensor], Tensor] = plain_norm) -> Tensor:
    """(1 + scale) * norm(x) + shift. x (B,T,S,D), shift and scale (B,T or 1,1,D) -> (B,T,S,D)."""
    for_all_tokens = scale.shape[-1] == scale[0].numel()
    if (
        norm is plain_norm
        and for_all_tokens
        and x.is_cpu
        and x[0].numel() >= LARGE
        and not torch.compiler.is_compiling()
    ):
        return steered_norm(x, shift, scale)
    return torch.addcmul(shift, norm(x), 1 + scale)


def steered_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The same with LayerNorm's own weights, which are one set for a call: a pass less, and norm(x) is not kept."""
    if len(scale) == 1:
        return F.layer_norm(x, x.shape[-1:], 1 + scale.flatten(), shift.flatten(), EPS)
    return torch.cat([steered_norm(*sample) for sample in zip(x.split(1), shift.split(1), scale.split(1))])


class Modulation(nn.Module):
    """c -> num vectors of its width, or of the width `dim` where c has another. Zero at the start."""

    def __init__(self, dim: int, num: int, cond_dim: int | None = None):
        super().__init__()
        self.num, self.linear = num, nn.Linear(cond_dim or dim, num * dim)
        self.reset_to_zero()

    def forward(self, c: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """c (B,T or 1,1,D) -> num tensors of that shape in `dtype`: 1 + scale is not for bfloat16."""
        return self.linear(F.silu(c)).to(dtype).chunk(self.num, dim=-1)

    def reset_to_zero(self) -> None:
        """Shift, scale and gate become zero whatever the condition."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


class SharedModulation(nn.Module):
    """c -> num vectors for all blocks, once per call: half of adaLN-single. Zero at the start."""

    def __init__(self, dim: int, num: int):
        super().__init__()
        self.linear = nn.Linear(dim, num * dim)
        self.reset_to_zero()

    def forward(self, c: Tensor) -> Tensor:
        """c (B,T or 1,1,D) -> (B,T or 1,1,num*D)."""
        return self.linear(F.silu(c))

    def reset_to_zero(self) -> None:
        """What is shared becomes zero whatever the condition."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


class Table(nn.Module):
    """What all blocks share plus vectors of this block's own: adaLN-single, Chen et al. 2023, PixArt-alpha
    (2310.00426), sec. 2.3. Zero at the start, where PixArt's is random."""

    def __init__(self, dim: int, num: int):
        super().__init__()
        self.num, self.table = num, nn.Parameter(torch.zeros(num * dim))

    def forward(self, shared: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """shared (B,T or 1,1,num*D) -> num tensors (B,T or 1,1,D) in `dtype`."""
        return (shared + self.table).to(dtype).chunk(self.num, dim=-1)


Steering = Literal["zero", "single"]
"""adaLN-Zero, a Linear in every block, or adaLN-single, one Linear for all and a table in each."""

MODULATIONS: dict[Steering, Callable[[int, int], nn.Module]] = {"zero": Modulation, "single": Table}


class AdaLNBlock(nn.Module):
    """Attention over one layout of the tokens, then an MLP, each modulated and gated."""

    vectors = 6
    """A shift, a scale and a gate for each of the two."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention: Attention,
        over: Over = "joint",
        mlp_ratio: float = 4.0,
        qk_norm: QKNorm = "none",
        activation: Activation = "gelu",
        dropout: float = 0.0,
        norm: Norm = "layer",
        modulation: Steering = "zero",
    ):
        super().__init__()
        self.over, self.norm = over, NORMS[norm]
        self.adaln = MODULATIONS[modulation](dim, self.vectors)
        self.attn = SelfAttention(dim, num_heads, attention, qk_norm, dropout)
        self.mlp = MLP(dim, round(dim * mlp_ratio), activation, dropout)

    def forward(self, x: Tensor, c: Tensor, rotation: Rotation | None = None, *told: Any) -> Tensor:
        """x (B,T,S,D), c (B,T or 1,1,D), and what `look` is told -> (B,T,S,D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaln(c, x.dtype)
        x = torch.addcmul(x, gate_a, self.attend(modulate(x, shift_a, scale_a, self.norm), rotation))
        x = self.look(x, *told)
        return torch.addcmul(x, gate_m, self.mlp(modulate(x, shift_m, scale_m, self.norm)))

    def look(self, x: Tensor) -> Tensor:
        """(B,T,S,D) -> (B,T,S,D): what comes between the two; here nothing."""
        return x

    def modulated(self, x: Tensor, c: Tensor, *_: Any) -> Tensor:
        """What the attention is given (B,T,S,D)."""
        shift, scale, *_ = self.adaln(c, x.dtype)
        return modulate(x, shift, scale, self.norm)

    def attend(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        """(B,T,S,D) -> (B,T,S,D), tokens meeting along `over`."""
        layout = LAYOUTS[self.over]
        b, t, s, _ = x.shape
        y = self.attn(rearrange(x, f"b t s d -> {layout}"), rotation)
        return rearrange(y, f"{layout} -> b t s d", b=b, t=t, s=s)


class AdaLNHead(nn.Module):
    """The last layer: modulated norm and a Linear that starts at zero, so a fresh network answers 0."""

    def __init__(self, dim: int, out: int, norm: Norm = "layer"):
        super().__init__()
        self.norm = NORMS[norm]
        self.adaln = Modulation(dim, 2)
        self.linear = nn.Linear(dim, out)
        self.reset_to_zero()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B,T,S,D), c (B,T or 1,1,D) -> (B,T,S,out)."""
        return self.linear(modulate(x, *self.adaln(c, x.dtype), self.norm))

    def reset_to_zero(self) -> None:
        """The answer becomes zero."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
