"""What stands above generated videos: given or held-out ones, with an outline around what the model knew."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vidiff.building import Plan
from vidiff.engine.sample import Drawing, held_out_clips


def compared(made: Plan, drawing: Drawing, num: int) -> tuple[Tensor, Tensor]:
    """Given or held-out clips and the videos drawn, equally long, the known outlined: uint8 (num,C,T,H,W) each."""
    known = made.task.pixels
    if known is None:
        above = real_clips(made, num)
    else:
        above = torch.stack([entry["video"] for entry in drawing.conditions[:num]])
    below = drawing.video[:num].clone()
    frames = max(above.shape[2], below.shape[2])
    above, below = (F.pad(v, (0, 0, 0, 0, 0, frames - v.shape[2])) for v in (above, below))
    if known is not None and not known.all():
        marked = F.pad(outline(known), (0, 0, 0, 0, 0, frames - len(known)))
        above, below = above.masked_fill(marked, 255), below.masked_fill(marked, 255)
    return above, below


def outline(known: Tensor) -> Tensor:
    """The edge of a region (T,H,W) bool, one pixel wide, frame by frame."""
    unknown = F.pad((~known).float(), (1, 1, 1, 1), value=1.0)
    return known & (F.max_pool2d(unknown[:, None], 3, 1)[:, 0] > 0)


def real_clips(made: Plan, num: int) -> Tensor:
    """The first clips of the held-out split that have the shape drawn, uint8 (N,C,T,H,W)."""
    clips = held_out_clips(made, range(num), frozenset({"video"}))
    return torch.stack([torch.as_tensor(clip["video"]) for clip in clips])
