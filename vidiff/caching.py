"""Caches: in steps that change little, parts of the network are not computed again, and the cache says how wrong it is.

What is kept belongs to one sampling run and, within it, to one row of one branch of guidance; never to the backbone.
Whether a row is computed depends on that row alone, so sample i is the same in any company. Whenever a row is computed
although something is kept for it, the two are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.blocks import Rows, as_streams, narrowed, places_of, replaced


@dataclass
class Tally:
    """What the caches of one drawing saved, and the errors they would have made where they were checked."""

    asked: int = 0
    reused: int = 0
    errors: list[float] = field(default_factory=list)

    def count(self, fresh: int, reused: int) -> None:
        """Note the rows of one call."""
        self.asked, self.reused = self.asked + fresh + reused, self.reused + reused

    def record(self) -> dict[str, Any]:
        """Rows asked for and answered from the cache; relative errors of what it kept against fresh answers."""
        num = len(self.errors)
        return {
            "rows": self.asked,
            "reused": self.reused,
            "saved": round(self.reused / max(1, self.asked), 4),
            "checked": num,
            "error_mean": sum(self.errors) / num if num else None,
            "error_max": max(self.errors, default=None),
        }


class CacheRun:
    """The state of one sampling run; this one keeps nothing."""

    @contextmanager
    def call(self, backbone: nn.Module, branches: Sequence[Hashable], rows: Rows) -> Iterator[None]:
        """A context for one call of the backbone on these branches, each of equally many rows."""
        yield


class Cache:
    """The settings of a cache; what it keeps is in the runs that it starts. This one keeps nothing.

    `off` is the setting with which a cache repeats nothing, and its value: then the answers have the bits of no cache,
    and it goes with every backbone. Where it can be put in, its runs still tell how wrong it would have been.
    """

    off: tuple[str, Any] | None = None

    @property
    def is_off(self) -> bool:
        """Whether it repeats nothing."""
        return self.off is not None and getattr(self, self.off[0]) == self.off[1]

    def start(self, tally: Tally) -> CacheRun:
        """The state of one sampling run, which counts into `tally`."""
        return CacheRun()

    def fits(self, backbone: nn.Module) -> None:
        """Raises ValueError for a backbone that it cannot be put into."""

    def check(self, backbone: nn.Module) -> None:
        """Raises ValueError for a backbone that it cannot be put into, unless it is off."""
        if not self.is_off:
            self.fits(backbone)


class OffRun(CacheRun):
    """A run of a cache that is off: measured where it fits, nothing elsewhere."""

    def __init__(self, cache: Cache, run: CacheRun):
        self.cache, self.run = cache, run
        self.backbone: nn.Module | None = None
        self.watching = CacheRun()

    @contextmanager
    def call(self, backbone: nn.Module, branches: Sequence[Hashable], rows: Rows) -> Iterator[None]:
        """Within, the answers are those of the backbone."""
        if backbone is not self.backbone:
            self.backbone, self.watching = backbone, self._run_for(backbone)
        with self.watching.call(backbone, branches, rows):
            yield

    def _run_for(self, backbone: nn.Module) -> CacheRun:
        """The run that measures, or one that keeps nothing where the cache cannot be put in."""
        try:
            self.cache.fits(backbone)
        except ValueError:
            return CacheRun()
        return self.run


Caching = Callable[[], CacheRun]
"""Makes the state of one sampling run."""


@dataclass
class Kept:
    """Of one row of one branch: what the skipped blocks added to each stream, what was looked at, summed changes."""

    rest: tuple[Tensor | None, ...] = ()
    look: Tensor | None = None
    sum: float = 0.0


class Stack(CacheRun):
    """Keeps what a stack of blocks adds to its streams; where a row is not fresh, that is added again.

    The first `always` blocks are computed for every row.
    """

    always = 0

    def __init__(self, tally: Tally):
        self.tally = tally
        self.kept: dict[Hashable, Kept] = {}

    def look(self, block: nn.Module, inputs: tuple[Any, ...], answer: Any) -> Tensor:
        """What tells of a change, (B,...): from the first block's inputs and, where it is computed, its answer."""
        raise NotImplementedError

    def fresh(self, kept: Kept, change: float, look: Tensor) -> bool:
        """Whether a row is computed, given the relative change of `look` since kept.look; updates `kept`."""
        raise NotImplementedError

    @contextmanager
    def call(self, backbone: nn.Module, branches: Sequence[Hashable], rows: Rows) -> Iterator[None]:
        """Within, blocks are skipped for the rows that changed little."""
        self.rows, self.streams, self.last = rows, backbone.streams, len(backbone.blocks) - 1
        self.keys = [(branch, i) for branch in branches for i in range(len(rows.now) // len(branches))]
        with replaced(places_of(backbone), lambda i: partial(self.step, i)):
            yield

    def step(self, i: int, block: nn.Module, *inputs: Any) -> Any:
        """The i-th block's answer, for the rows that are computed."""
        if i < self.always:
            answer = block(*inputs)
        elif i == 0:
            self.enter(self.look(block, inputs, None), inputs[: self.streams])
            answer = self.some(block, inputs)
        else:
            answer = self.some(block, inputs)
        if i == self.always - 1:
            self.enter(self.look(block, inputs, answer), as_streams(answer))
        return self.leave(answer) if i == self.last else answer

    def enter(self, look: Tensor, base: tuple[Tensor, ...]) -> None:
        """Decide which rows are computed from here on."""
        kept = [self.known(key, base[0][i], look[i]) for i, key in enumerate(self.keys)]
        old = [i for i, row in enumerate(kept) if row is not None]
        changes = dict(zip(old, relative([kept[i].look for i in old], look[old]), strict=True))
        decided = [row is None or self.fresh(row, changes[i], look[i]) for i, row in enumerate(kept)]
        self.base, self.before, self.looks = base, kept, look
        self.computed = [i for i, d in enumerate(decided) if d]
        self.stale = [i for i, d in enumerate(decided) if not d]
        self.tally.count(len(self.computed), len(self.stale))

    def known(self, key: Hashable, row: Tensor, look: Tensor) -> Kept | None:
        """What is kept of a row, unless it was of another size."""
        kept = self.kept.get(key)
        fits = kept is not None and kept.rest[0].shape == row.shape and kept.look.shape == look.shape
        return kept if fits else None

    def some(self, block: nn.Module, inputs: tuple[Any, ...]) -> Any:
        """A block's answer for the rows that are computed; the others pass as they are."""
        if not self.stale:
            return block(*inputs)
        entered = inputs[: self.streams]
        if not self.computed:
            return entered if self.streams > 1 else entered[0]
        index = torch.tensor(self.computed, device=entered[0].device)
        with self.rows.narrowed(index):
            answer = block(*narrowed(inputs, index, len(self.keys)))
        streams = tuple(
            stream if stream is None else whole.to(stream.dtype).index_copy(0, index, stream)
            for whole, stream in zip(entered, as_streams(answer), strict=True)
        )
        return streams if self.streams > 1 else streams[0]

    def leave(self, answer: Any) -> Any:
        """Keep what computed rows were given by the stack, and give the others what is kept."""
        streams, stale = list(as_streams(answer)), self.stale
        self.compare(streams[0], [i for i in self.computed if self.before[i] is not None])
        for i in self.computed:
            rest = tuple(s if s is None else s[i] - b[i] for s, b in zip(streams, self.base, strict=True))
            self.kept[self.keys[i]] = Kept(rest, self.looks[i])
        for k, stream in enumerate(streams):
            if stale and stream is not None and self.before[stale[0]].rest[k] is not None:
                again = torch.stack([self.base[k][i] + self.before[i].rest[k] for i in stale])
                streams[k] = stream.index_copy(0, torch.tensor(stale, device=stream.device), again.to(stream.dtype))
        return tuple(streams) if self.streams > 1 else streams[0]

    def compare(self, stream: Tensor, checked: Sequence[int]) -> None:
        """The relative difference of what would have been answered to what was computed, row by row."""
        would = [self.base[0][i] + self.before[i].rest[0] for i in checked]
        self.tally.errors += distance(would, stream[list(checked)])


def relative(old: Sequence[Tensor], new: Tensor) -> list[float]:
    """mean |new - old| / mean |old|, row by row."""
    if not len(old):
        return []
    before = torch.stack(list(old))
    change = (new - before).abs().flatten(1).mean(1) / before.abs().flatten(1).mean(1)
    return change.nan_to_num().tolist()  # 0/0: nothing has changed


def distance(would: Sequence[Tensor], fresh: Tensor) -> list[float]:
    """|would - fresh| / |fresh|, row by row."""
    if not len(would):
        return []
    apart = (torch.stack(list(would)) - fresh).flatten(1).float().norm(dim=1)
    return (apart / fresh.flatten(1).float().norm(dim=1)).nan_to_num().tolist()
