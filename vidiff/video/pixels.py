"""The one normalisation of the house, and the one way a frame is cut to size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def to_float(video: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 0..255 -> [-1,1]; what is no byte is there already."""
    return ((video.float() / 127.5 - 1.0) if video.dtype == torch.uint8 else video).to(dtype)


def to_uint8(video: Tensor) -> Tensor:
    """About [-1,1] -> uint8 0..255: rounded, clamped; what is not a number becomes 0, bytes stay."""
    if video.dtype == torch.uint8:
        return video
    return ((video.float() + 1.0) * 127.5).nan_to_num(0.0).round().clamp(0, 255).to(torch.uint8)


def gray(video: Tensor) -> Tensor:
    """The luma of BT.601: uint8 (3,T,H,W) -> (1,T,H,W)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=video.device)
    return (video.float() * weights[:, None, None, None]).sum(0, keepdim=True).round().to(torch.uint8)


def fit(frame: Tensor, height: int, width: int) -> Tensor:
    """The largest middle part of this shape, scaled with antialiasing: uint8 (H,W,C) -> (height,width,C)."""
    h, w = frame.shape[:2]
    share = min(h / height, w / width)
    cut_h, cut_w = max(1, round(height * share)), max(1, round(width * share))
    top, left = (h - cut_h) // 2, (w - cut_w) // 2
    cut = frame[top : top + cut_h, left : left + cut_w].contiguous()
    if (cut_h, cut_w) == (height, width):
        return cut
    scaled = F.interpolate(rearrange(cut, "h w c -> 1 c h w"), (height, width), mode="bicubic", antialias=True)
    return rearrange(scaled, "1 c h w -> h w c")
