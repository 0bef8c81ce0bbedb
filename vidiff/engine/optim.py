"""Optimizers and learning-rate schedules, both timm's; we check the names and the keys."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from vidiff.config.schema import Optimizer, Schedule
from vidiff.errors import Refused
from vidiff.lazy import prepare_torchvision
from vidiff.registry import did_you_mean

FUSED = ("adam", "adamw")
"""torch has fused kernels for these, the fastest of its implementations on CPU and CUDA alike."""


def make_optimizer(module: nn.Module, config: Optimizer) -> torch.optim.Optimizer:
    """timm's optimizer of this name over the trainable parameters; biases and norms are not decayed.

    Raises Refused for a name timm does not list (it would quietly take another) or an unknown `extra`.
    """
    prepare_torchvision()
    from timm.optim import create_optimizer_v2, list_optimizers

    known = list_optimizers()
    if config.name not in known:
        raise Refused(
            f"optimizer.name is '{config.name}'.{did_you_mean(config.name, known)} timm has: {', '.join(known)}."
        )
    extra = dict(config.extra)
    if config.name in FUSED:
        extra.setdefault("fused", True)
    if _takes_betas(config.name):
        extra.setdefault("betas", tuple(config.betas))
    weights = module if any(p.requires_grad for p in module.parameters()) else [{"params": []}]  # an exact answer
    try:
        return create_optimizer_v2(
            weights, opt=config.name, lr=config.lr, weight_decay=config.weight_decay, eps=config.eps, **extra
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise Refused(f"optimizer {config.name}: {error}") from None


class LearningRate:
    """The learning rate of step s, a closed form of s: nothing to save, nothing to restore.

    Step s (0 is the first) is t = s + 1 of the formulas: lr t/W up to t = W, then the schedule on t - W of
    steps - W, which so ends at the last step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: Schedule, steps: int):
        """Raises Refused for a warm-up that leaves nothing to a schedule that ends."""
        self.optimizer = optimizer
        endless = config.name in ("constant", "inverse_sqrt")
        if config.warmup_steps >= steps and not endless:
            raise Refused(f"schedule.warmup_steps is {config.warmup_steps}: it must be below train.steps ({steps}).")
        if config.name == "inverse_sqrt":
            self._scheduler = InverseSqrt(optimizer, config.warmup_steps, config.reference_steps)
        else:
            self._scheduler = _of_timm(optimizer, config, steps)

    def set(self, step: int) -> float:
        """Set and return the learning rate of optimizer step `step` (0 is the first)."""
        self._scheduler.step_update(step + 1)
        return self.optimizer.param_groups[0]["lr"]


class InverseSqrt:
    """lr min(t/W, 1) / sqrt(max(t/R, 1)): Karras et al. 2024, EDM2 (2312.02696), eq. 67 (timm's comes to an end)."""

    def __init__(self, optimizer: torch.optim.Optimizer, warmup: float, reference: float):
        self.optimizer, self.warmup, self.reference = optimizer, warmup, reference
        self.peaks = [group["lr"] for group in optimizer.param_groups]

    def factor(self, t: float) -> float:
        """The share of the peak at step t, 1 is the first."""
        return (min(t / self.warmup, 1.0) if self.warmup else 1.0) / math.sqrt(max(t / self.reference, 1.0))

    def step_update(self, t: int) -> None:
        """Set the learning rate of every group."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.factor(t)


def _of_timm(optimizer: torch.optim.Optimizer, config: Schedule, steps: int) -> Any:
    """timm's scheduler. Its warm-up is put before the schedule; wsd counts it among the steps by itself."""
    prepare_torchvision()
    from timm.scheduler import create_scheduler_v2

    names = {"linear": "poly", "polynomial": "poly", "cosine_restarts": "cosine"}
    cycles = config.cycles if config.name == "cosine_restarts" else 1
    prefix = config.name != "wsd"
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=names.get(config.name, config.name),
        num_epochs=(steps - config.warmup_steps) / cycles if prefix else steps,
        decay_epochs=config.decay_fraction * steps if config.name == "wsd" else None,
        decay_rate=config.power if config.name == "polynomial" else 1.0,
        cycle_limit=cycles,
        cycle_decay=1.0,
        warmup_epochs=config.warmup_steps,
        warmup_prefix=prefix,
        warmup_lr=0.0,
        min_lr=config.min_lr,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return scheduler


def parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    """Every parameter an optimizer moves."""
    return (p for group in optimizer.param_groups for p in group["params"])


def _takes_betas(name: str) -> bool:
    from timm.optim import get_optimizer_info

    return bool(get_optimizer_info(name).has_betas)
