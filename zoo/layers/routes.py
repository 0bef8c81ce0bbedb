"""What backbones without a common base refuse alike: times and conditions that they were not built for."""

from __future__ import annotations

from torch import Tensor

from vidiff.types import Cond, CondSpec, Grid


def check_times(time: Tensor, grid: Grid) -> None:
    """time (B,) or (B,t). Raises ValueError for another number of times than of frames."""
    if time.ndim == 2 and time.shape[1] != grid.t:
        raise ValueError(f"{time.shape[1]} times for {grid.t} frames: give one per sample or one per frame.")


def check_conditions(cond: Cond, built: CondSpec, grid: Grid) -> None:
    """Raises ValueError when vector (B,V), tokens (B,L,K) or channels (B,k,t,h,w) are not what was announced."""
    if (cond.vector is not None) != bool(built.vector):
        raise ValueError(f"the network was built {'with' if built.vector else 'without'} a condition vector.")
    tokens = 0 if cond.tokens is None else cond.tokens.shape[-1]
    if tokens != built.tokens:
        raise ValueError(f"the network was built for text tokens {built.tokens} wide, and these are {tokens} wide.")
    have = None if cond.channels is None else Grid(*cond.channels.shape[1:])
    need = Grid(built.channels, *grid[1:]) if built.channels else None
    if have != need:
        raise ValueError(f"the condition's channels are {have or 'none'}; the network was built for {need or 'none'}.")


def check_sees_all(attention: object, what: str) -> None:
    """Raises ValueError, saying `what` is for all to see, when the attention leaves pairs out by itself."""
    if getattr(attention, "seen", None):
        name = getattr(attention, "name", type(attention).__name__)
        raise ValueError(f"{what} for all to see here, and attention {name} is local. Use attention=sdpa.")
