"""What is drawn: how a sampler is put to use, and what of the video is known beforehand.

Axes: B batch, C channels, T frames, H W; c t h w the latent's grid; S steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn
from vidiff.diffusion.noise import PriorRandom
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, start
from vidiff.types import Grid

Frames = Literal["first", "last", "ends", "every", "none"]
"""Frames that are known: the first or last `count`, `count` at both ends, every `count`-th, or none."""


class Known(NamedTuple):
    """What is known of the latents: latent (B,c,t,h,w), and mask (c,t,h,w) bool, True where it is known."""

    latent: Tensor
    mask: Tensor

    @property
    def frames(self) -> Tensor:
        """(B,t) bool: the latent frames of which everything is known."""
        return self.mask.all(0).flatten(1).all(1).expand(len(self.latent), -1)

    @property
    def shown(self) -> Tensor:
        """The latent, zero where nothing is known."""
        return self.latent * self.mask


@dataclass
class Sampling:
    """All that it takes to draw a batch of latents.

    `believe(known)` is the guided estimate of x_t on `path`; a conditioner that shows known frames is told these.
    `framewise` says that the network takes frames at time 0 beside others. `known` are the given videos, for a task
    that takes them; into `notes` goes what a task has to report.
    """

    sampler: Sampler
    path: Path
    times: Tensor
    random: PriorRandom
    grid: Grid
    device: torch.device
    believe: Callable[[Known | None], EstimateFn]
    framewise: bool = False
    known: Known | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def noise(self) -> Tensor:
        """A draw of the prior, (B,c,t,h,w)."""
        return self.random.normal((len(self.random.random.rows), *self.grid)).to(self.device)

    def start(self) -> Tensor:
        """x at the first time, when nothing is known."""
        return start(self.path, self.noise(), self.times[0])

    def run(self, estimate: EstimateFn, x: Tensor, times: Tensor | None = None) -> Tensor:
        """The sampler from the first of these times (S+1,) or (S+1,t) to the last; by default from noise to data."""
        return self.sampler(estimate, x, self.times if times is None else times, self.path, self.random)


@dataclass(frozen=True)
class Canvas:
    """The videos to draw: their shape (C,T,H,W), the grid of their latents, and the tokenizer between them."""

    shape: tuple[int, int, int, int]
    grid: Grid
    tokenizer: Any

    def cells(self, pixels: Tensor, whole_frames: bool = False) -> Tensor:
        """Which elements of the latent are known (c,t,h,w) when these pixels (T,H,W) bool are.

        Each by itself where the tokenizer only moves pixels about, else (and with `whole_frames`) the latent frames all
        of whose frames are known. Raises ValueError when nothing is, and for parts of frames that are mixed.
        """
        if self.moves_pixels() and not whole_frames:
            cells = self.tokenizer.encode(pixels.double().expand(1, *self.shape))[0] == 1
        else:
            whole = pixels.flatten(1).all(1)
            if (pixels.flatten(1).any(1) != whole).any():
                raise ValueError(
                    "a part of a frame cannot be known: this tokenizer mixes its pixels with others. "
                    "Use whole frames (box: null), or tokenizer: tubelet."
                )
            known = torch.stack([whole[first:last].all() for first, last in self.spans()])
            cells = known[None, :, None, None].expand(self.grid)
        if pixels.any() and not cells.any():
            each = self.shape[1] // self.grid.t
            raise ValueError(f"no latent frame is known: one of them holds {each} frames, all of which must be.")
        return cells

    def pixels(self, cells: Tensor) -> Tensor:
        """The pixels (T,H,W) bool that known cells (c,t,h,w) amount to."""
        if self.moves_pixels():
            return (self.tokenizer.decode(cells[None].double())[0] == 1).all(0)
        frames = torch.zeros(self.shape[1:], dtype=torch.bool)
        for known, (first, last) in zip(cells.all(0).flatten(1).all(1), self.spans(), strict=True):
            frames[first:last] = known
        return frames

    def moves_pixels(self) -> bool:
        """Whether the latent is a permutation of the pixels."""
        if any(True for _ in self.tokenizer.parameters()):
            return False
        pixels = torch.arange(torch.tensor(self.shape).prod().item(), dtype=torch.float64)
        return torch.equal(self.tokenizer.encode(pixels.reshape(1, *self.shape)).flatten().sort().values, pixels)

    def spans(self) -> list[tuple[int, int]]:
        """The frames (first, last + 1) of each latent frame: equal parts, or one frame and equal parts of the rest.

        Raises ValueError for a tokenizer that divides them otherwise.
        """
        frames, cells = self.shape[1], self.grid.t
        first = 1 if self.takes_one_frame() and frames != cells else 0
        if (frames - first) % max(cells - first, 1):
            raise ValueError(f"{frames} frames in {cells} latent frames: it cannot be told which belong together.")
        each = (frames - first) // max(cells - first, 1)
        return [(0, 1)][:first] + [(first + i * each, first + (i + 1) * each) for i in range(cells - first)]

    def takes_one_frame(self) -> bool:
        """Whether a single frame has a latent: causal tokenizers, and those that leave time alone."""
        channels, _, height, width = self.shape
        try:
            return Grid(*self.tokenizer.latent_shape((channels, 1, height, width))).t == 1
        except ValueError:
            return False

    def known_frames(self, count: int) -> int:
        """How many latent frames the first `count` frames fill."""
        return sum(last <= count for _, last in self.spans())


class Task:
    """What is drawn: by itself, videos from noise.

    `pixels` (T,H,W) bool and the `cells` (c,t,h,w) of the latent they fill are what is taken from given videos, None
    where none are taken. The builder passes `canvas` to a constructor that asks for it.
    """

    pixels: Tensor | None = None
    cells: Tensor | None = None

    def take(self, canvas: Canvas, pixels: Tensor, whole_frames: bool = False) -> None:
        """Take these pixels (T,H,W) bool of given videos, as far as they fill the latent. Raises ValueError."""
        self.cells = canvas.cells(pixels, whole_frames)
        self.pixels = canvas.pixels(self.cells)

    def check(self, sampler: Sampler, objective: Objective, reads: frozenset[str]) -> None:
        """Raises ValueError when this sampler, or what the model was trained for and reads, does not go with it."""

    def evaluations(self, sampler: Sampler) -> int | None:
        """How often the network is asked for a video; None when only the run itself can tell."""
        return sampler.evaluations

    def __call__(self, sampling: Sampling) -> Tensor:
        """Latents (B,c,t,h,w), t the canvas' frames or as many as the task says."""
        return sampling.run(sampling.believe(None), sampling.start())


