"""Which clip is met when: a function of (seed, sample number), so that resuming needs no state.

Sample number n of a run (0 for the first clip of the first step) is clip
`order(n) + epoch * len` of the dataset, whatever the batch size, accumulation, workers or restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from vidiff.errors import Refused, Stopped
from vidiff.random import derive
from vidiff.types import BadSample, Dataset

WORKER_TIMEOUT_S = 300
SUBSTITUTES = 100
"""How many neighbours of an unreadable clip are tried before giving up."""


class Order:
    """A fresh permutation of the dataset, or of those of its items that are `kept`, for every epoch."""

    def __init__(self, length: int, seed: int, kept: np.ndarray | None = None):
        self.length, self.seed, self.kept = length, seed, kept
        self.epoch_length = length if kept is None else len(kept)
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def __call__(self, sample: int) -> int:
        """The dataset index of sample number `sample`: item + epoch * length."""
        epoch, position = divmod(sample, self.epoch_length)
        if epoch != self._epoch:
            rng = np.random.Generator(np.random.Philox(derive(self.seed, "order", epoch)))
            self._epoch, self._permutation = epoch, rng.permutation(self.epoch_length)
            self._permutation = self._permutation if self.kept is None else self.kept[self._permutation]
        return int(self._permutation[position]) + epoch * self.length


class Tolerant(torch.utils.data.Dataset):
    """A dataset in which an unreadable clip is replaced by the next readable one, and named.

    `substitutes` gives an item and those to try in its place; the following ones without it.
    """

    def __init__(self, dataset: Dataset, substitutes: Callable[[int], Iterable[int]] | None = None):
        self.dataset, self.substitutes = dataset, substitutes or self._following

    def _following(self, item: int) -> Iterator[int]:
        length = len(self.dataset)
        return ((item + shift) % length for shift in range(min(length, SUBSTITUTES)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        length, bad = len(self.dataset), []
        epoch, item = divmod(index, length)
        for substitute in self.substitutes(item):
            try:
                sample = self.dataset[substitute + epoch * length]
            except BadSample as error:
                bad.append((error.path, error.reason))
                continue
            return {**sample, "_bad": bad}
        return {"_bad": bad}  # raised where it is met: a worker process cannot raise in one line


def first_clips(dataset: Dataset, num: int = 1) -> list[dict[str, Any]]:
    """The first readable clips, for a look at what a data set gives. Raises Refused when none can be read."""
    tolerant = Tolerant(dataset)
    clips = [tolerant[i] for i in range(min(num, len(dataset)))]
    bad = next((clip["_bad"] for clip in clips if len(clip) == 1), None)
    if bad:
        raise Refused(f"the first {len(bad)} clips cannot be read; the last: {bad[-1][0]}: {bad[-1][1]}")
    return [{key: value for key, value in clip.items() if key != "_bad"} for clip in clips]


def loader(
    dataset: Dataset | Tolerant, batches: Iterable[Sequence[int]], workers: int = 0, pin: bool = False
) -> Iterator[dict]:
    """Collated batches of the given dataset indices, in order, read by `workers` processes."""
    return iter(
        DataLoader(
            dataset if isinstance(dataset, Tolerant) else Tolerant(dataset),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=_quiet_worker if workers else None,
            timeout=WORKER_TIMEOUT_S if workers else 0,
            prefetch_factor=4 if workers else None,
            pin_memory=pin,
        )
    )


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack tensors and numbers, list the rest; "_bad" is the list of all unreadable clips met."""
    if any(len(s) == 1 and "_bad" in s for s in samples):
        return {"_bad": [b for s in samples for b in s["_bad"]]}
    batch: dict[str, Any] = {}
    for key in samples[0]:
        values = [s[key] for s in samples]
        if key == "_bad":
            batch[key] = [b for bad in values for b in bad]
        elif isinstance(values[0], (torch.Tensor, np.ndarray)):
            batch[key] = torch.stack([torch.as_tensor(v) for v in values])
        elif isinstance(values[0], (int, float)):
            batch[key] = torch.tensor(values)
        else:
            batch[key] = values
    return batch


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Tensors moved (bytes stay bytes), the rest as it is, without the house's own "_" entries."""
    return {
        k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v
        for k, v in batch.items()
        if not k.startswith("_")
    }


class BadClips:
    """Counts unreadable clips, names each file once, and stops the run when there are too many."""

    def __init__(self, limit: float, seen: int = 0, named: dict[str, str] | None = None, met: int = 0):
        self.limit, self.seen, self.met, self.named = limit, seen, met, dict(named or {})

    def count(self, size: int, bad: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Note a batch of `size` clips; returns the (path, reason) pairs met for the first time."""
        self.seen += size
        self.met += len(bad)
        new = [(path, reason) for path, reason in dict(bad).items() if path not in self.named]
        self.named |= dict(new)
        return new

    def check(self, size: int) -> None:
        """Raises Stopped when the share is above the limit, or when a batch had no readable clip (size 0)."""
        total = self.seen + self.met
        if not self.met:
            return
        enough = total * self.limit >= 1 or self.limit == 0  # of fewer clips even one would be above the limit
        if size == 0 or (enough and self.met / total > self.limit):
            path, reason = list(self.named.items())[-1]
            raise Stopped(
                f"{self.met} of {total} clips cannot be read ({self.met / total:.0%}, "
                f"train.max_bad_fraction allows {self.limit:.0%}); the last: {path}: {reason}"
            )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seen": self.seen, "met": self.met, "named": self.named}


def check_length(dataset: Dataset) -> None:
    """Raises Refused for an empty dataset."""
    if len(dataset) == 0:
        raise Refused("the dataset is empty.")


def _quiet_worker(_: int) -> None:
    """Workers leave signals to the main process, and compute with one thread each."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
