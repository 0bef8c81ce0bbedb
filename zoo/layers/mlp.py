"""The token-wise network of a transformer block."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["gelu", "gelu_tanh", "swiglu"]

ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh")}
"""The exact one is the default: uncompiled on a CPU the tanh form takes three times as long, and nothing
else tells them apart. DiT, SiT, Latte and Nano-Sora were trained with the tanh form."""


def swiglu(gate_and_value: Tensor) -> Tensor:
    """SiLU(gate) * value of the two halves: Shazeer 2020 (2002.05202), eq. 6. (...,2F) -> (...,F)."""
    gate, value = gate_and_value.chunk(2, dim=-1)
    return F.silu(gate) * value


class MLP(nn.Module):
    """Linear, GELU, Linear; or with `swiglu` Linear to twice the width, SwiGLU, Linear.

    SwiGLU's three matrices are 2/3 as wide each (Shazeer, sec. 2), so a comparison of activations is one of
    equal parameters and FLOPs.
    """

    def __init__(self, dim: int, hidden: int, activation: Activation = "gelu", dropout: float = 0.0):
        super().__init__()
        gated = activation == "swiglu"
        hidden = round(hidden * 2 / 3) if gated else hidden
        self.fc1, self.fc2 = nn.Linear(dim, 2 * hidden if gated else hidden), nn.Linear(hidden, dim)
        self.activation = swiglu if gated else ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(...,D) -> (...,D)."""
        h = self.dropout(self.activation(self.fc1(x)))
        return self.dropout(self.fc2(h))
