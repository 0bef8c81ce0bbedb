"""Optimizers and learning-rate schedules, both timm's; we check the names and the keys."""

from __future__ import annotations

from collections.abc import Iterable

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
    try:
        return create_optimizer_v2(
            module, opt=config.name, lr=config.lr, weight_decay=config.weight_decay, eps=config.eps, **extra
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise Refused(f"optimizer {config.name}: {error}") from None


class LearningRate:
    """The learning rate of step s, a closed form of s: nothing to save, nothing to restore."""

    def __init__(self, optimizer: torch.optim.Optimizer, config: Schedule, steps: int):
        if config.warmup_steps >= steps and config.name != "constant":
            raise Refused(f"schedule.warmup_steps is {config.warmup_steps}: it must be below train.steps ({steps}).")
        prepare_torchvision()
        from timm.scheduler import create_scheduler_v2

        self.optimizer = optimizer
        self._scheduler, _ = create_scheduler_v2(
            optimizer,
            sched="poly" if config.name == "linear" else config.name,
            num_epochs=steps,
            decay_epochs=config.decay_fraction * steps if config.name == "wsd" else None,
            decay_rate=1.0,
            warmup_epochs=config.warmup_steps,
            warmup_lr=0.0,
            min_lr=config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=1,
        )

    def set(self, step: int) -> float:
        """Set and return the learning rate of optimizer step `step` (0 is the first)."""
        self._scheduler.step_update(step + 1)
        return self.optimizer.param_groups[0]["lr"]


def parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    """Every parameter an optimizer moves."""
    return (p for group in optimizer.param_groups for p in group["params"])


def _takes_betas(name: str) -> bool:
    from timm.optim import get_optimizer_info

    return bool(get_optimizer_info(name).has_betas)