def known_pixels(
    shape: tuple[int, int, int, int], frames: Frames, count: int, box: tuple[float, float, float, float] | None = None
) -> Tensor:
    """(T,H,W) bool for a video (C,T,H,W): whole frames and, with a box, of all others what lies outside it.

    The box is [top, left, height, width] in shares of the frame. Raises ValueError when all is known, or nothing.
    """
    _, num, height, width = shape
    number = torch.arange(num)
    whole = {
        "first": number < count,
        "last": number >= num - count,
        "ends": (number < count) | (number >= num - count),
        "every": number % count == 0,
        "none": number < 0,
    }[frames]
    known = whole[:, None, None].expand(num, height, width).clone()
    if box is not None:
        top, left = round(box[0] * height), round(box[1] * width)
        outside = torch.ones(height, width, dtype=torch.bool)
        outside[top : top + round(box[2] * height), left : left + round(box[3] * width)] = False
        known |= outside
    if known.all() or not known.any():
        what, few, size = ("every pixel", "fewer", "larger") if known.all() else ("nothing", "some", "smaller")
        given = f"frames is {frames}, count {count} of {num} frames" + (f", box {list(box)}" if box else "")
        other = f" or a {size} box" if box else ""
        raise ValueError(f"{what} of the video is known: {given}. Choose {few} frames{other}.")
    return known


def staircase(times: Tensor, slope: int, frames: int, wait: int = 0) -> Tensor:
    """Times per frame (S + slope (t - 1 - wait) + 1, t): each frame is `slope` steps behind the one before.

    times (S+1,). The first `wait` frames and the next one begin at once. Slope 0 is the same for all, slope S one
    frame after the other (Chen et al. 2024, 2407.01392, sec. 3.3, the pyramid schedule).
    """
    steps = len(times) - 1
    behind = slope * (torch.arange(frames, device=times.device) - wait).clamp(min=0)
    row = torch.arange(steps + slope * max(frames - 1 - wait, 0) + 1, device=times.device)
    return times[(row[:, None] - behind).clamp(0, steps)]
