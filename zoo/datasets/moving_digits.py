"""Handwritten digits that bounce inside the frame: Moving MNIST's law on data that needs no download.

After Srivastava et al., "Unsupervised Learning of Video Representations using LSTMs" (arXiv 1502.04681, section 4.1),
with the 1,797 real digits (8x8) of the UCI "Optical Recognition of Handwritten Digits" set that
scikit-learn carries. A digit is a continuous picture (a cubic through its 8x8 samples, strokes sharpened), drawn
afresh at its exact position in every frame: motion is smooth below a pixel, and nothing is ever resampled twice.

Axes: D digits, T frames, H W pixels, 8 samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from math import comb
from typing import Annotated, Any, Literal

import numpy as np
import torch

from vidiff.random import generator
from vidiff.registry import DATASETS
from vidiff.types import Count, NonNegative, Positive, Range

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}  # of the handwritten instances of each class


@DATASETS.register("moving_digits", tiny=dict(size=12, frames=5, digits=2, length=7))
class MovingDigits:
    """Digits that move straight on and bounce off the frame's edges, brighter one on top; endless and label-exact.

    `shape` (channels, frames, size, size); `digit_size` in pixels, by default 7/16 of the frame as in Moving MNIST;
    `speed` in pixels a frame, one number or [min, max], by default 1/32 to 1/16 of the frame. Clips take turns between
    that shape and `more_shapes` (frames, height, width), where digits and speed shrink or grow with the shorter side:
    the same world, filmed longer, wider or in other pixels. The label is the digit,
    or for several the number of the unordered combination (55 for two digits: nothing tells "3 and 7" from
    "7 and 3"); `labels: none` leaves label and text away.
    Validation and test draw handwritten instances that training never shows (the source does not say who wrote
    which). The stream is endless; `length` says what an epoch of training is, the other splits have a tenth of it.
    Raises ValueError when a digit does not fit the frame or scikit-learn is missing.
    """

    def __init__(
        self,
        size: Count = 64,
        frames: Count = 16,
        digits: Annotated[int, Range(min=1, max=9)] = 2,
        digit_size: Count | None = None,
        speed: NonNegative | tuple[NonNegative, NonNegative] | None = None,
        channels: Literal[1, 3] = 1,
        labels: Literal["digits", "none"] = "digits",
        fps: Positive = 8.0,
        length: Count = 10_000,
        more_shapes: tuple[tuple[Count, Count, Count], ...] = (),
        *,
        seed: int,
        split: str,
    ):
        self.digits, self.fps, self.seed, self.split = digits, fps, seed, split
        self.shape, self.size = (channels, frames, size, size), size
        self.shapes = (self.shape, *((channels, *more) for more in more_shapes))
        self.digit_size = digit_size or max(1, round(size * 7 / 16))
        if self.digit_size > size:
            raise ValueError(f"digits of {self.digit_size} pixels do not fit a frame of {size}x{size}.")
        speed = (size / 32, size / 16) if speed is None else speed
        self.slowest, self.fastest = (speed, speed) if isinstance(speed, (int, float)) else speed
        if self.slowest > self.fastest:
            raise ValueError(f"speed [{self.slowest:g}, {self.fastest:g}] is [min, max]: swap them.")
        self.length = length if split == "train" else max(1, length // 10)
        self._pictures, self._classes = handwriting(split)
        self.num_classes = comb(9 + digits, digits) if labels == "digits" else 0

    def __len__(self) -> int:
        return self.length

    def shape_of(self, i: int) -> tuple[int, int, int, int]:
        """(C,T,H,W) of clip i: all shapes in turn."""
        return self.shapes[i % self.length % len(self.shapes)]

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Clip i of an endless stream: {"video": uint8 (C,T,H,W), "label": int, "text": "3 and 7", "fps": float}."""
        channels, frames, *sides = self.shape_of(i)
        zoom = min(sides) / self.size
        digit_size = max(1, round(self.digit_size * zoom))
        # Per digit: which instance, x and y at the start, direction, speed.
        random = generator(self.seed, "moving_digits", self.split, i)
        draws = torch.rand(self.digits, 5, generator=random).double().numpy()
        chosen = (draws[:, 0] * len(self._classes)).astype(int)
        angle = 2 * np.pi * draws[:, 3]
        speed = zoom * (self.slowest + (self.fastest - self.slowest) * draws[:, 4])
        room = np.array(sides) - digit_size  # (2,): down, right
        velocity = speed[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)  # (D,2): down, right
        corner = bounce(room * draws[:, 1:3], velocity, frames, room)  # (D,T,2)
        video = render(self._pictures[chosen], corner, sides, digit_size)  # (T,H,W)
        classes = sorted(self._classes[chosen].tolist())
        item = {"video": torch.from_numpy(video)[None].repeat(channels, 1, 1, 1), "fps": self.fps}
        if self.num_classes:
            item |= {"label": combination(classes), "text": " and ".join(map(str, classes))}
        return item


