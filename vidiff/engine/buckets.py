"""Clips of several shapes (frames, height, width) in one run: which clip has which, and which clips share a pass.

A step takes the same clips whatever their shapes: sample number n is clip `Order(n)`, as in a run of one shape, so
every clip of the plan is met once an epoch, and shapes are mixed within a step as they are in the data. Only then
are the clips of a step put together by shape, because a pass of the network has one:

    a pass holds at most as many latent tokens as batch_size / accumulate clips of the largest shape

so a run needs about the memory of one with that shape alone, and small clips are not fed one by one. The loss of a
step is the mean over its clips, whatever passes they were in: `accumulate` changes memory and speed, nothing else.
What has no place in a batch (a video shorter than every shape) is left out by name, never in silence.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from vidiff.building import Plan, grid_of
from vidiff.engine.data import SUBSTITUTES, Order, Tolerant
from vidiff.errors import Refused
from vidiff.types import BadSample, Dataset, shapes_of


class Buckets:
    """Every item of a data set under the number of its shape; those without one are left out.

    `shapes` (C,T,H,W), `tokens` of the latent of each; `kept` are the items in use, or None for all of them;
    `left_out` their (path, reason). A data set of one shape is not looked into.
    """

    def __init__(self, dataset: Dataset, tokens: Sequence[int]):
        self.shapes, self.tokens, self.length = shapes_of(dataset), list(tokens), len(dataset)
        self.kept: np.ndarray | None = None
        self.left_out: list[tuple[str, str]] = []
        if len(self.shapes) > 1:
            items = tqdm(range(self.length), desc="looking into clips", delay=2, leave=False, disable=None)
            self._numbers = np.array([self._number(dataset, item) for item in items], np.int16)
            self.kept = np.flatnonzero(self._numbers >= 0)
            self._members = [np.flatnonzero(self._numbers == number) for number in range(len(self.shapes))]

    def number(self, clip: int) -> int:
        """The number of the shape of a clip (item + visit * length)."""
        return 0 if self.kept is None else int(self._numbers[clip % self.length])

    def clip(self, row: int, number: int | None = None) -> int:
        """The row-th clip in use, or the row-th of those of one shape, counted on into further visits."""
        if self.kept is None:
            return row
        items = self.kept if number is None else self._members[number]
        if not len(items):
            name = "x".join(map(str, self.shapes[number or 0][1:]))
            raise Refused(f"no clip of this split has the shape {name}; take it from the list, or add such clips.")
        return int(items[row % len(items)]) + row // len(items) * self.length

    def substitutes(self, item: int) -> Iterator[int]:
        """An item and the next ones of its shape: what is tried when it cannot be read."""
        alike = self._members[self._numbers[item]]
        place = int(np.searchsorted(alike, item))
        yield from (int(alike[(place + shift) % len(alike)]) for shift in range(min(len(alike), SUBSTITUTES)))

    def tolerant(self, dataset: Dataset) -> Tolerant:
        """The data set with unreadable clips replaced by others of the same shape."""
        return Tolerant(dataset, None if self.kept is None else self.substitutes)

    def chunks(self, num: int, size: int) -> list[list[int]]:
        """The first `num` rows, those of one shape together, in parts of at most `size`."""
        numbers = [self.number(self.clip(row)) for row in range(num)]
        groups = [[row for row in range(num) if numbers[row] == n] for n in range(len(self.shapes))]
        return [rows[i : i + size] for rows in groups for i in range(0, len(rows), size)]

    @property
    def counts(self) -> list[int]:
        """How many items each shape has."""
        return [self.length] if self.kept is None else [len(members) for members in self._members]

    def most(self, largest: int) -> list[int]:
        """How many clips of each shape hold as many tokens as `largest` clips of the largest shape."""
        return [largest * max(self.tokens) // tokens for tokens in self.tokens]

    @property
    def mean_tokens(self) -> float:
        """Latent tokens of a clip, on average over an epoch."""
        return sum(t * n for t, n in zip(self.tokens, self.counts, strict=True)) / max(1, sum(self.counts))

    def record(self) -> dict[str, Any]:
        """What the run folder keeps: clips by shape, all that were left out, and a hash of who has which shape."""
        shapes = [
            {"shape": list(shape), "tokens": tokens, "clips": count}
            for shape, tokens, count in zip(self.shapes, self.tokens, self.counts, strict=True)
        ]
        left_out = [{"path": path, "reason": reason} for path, reason in self.left_out]
        digest = hashlib.sha256(self._numbers.tobytes()).hexdigest()
        return {"clips": self.length, "shapes": shapes, "left_out": left_out, "sha256": digest}

    def _number(self, dataset: Dataset, item: int) -> int:
        try:
            return self.shapes.index(tuple(dataset.shape_of(item)))
        except BadSample as error:
            self.left_out.append((error.path, error.reason))
            return -1


class Pass(NamedTuple):
    """Clips of one shape that go through the network together: their rows in the step's batch, their numbers."""

    rows: list[int]
    clips: list[int]


