"""The U-Net of Video Diffusion Models: convolutions in space, attention in space and, apart, along time.

Ho et al. 2022 (2204.03458), sec. 3 and fig. 1, in the form of github.com/lucidrains/video-diffusion-pytorch:
convolutions are 1x3x3; every level has linear attention within a frame (Shen et al. 2018, 1812.01243) and attention
along time with rotary positions (RoFormer, 2104.09864) and learned biases of the distance in time (T5, 1910.10683,
sec. 2.1); the middle has full attention within a frame. Norms are RMS over channels in blocks, LayerNorm without
bias before attention.

Axes: B batch, C channels, t h w, E width of what steers the blocks.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.precision import no_autocast
from vidiff.registry import BACKBONES
from vidiff.types import Attention, Cond, CondSpec, Count, Grid, Positive
from zoo.layers.attention import Rotation, rotate
from zoo.layers.embeddings import MAX_PERIOD, finest, rounded_frequencies
from zoo.layers.unet import UNet, double, halve, steer

SPACE_HEAD = 32
"""Channels of a head in spatial attention; `head_dim` is that of temporal attention."""
BUCKETS, FARTHEST = 32, 32
"""How many distances in time are told apart, and from which on they are all one."""


class SineTime(nn.Module):
    """Time to a width: [sin, cos] of periods from 2 pi to 20000 pi, both ends included, then Linear, GELU, Linear."""

    def __init__(self, frequencies: int, dim: int, scale: float):
        """Raises ValueError when the frequencies do not split into at least two sines and cosines."""
        super().__init__()
        if frequencies % 2 or frequencies < 4:
            raise ValueError(f"dim={frequencies} gives no sinusoids of time: use an even dim of at least 4.")
        self.half, self.scale = frequencies // 2, scale
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        """time (...,) -> (...,E), sinusoids in float32, then in the precision of the weights."""
        exponent = torch.arange(self.half, device=time.device) * -(math.log(MAX_PERIOD) / (self.half - 1))
        turns = (time * self.scale).float()[..., None] * exponent.exp()
        with no_autocast(time.device):
            return self.mlp(torch.cat([turns.sin(), turns.cos()], dim=-1).to(self.mlp[0].weight.dtype))


class ChannelNorm(nn.Module):
    """x / rms(x) * weight over channels."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,t,h,w) -> (B,C,t,h,w)."""
        gain = (self.weight * len(self.weight) ** 0.5).to(x.dtype)
        return F.normalize(x, dim=1) * rearrange(gain, "c -> c 1 1 1")


class ResBlock(nn.Module):
    """Twice: convolution, norm, SiLU; steered after the first norm; around both a skip."""

    def __init__(self, dim: int, out: int, steered_by: int = 0):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv3d(n, out, (1, 3, 3), padding=(0, 1, 1)) for n in (dim, out))
        self.norm1, self.norm2 = ChannelNorm(out), ChannelNorm(out)
        self.steer = nn.Linear(steered_by, 2 * out) if steered_by else None
        self.skip = nn.Conv3d(dim, out, 1) if dim != out else nn.Identity()

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """x (B,C,t,h,w), e (B,1 or t,E) -> (B,out,t,h,w)."""
        y = self.norm1(self.conv1(x))
        y = F.silu(y if self.steer is None else steer(y, self.steer(F.silu(e))))
        return F.silu(self.norm2(self.conv2(y))) + self.skip(x)


class PlaceNorm(nn.Module):
    """LayerNorm over channels, which come last, with a gain and no bias."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(...,C) -> (...,C)."""
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), eps=1e-5).to(x.dtype)


class LinearSpaceAttention(nn.Module):
    """x + attention within a frame at a cost linear in its places: softmax(q) (softmax(k)^T v)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads, inner = num_heads, num_heads * SPACE_HEAD
        self.norm = PlaceNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * inner, bias=False), nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,t,h,w) -> (B,C,t,h,w)."""
        y = self.qkv(self.norm(rearrange(x, "b c t h w -> b t (h w) c")))
        q, k, v = rearrange(y, "b t n (three heads d) -> three b t heads n d", three=3, heads=self.num_heads).unbind(0)
        q, k = q.softmax(-1) * SPACE_HEAD**-0.5, k.softmax(-2)
        y = q @ (k.transpose(-1, -2) @ v).to(q.dtype)
        return x + frames(self.proj(rearrange(y, "b t heads n d -> b t n (heads d)")), x.shape[-2])