def combination(classes: list[int]) -> int:
    """The number of an unordered combination, classes ascending (combinatorial number system); one digit is itself."""
    return sum(comb(c + k, k + 1) for k, c in enumerate(classes))


def bounce(start: np.ndarray, velocity: np.ndarray, frames: int, room: np.ndarray | float) -> np.ndarray:
    """Elastic reflection between 0 and `room` (2,): start, velocity (D,2) -> positions (D,T,2), a triangle wave."""
    unfolded = start[:, None] + velocity[:, None] * np.arange(frames)[:, None]
    return np.where(room == 0, 0.0, room - np.abs(unfolded % (2 * np.maximum(room, 1e-9)) - room))


def render(pictures: np.ndarray, corner: np.ndarray, sides: Sequence[int], digit_size: int) -> np.ndarray:
    """pictures (D,8,8) at corners (D,T,2) = (top, left) -> uint8 (T,H,W); where they overlap, the brighter."""
    down, right = (spline(corner[..., k], side, digit_size) for k, side in enumerate(sides))  # (D,T,H,8), (D,T,W,8)
    ink = down @ pictures[:, None] @ right.swapaxes(-1, -2)  # (D,T,H,W)
    return (sharpen(ink.max(axis=0), digit_size) * 255 + 0.5).astype(np.uint8)


def spline(corner: np.ndarray, size: int, digit_size: int) -> np.ndarray:
    """What each of 8 samples gives to each pixel of an axis: corner (...) -> (...,size,8), zero beyond two samples."""
    pixels = np.arange(size, dtype=np.float32) + 0.5
    x = (pixels - corner[..., None].astype(np.float32)) * (8 / digit_size)  # in samples from the digit's edge
    x = np.abs(x[..., None] - (np.arange(8, dtype=np.float32) + 0.5))
    return mitchell(x)


def mitchell(x: np.ndarray) -> np.ndarray:
    """The cubic B = C = 1/3 of Mitchell & Netravali (1988), x >= 0: neither jagged nor blurred."""
    near = ((7 * x - 12) * x) * x + 16 / 3
    far = ((-7 / 3 * x + 12) * x - 20) * x + 32 / 3
    return np.where(x < 1, near, np.where(x < 2, far, 0)) / 6


def sharpen(ink: np.ndarray, digit_size: int) -> np.ndarray:
    """Ink of the 8x8 samples -> strokes with edges a pixel wide. At 0.4 the fewest digits break or close up."""
    return np.clip((ink - 0.4) * (digit_size / 8) + 0.5, 0, 1)


@lru_cache(maxsize=3)
def handwriting(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The instances of a split: pictures (N,8,8) of ink 0..1 and their classes (N,)."""
    if split not in SHARES:
        raise ValueError(f"split '{split}' is not known. Known: {', '.join(SHARES)}.")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError('moving_digits draws scikit-learn\'s digits: pip install -e ".[digits]"') from None
    bunch = load_digits()
    pictures, classes = (bunch.images / 16).astype(np.float32), bunch.target
    mine = np.concatenate([share_of(np.flatnonzero(classes == c), pictures, split) for c in range(10)])
    return pictures[mine], classes[mine]


def share_of(members: np.ndarray, pictures: np.ndarray, split: str) -> np.ndarray:
    """This split's part of the instances of one class, in an order that only their pixels decide."""
    ordered = sorted(members.tolist(), key=lambda i: hashlib.sha256(pictures[i].tobytes()).digest())
    ends = np.round(np.cumsum([0, *SHARES.values()]) * len(ordered)).astype(int)
    k = list(SHARES).index(split)
    return np.array(ordered[ends[k] : ends[k + 1]])
