"""Where AMP stays out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def no_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which AMP casts nothing; nothing to do on the meta device, which knows no AMP."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class WideConv3d(nn.Conv3d):
    """A 3-D convolution that AMP does not touch."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B,C,T,H,W) -> (B,D,T',H',W') in the precision of the weights."""
        with no_autocast(x.device):
            return super().forward(x.to(self.weight.dtype))


def widen_convolutions(module: nn.Module, device: torch.device, precision: str) -> nn.Module:
    """Keep 3-D convolutions in fp32 where bf16 ones are broken: on CPUs.

    torch 2.13's bf16 Conv3d returns garbage weight gradients on small grids (benchmarks/conv3d_bf16.py shows it).
    """
    if device.type == "cpu" and precision == "bf16":
        for child in module.modules():
            if type(child) is nn.Conv3d:
                child.__class__ = WideConv3d
    return module