class SpaceAttention(nn.Module):
    """x + full attention within a frame."""

    def __init__(self, dim: int, num_heads: int, attention: Attention):
        super().__init__()
        self.num_heads, self.attention, inner = num_heads, attention, num_heads * SPACE_HEAD
        self.norm = PlaceNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * inner, bias=False), nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,t,h,w) -> (B,C,t,h,w)."""
        y = self.qkv(self.norm(rearrange(x, "b c t h w -> (b t) (h w) c")))
        q, k, v = rearrange(y, "b n (three heads d) -> three b heads n d", three=3, heads=self.num_heads).unbind(0)
        y = self.proj(rearrange(self.attention(q, k, v), "b heads n d -> b n (heads d)"))
        return x + frames(y.unflatten(0, (len(x), -1)), x.shape[-2])


class TimeAttention(nn.Module):
    """x + attention of a place along time, with rotary positions and a bias per head and distance."""

    def __init__(self, dim: int, num_heads: int, head_dim: int):
        super().__init__()
        self.num_heads, inner = num_heads, num_heads * head_dim
        self.norm = PlaceNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * inner, bias=False), nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, rotation: Rotation, bias: Tensor) -> Tensor:
        """x (B,C,t,h,w), bias (B or 1,1,heads,t,t) -> (B,C,t,h,w)."""
        y = self.qkv(self.norm(rearrange(x, "b c t h w -> b (h w) t c")))
        q, k, v = rearrange(y, "b n t (three heads d) -> three b n heads t d", three=3, heads=self.num_heads).unbind(0)
        q, k = rotate(q, rotation), rotate(k, rotation)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias).softmax(-1)
        y = self.proj(rearrange(weights.to(v.dtype) @ v, "b n heads t d -> b n t (heads d)"))
        return x + rearrange(y, "b (h w) t c -> b c t h w", h=x.shape[-2])


class Level(nn.Module):
    """Two blocks, attention in space, attention in time; then half or twice the size."""

    def __init__(
        self, dim: int, out: int, steered_by: int, num_heads: int, head_dim: int, linear: bool, resize: nn.Module
    ):
        super().__init__()
        self.res1, self.res2 = ResBlock(dim, out, steered_by), ResBlock(out, out, steered_by)
        self.space = LinearSpaceAttention(out, num_heads) if linear else nn.Identity()
        self.time, self.resize = TimeAttention(out, num_heads, head_dim), resize

    def forward(self, x: Tensor, e: Tensor, rotation: Rotation, bias: Tensor) -> tuple[Tensor, Tensor]:
        """x (B,C,t,h,w) -> (B,out,t,h,w), and the same resized."""
        x = self.time(self.space(self.res2(self.res1(x, e), e)), rotation, bias)
        return x, self.resize(x)


class Middle(nn.Module):
    """A block, full attention in space, attention in time, a block."""

    def __init__(self, dim: int, steered_by: int, num_heads: int, head_dim: int, attention: Attention):
        super().__init__()
        self.res1, self.res2 = ResBlock(dim, dim, steered_by), ResBlock(dim, dim, steered_by)
        self.space, self.time = SpaceAttention(dim, num_heads, attention), TimeAttention(dim, num_heads, head_dim)

    def forward(self, x: Tensor, e: Tensor, rotation: Rotation, bias: Tensor) -> Tensor:
        """(B,C,t,h,w) -> (B,C,t,h,w)."""
        return self.res2(self.time(self.space(self.res1(x, e)), rotation, bias), e)


class Distances(nn.Module):
    """A learned number per head and distance in time; far distances share one, and so do ranges on the way there."""

    def __init__(self, num_heads: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(BUCKETS, num_heads))

    def forward(self, t: int) -> Tensor:
        """(heads,t,t): from the asking frame (row) to the one asked (column)."""
        frame = torch.arange(t, device=self.table.device)
        return rearrange(self.table[bucket(frame - frame[:, None])], "i j heads -> heads i j")


def bucket(distance: Tensor) -> Tensor:
    """Distances in frames -> rows of the table: 0-7 each their own, then 8 ranges up to 32; the future apart."""
    one_side = BUCKETS // 2
    exact, far = one_side // 2, distance.abs()
    share = torch.log(far.float() / exact) / math.log(FARTHEST / exact)
    ranged = (exact + (share * (one_side - exact)).long()).clamp(max=one_side - 1)
    return (distance > 0).long() * one_side + torch.where(far < exact, far, ranged)


def frames(y: Tensor, h: int) -> Tensor:
    """(B,t,h*w,C) -> (B,C,t,h,w)."""
    return rearrange(y, "b t (h w) c -> b c t h w", h=h)


@BACKBONES.register("unet3d", tiny=dict(dim=16, multipliers=[1, 2], num_heads=2, head_dim=8, kernel=3))
class UNet3D(UNet):
    """The factorized space-time U-Net of Video Diffusion Models.

    x (B,c,t,h,w), time (B,) or (B,t), cond.vector (B,V), cond.channels (B,k,t,h,w) -> (B,out_channels,t,h,w).
    Level i has dim * multipliers[i] channels and half the height and width of the one before.
    """

    def __init__(
        self,
        dim: Count = 64,
        multipliers: tuple[Count, ...] = (1, 2, 4, 8),
        num_heads: Count = 8,
        head_dim: Count = 32,
        kernel: Count = 7,
        linear_attention: bool = True,
        time_scale: Positive = 1000.0,
        recompute: bool = False,
        *,
        grid: Grid,
        out_channels: int,
        cond: CondSpec,
        attention: Attention,
    ):
        """Raises ValueError for an even kernel, and for a dim without sinusoids."""
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel} has no middle: use kernel={kernel + 1}.")
        widths = [dim, *(dim * m for m in multipliers)]
        steps, e = list(pairwise(widths)), 4 * dim + cond.vector
        more = dict(steered_by=e, num_heads=num_heads, head_dim=head_dim, linear=linear_attention)
        last = len(steps) - 1
        super().__init__(
            time=SineTime(dim, 4 * dim, time_scale),
            stem=nn.Conv3d(grid[0], dim, (1, kernel, kernel), padding=(0, kernel // 2, kernel // 2)),
            down=[
                Level(a, b, **more, resize=halve(b) if i < last else nn.Identity())
                for i, (a, b) in enumerate(steps)
            ],
            middle=Middle(widths[-1], e, num_heads, head_dim, attention),
            up=[
                Level(2 * b, a, **more, resize=double(a) if i < last else nn.Identity())
                for i, (a, b) in enumerate(reversed(steps))
            ],
            head=nn.Sequential(ResBlock(2 * dim, dim), nn.Conv3d(dim, out_channels, 1)),
            recompute=recompute, grid=grid, cond=cond,
            stem_time=TimeAttention(dim, num_heads, head_dim),
            distances=Distances(num_heads),
        )  # fmt: skip
        self.attention, self.head_dim, self.turned = attention, SPACE_HEAD, min(32, head_dim)
        self.time_head_dim = head_dim

    def forward(self, x: Tensor, time: Tensor, cond: Cond, present: Tensor | None = None) -> Tensor:
        """x (B,c,t,h,w), time (B,) or (B,t), present (B,) bool -> (B,out_channels,t,h,w).

        Frames of a sample that is `present` see themselves only (sec. 3.1: images in joint training).
        Raises ValueError for sizes that do not fit.
        """
        t = x.shape[2]
        bias = self.distances(t)[None, None]
        if present is not None:
            others = ~torch.eye(t, dtype=torch.bool, device=x.device)
            bias = bias.masked_fill(present[:, None, None, None, None] & others, torch.finfo(bias.dtype).min)
        return super().forward(x, time, cond, self.rotation(t, x.device), bias)

    def enter(self, x: Tensor, cond: Cond, rotation: Rotation, bias: Tensor) -> Tensor:
        """x (B,c,t,h,w) -> (B,C,t,h',w'); here all frames are seen by all, as in the official code."""
        return self.stem_time(super().enter(x, cond), rotation, self.distances(x.shape[2])[None, None])

    def rotation(self, t: int, device: torch.device) -> Rotation:
        """cos, sin (t,Dh): at most 32 channels of a head are turned."""
        exact = finest(device)
        w = rounded_frequencies(self.turned).to(device, exact)
        turns = (torch.arange(t, dtype=exact, device=device)[:, None] * w).repeat_interleave(2, dim=-1)
        turns = F.pad(turns, (0, self.time_head_dim - turns.shape[-1]))
        kept = torch.promote_types(self.distances.table.dtype, torch.float32)
        return turns.cos().to(kept), turns.sin().to(kept)
