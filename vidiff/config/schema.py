"""What a configuration may hold: the slots for components and the engine's own sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from vidiff.types import Count, Fraction, Natural, NonNegative, Positive, Range, Run

Width = Annotated[float, Range(above=0.0, max=0.28)]
"""The relative width of a power function s^gamma: below sqrt(1/12), where gamma is 0."""


class Slot(NamedTuple):
    """A top-level key that holds a component: its kind and the name used when the key is absent."""

    kind: str
    default: str | None = None


SLOTS: dict[str, Slot] = {
    "data": Slot("dataset"),
    "tokenizer": Slot("tokenizer"),
    "backbone": Slot("backbone"),
    "conditioner": Slot("conditioner", "none"),
    "attention": Slot("attention", "auto"),
    "positions": Slot("positions", "sincos"),
    "objective": Slot("objective", "rectified_flow"),
    "sampler": Slot("sampler", "euler"),
    "guidance": Slot("guidance", "none"),
    "cache": Slot("cache", "none"),
    "task": Slot("task", "generate"),
}


@dataclass(frozen=True)
class Train:
    """The loop.

    `batch_size` counts the clips of one optimizer step over all processes; `accumulate` splits it
    into that many passes, which changes memory and speed, not the experiment. `init` is a run whose averaged weights
    the model starts with.
    """

    steps: Count = 1000
    batch_size: Count = 32
    accumulate: Count = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip: NonNegative = 1.0
    compile: bool = False
    workers: Natural = 0
    nonfinite: Literal["stop", "skip"] = "stop"
    max_nonfinite: Natural = 10
    max_bad_fraction: Fraction = 0.01
    init: Run | None = None


@dataclass(frozen=True)
class Optimizer:
    """Any optimizer of timm (`list_zoo.py optimizers`); `extra` goes to its constructor."""

    name: str = "adamw"
    lr: Positive = 3e-4
    weight_decay: NonNegative = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    eps: Positive = 1e-8
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """The learning rate over steps: linear warm-up to `optimizer.lr`, then the schedule of this name to the last step.

    `cycles` of cosine_restarts; `power` of polynomial; `decay_fraction`, the share of steps that warm-up-stable-decay
    (wsd) decays over; `reference_steps`, from which on inverse_sqrt falls (EDM2, 2312.02696: 70,000).
    """

    name: Literal["constant", "cosine", "cosine_restarts", "linear", "polynomial", "wsd", "inverse_sqrt"] = "cosine"
    warmup_steps: Natural = 100
    min_lr: NonNegative = 0.0
    cycles: Count = 2
    power: Positive = 2.0
    decay_fraction: Fraction = 0.2
    reference_steps: Count = 70_000


@dataclass(frozen=True)
class EMA:
    """The moving averages of weights; samples are drawn from the first.

    `decay` (0 = none), then `decays`, then the power functions of relative widths `sigma_rel` (EDM2, 2312.02696), of
    which one is kept every `snapshot_every` steps to make any other width afterwards.
    With k = s - delay, the decay of step s is 0 up to k = 0, then at least `min_decay` and rising by `warmup`:
    true (1 + k) / (10 + k), power 1 - (1 + k)^-warmup_power, share 0.5^(1 / (warmup_share k)), false at once.
    """

    decay: Fraction = 0.999
    warmup: Literal["power", "share"] | bool = True
    warmup_power: Positive = 2 / 3
    warmup_share: Positive = 0.05
    delay: Natural = 0
    min_decay: Fraction = 0.0
    decays: tuple[Fraction, ...] = ()
    sigma_rel: tuple[Width, ...] = ()
    snapshot_every: Count = 1000


@dataclass(frozen=True)
class Checkpoint:
    """When to save, and what to keep: the last `keep`, and every `keep_every`-th step for good (0 = none)."""

    every: Count = 1000
    keep: Count = 2
    keep_every: Natural = 0


@dataclass(frozen=True)
class Log:
    """How often a line is written, and whether TensorBoard files are."""

    every: Count = 50
    tensorboard: bool = True


SECTIONS: dict[str, type] = {
    "train": Train,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "ema": EMA,
    "checkpoint": Checkpoint,
    "log": Log,
}

PLAIN: dict[str, Any] = {"name": str, "description": str, "seed": Natural}
"""Top-level keys that are single values."""

TOP_LEVEL = [*PLAIN, *SLOTS, *SECTIONS, "callbacks", "base", "imports"]
