"""What diffusion transformers on video share: grid in, tokens, AdaLN blocks, grid out.

Peebles & Xie 2022 (2212.09748). A backbone adds what it is about: which blocks there are and how
tokens learn where they stand (`walk`).

Axes: B batch, c t h w the grid, S = h*w tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidiff.types import Cond, CondSpec, Grid
from zoo.layers.adaln import AdaLNHead
from zoo.layers.embeddings import TimeEmbedding, coordinates


class VideoTransformer(nn.Module):
    """Linear, blocks, Linear on the tokens of a grid; time and the condition's vector steer every block.

    x (B,c,t,h,w), time (B,) or (B,t), cond.vector (B,D), cond.channels (B,k,t,h,w) -> (B,out_channels,t,h,w),
    for any t, h, w. Channels enter beside the latent's by weights of their own that start at zero: a network that
    was trained without them answers as before. The residual stream stays in the precision of the weights under AMP.
    """

    uses = frozenset({"vector", "channels"})
    zero_init = True
    streams = 1

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        dim: int,
        time_scale: float,
        recompute: bool,
        grid: Grid,
        out_channels: int,
        cond: CondSpec,
        **others: nn.Module,
    ):
        """`others` are modules of the backbone's own; `time` and `head` replace those here, `shared` makes of c
        what the blocks get.

        Raises ValueError when the condition's vector has another width.
        """
        super().__init__()
        if cond.vector not in (0, dim):
            raise ValueError(
                f"the condition's vector is {cond.vector} wide and the network {dim}. Use dim={cond.vector}."
            )
        self.grid, self.out_channels, self.conditioned = Grid(*grid), out_channels, bool(cond.vector)
        self.recompute = recompute
        self.time = others.pop("time", None) or TimeEmbedding(dim, time_scale)
        self.embed = nn.Linear(self.grid.c, dim)
        self.embed_channels = ZeroLinear(cond.channels, dim, bias=False) if cond.channels else None
        self.blocks = nn.ModuleList(blocks)
        self.head = others.pop("head", None) or AdaLNHead(dim, out_channels)
        self.shared = others.pop("shared", None)
        for name, module in others.items():
            self.add_module(name, module)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier, then the zeros: last, so that nothing overwrites them (Nano-Sora does, and loses its identity)."""
        self.apply(xavier)
        for layer in (self.time.mlp[0], self.time.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for module in self.modules():
            if hasattr(module, "reset_to_zero"):
                module.reset_to_zero()

    def check(self, grid: Grid) -> None:
        """Raises ValueError when this network cannot take a latent of this grid."""
        if grid.c != self.grid.c:
            raise ValueError(f"the network was built for {self.grid.c} latent channels; {grid} has {grid.c}.")

    def forward(self, x: Tensor, time: Tensor, cond: Cond, **walk: Any) -> Tensor:
        """x (B,c,t,h,w), time (B,) or (B,t) -> (B,out_channels,t,h,w); `walk` goes to the blocks' walk.

        Raises ValueError for sizes that do not fit.
        """
        grid = Grid(*x.shape[1:])
        self.check(grid)
        c = self.condition(time, cond, grid)
        tokens = self.enter(x, cond)
        steering = c if self.shared is None else self.shared(c)
        y = self.head(self.walk(tokens, steering, grid, cond.coords, **walk), c)
        return rearrange(y, "b t (h w) c -> b c t h w", h=grid.h)

    def enter(self, x: Tensor, cond: Cond) -> Tensor:
        """x (B,c,t,h,w) and cond.channels (B,k,t,h,w) -> tokens (B,t,S,D). Raises ValueError when they do not fit."""
        tokens = self.embed(rearrange(x, "b c t h w -> b t (h w) c"))
        expected = self.embed_channels.in_features if self.embed_channels else 0
        given = cond.channels
        if (given is None) != (expected == 0) or (expected and given.shape[1:] != (expected, *x.shape[2:])):
            have = "none" if given is None else Grid(*given.shape[1:])
            need = Grid(expected, *x.shape[2:]) if expected else "none"
            raise ValueError(f"the condition's channels are {have}; the network was built for {need}.")
        if expected:
            tokens = tokens + self.embed_channels(rearrange(given, "b k t h w -> b t (h w) k"))
        return tokens.to(self.embed.weight.dtype)

    def condition(self, time: Tensor, cond: Cond, grid: Grid) -> Tensor:
        """What steers the blocks: time (B,) or (B,t), a vector (B,D) or (B,t,D) -> c (B,1,1,D) or (B,t,1,D)."""
        if time.ndim == 2 and time.shape[1] != grid.t:
            raise ValueError(f"{time.shape[1]} times for {grid.t} frames: give one per sample or one per frame.")
        if (cond.vector is not None) != self.conditioned:
            raise ValueError(f"the network was built {'with' if self.conditioned else 'without'} a condition vector.")
        c = self.time(time if time.ndim == 2 else time[:, None])
        if cond.vector is None:
            return c[:, :, None]
        if cond.vector.ndim == 3 and cond.vector.shape[1] != grid.t:
            raise ValueError(f"{cond.vector.shape[1]} vectors for {grid.t} frames: give one per sample or per frame.")
        return (c + (cond.vector if cond.vector.ndim == 3 else cond.vector[:, None]))[:, :, None]

    def walk(self, tokens: Tensor, c: Tensor, grid: Grid, coords: Tensor | None) -> Tensor:
        """tokens (B,t,S,D), at places (B,N,3) where each sample has its own, through the blocks -> (B,t,S,D)."""
        raise NotImplementedError

    def run(self, block: nn.Module, *inputs: Any) -> Any:
        """One block, its activations kept or, with `recompute`, computed again in the backward pass."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


class ZeroLinear(nn.Linear):
    """A Linear that starts at zero, so that what it brings in changes nothing at first."""

    def reset_to_zero(self) -> None:
        """The answer becomes zero."""
        nn.init.zeros_(self.weight)


class Placing:
    """What a `positions` module says about the tokens of one grid, laid out for blocks.

    `given` (B,N,3) are the places t, h, w of each sample's tokens, where frames are placed by the clock; the indices
    of the grid without them.
    """

    def __init__(self, positions: nn.Module, axes: str, grid: Grid, device: torch.device, given: Tensor | None = None):
        own = given is not None and "t" in axes
        coords = along(given, axes, grid) if own else coordinates(tuple(getattr(grid, axis) for axis in axes), device)
        added, rotation = positions.added(coords), positions.rotation(coords)
        b, frames = len(given) if own else 1, grid.t if "t" in axes else 1
        self._added = None if added is None else added.reshape(b, frames, -1, added.shape[-1])  # (B|1,t|1,S|1,D)
        # (N,Dh) each, or (B,N,Dh)
        self.rotation = None if rotation is None else tuple(r.flatten(int(own), -2) for r in rotation)

    def add(self, tokens: Tensor) -> Tensor:
        """tokens (B,t,S,D) -> (B,t,S,D)."""
        return tokens if self._added is None else tokens + self._added.to(tokens.dtype)


def along(given: Tensor, axes: str, grid: Grid) -> Tensor:
    """Places (B,N,3) of all tokens -> (B,*sizes,axes): those along "thw" or "t". Raises ValueError for other N."""
    if given.shape[1:] != (grid.t * grid.h * grid.w, 3):
        raise ValueError(
            f"coords are {tuple(given.shape[1:])} a sample, and {grid} has {grid.t * grid.h * grid.w} tokens."
        )
    whole = given.unflatten(1, grid[1:])
    return whole if axes == "thw" else whole[:, :, 0, 0, :1]


def xavier(module: nn.Module) -> None:
    """Glorot & Bengio's uniform weights and zero biases for a Linear."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
