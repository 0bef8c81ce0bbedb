"""What a configuration may hold: the slots for components and the engine's own sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from vidiff.types import Count, Fraction, Natural, NonNegative, Positive


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
}


@dataclass(frozen=True)
class Train:
    """The loop.

    `batch_size` counts the clips of one optimizer step over all processes; `accumulate` splits it
    into that many passes, which changes memory and speed, not the experiment.
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
    """The learning rate over steps: linear warm-up to `optimizer.lr`, then timm's schedule of this name.

    `decay_fraction` is the share of steps that warm-up-stable-decay (wsd) decays over.
    """

    name: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    warmup_steps: Natural = 100
    min_lr: NonNegative = 0.0
    decay_fraction: Fraction = 0.2


@dataclass(frozen=True)
class EMA:
    """The moving average of weights that samples are drawn from.

    decay_s = min(decay, (1 + s) / (10 + s)) with warm-up, else `decay`; 0 switches it off.
    """

    decay: Fraction = 0.999
    warmup: bool = True


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