class Passes:
    """The passes of any step, a function of its number; with one shape, `accumulate` equal ones."""

    def __init__(self, buckets: Buckets, seed: int, batch_size: int, rows: range, accumulate: int):
        self.order = Order(buckets.length, seed, buckets.kept)
        self.buckets, self.batch_size, self.rows = buckets, batch_size, rows
        self.most = buckets.most(len(rows) // accumulate)

    def __call__(self, step: int) -> list[Pass]:
        """The passes of a step: each row of this process once, shape by shape."""
        clips = {row: self.order(step * self.batch_size + row) for row in self.rows}
        numbers = {row: self.buckets.number(clip) for row, clip in clips.items()}
        return [
            Pass(rows, [clips[row] for row in rows])
            for number, most in enumerate(self.most)
            for rows in evenly([row for row in self.rows if numbers[row] == number], most)
        ]


def evenly(rows: list[int], most: int) -> list[list[int]]:
    """Rows in order, cut into as few parts of at most `most` as it takes, as equal as they can be."""
    parts = math.ceil(len(rows) / most)
    return [rows[k * len(rows) // parts : (k + 1) * len(rows) // parts] for k in range(parts)]


def sort_clips(plan: Plan, dataset: Dataset | None = None) -> Buckets:
    """The clips of a data set (the training split's without one) by shape.

    Raises Refused when more of them have no shape than `train.max_bad_fraction` allows, or none has one.
    """
    dataset = plan.dataset if dataset is None else dataset
    tokens = [math.prod(grid_of(plan, shape)[1:]) for shape in shapes_of(dataset)]
    buckets = Buckets(dataset, tokens)
    out, limit = len(buckets.left_out), plan.config.train.max_bad_fraction
    if out and (out > limit * buckets.length or out == buckets.length):
        path, reason = buckets.left_out[-1]
        raise Refused(
            f"{out} of {buckets.length} clips have a place in no shape ({out / buckets.length:.0%}, "
            f"train.max_bad_fraction allows {limit:.0%}); the last: {path}: {reason}. Add a shape for them, "
            "take them away, or raise train.max_bad_fraction to leave them out."
        )
    return buckets


def table(plan: Plan, buckets: Buckets) -> list[str]:
    """What is kept and what is left out, as lines; none for clips of one shape."""
    if len(buckets.shapes) == 1:
        return []
    total, train = max(1, sum(buckets.counts)), plan.config.train
    mosts = buckets.most(train.batch_size // train.accumulate)
    lines = [f"{'shapes':<12} {total} of {buckets.length} clips are used, a step takes them as they come:"]
    for shape, tokens, count, most in zip(buckets.shapes, buckets.tokens, buckets.counts, mosts, strict=True):
        name = "x".join(map(str, shape[1:]))
        lines.append(
            f"{'':<12} {name:>12} -> latent {grid_of(plan, shape)} = {tokens} tokens: {count} clips "
            f"({count / total:.0%}), at most {most} a pass"
        )
    if buckets.left_out:
        lines.append(f"{'':<12} left out: {len(buckets.left_out)}, all named in the run folder's buckets.json:")
        lines += [f"{'':<12}   {path}: {reason}" for path, reason in buckets.left_out[:5]]
    return lines
