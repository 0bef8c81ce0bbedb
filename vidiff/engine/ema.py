"""Exponential moving averages of weights (Polyak & Juditsky 1992), the weights one samples from; any number at once.

    average <- d(s) average + (1 - d(s)) weights        after optimizer step s = 1, 2, ...

With k = s - delay, and d = 0 (a copy of the weights) up to k = 0:

    none     d                                     DiT, Latte, Nano-Sora
    count    min(d, (1 + k) / (10 + k))            TensorFlow's num_updates; diffusers' EMAModel at delay 1
    power    min(d, 1 - (1 + k)^-p)                diffusers' use_ema_warmup (inv_gamma 1), p = 2/3
    share    min(d, 0.5^(1 / (r k)))               EDM's ramp-up (2206.00364): a half-life of at most r of the training
    power function  (1 - 1/s)^(gamma + 1)          EDM2 (2312.02696), eq. 6; see posthoc.py
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from vidiff.config.schema import EMA
from vidiff.engine.posthoc import exponent, power_decay
from vidiff.errors import Refused

Curve = Callable[[int], float]
"""Optimizer step, 1 is the first -> decay."""


def decay_of(step: int, limit: float, config: EMA) -> float:
    """The decay of optimizer step `step` on its way up to `limit`."""
    k = step - config.delay
    if k <= 0:
        return 0.0
    if config.warmup == "power":
        rising = 1 - (1 + k) ** -config.warmup_power
    elif config.warmup == "share":
        rising = 0.5 ** (1 / (config.warmup_share * k))
    else:
        rising = (1 + k) / (10 + k) if config.warmup else limit
    return max(min(limit, rising), config.min_decay)


def curves(config: EMA) -> dict[str, Curve]:
    """Every average of a configuration, the first one in front: "ema:0.999" or "posthoc:0.05" -> its decay.

    Raises Refused for the same average twice.
    """
    decays = [d for d in (config.decay, *config.decays) if d]
    labels = [f"ema:{d}" for d in decays] + [f"posthoc:{s}" for s in config.sigma_rel]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise Refused(f"ema keeps the same average twice: {', '.join(twice)}. Write each decay and sigma_rel once.")
    rising = [partial(decay_of, limit=d, config=config) for d in decays]
    powers = [partial(power_decay, gamma=exponent(s)) for s in config.sigma_rel]
    return dict(zip(labels, [*rising, *powers], strict=True))


class Averages:
    """All averages of a model. The first is a module of its own, which samples are drawn from.

    Only what is trained is averaged: frozen weights are shared with the model, other buffers are copied.
    """

    def __init__(self, model: nn.Module, config: EMA):
        """Raises Refused for the same average twice."""
        self.config, self.curves = config, curves(config)
        frozen = {id(t): t for t in frozen_tensors(model)}
        self.module = copy.deepcopy(model, dict(frozen)).eval()
        trained = {n: p for n, p in model.named_parameters() if id(p) not in frozen}
        twins = {n: p.requires_grad_(False) for n, p in self.module.named_parameters() if n in trained}
        labels = list(self.curves)
        self.tensors: dict[str, dict[str, Tensor]] = {labels[0]: twins}
        self.tensors |= {label: {n: p.detach().clone() for n, p in trained.items()} for label in labels[1:]}
        self._frozen, self._live = set(frozen), list(trained.values())
        self._buffers = [(a, b) for a, b in zip(self.module.buffers(), model.buffers(), strict=True) if a is not b]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move every average towards the weights, once per optimizer step."""
        for label, curve in self.curves.items() if self._live else ():
            torch._foreach_lerp_(list(self.tensors[label].values()), self._live, 1 - curve(step))
        self._copy_buffers()

    def snapshot_due(self, step: int) -> bool:
        """Whether the power-function averages of this step are kept for synthesis afterwards."""
        return bool(self.config.sigma_rel) and step % self.config.snapshot_every == 0

    def powers(self) -> dict[str, dict[str, Tensor]]:
        """The power-function averages, by group: what a snapshot holds."""
        return {group(label): tensors for label, tensors in self.tensors.items() if label.startswith("posthoc:")}

    # ---- checkpoints ----

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
        """(group -> tensors, group -> label). The first group is "ema"; what is frozen stands with the model only."""
        first, *others = self.curves
        whole = self.module.state_dict(keep_vars=True)
        tensors = {"ema": {name: t.detach() for name, t in whole.items() if id(t) not in self._frozen}}
        tensors |= {group(label): self.tensors[label] for label in others}
        return tensors, {"ema": first, **{group(label): label for label in others}}

    @torch.no_grad()
    def fill(self, groups: Mapping[str, Mapping[str, Tensor]], labels: Mapping[str, str], step: int) -> list[str]:
        """Restore from a checkpoint whose weights the model has already. Returns a line for each average that is new.

        A first average whose decay was changed goes on from the first one stored.
        Raises Refused for a power-function average that the checkpoint lacks: it counts from the first step.
        """
        stored, begun = {label: groups[name] for name, label in labels.items()}, []
        first = next(iter(self.tensors))
        if first.startswith("ema") and labels.get("ema", "").startswith("ema"):
            stored.setdefault(first, groups["ema"])
        for label, tensors in self.tensors.items():
            if label not in stored and label.startswith("posthoc:") and step:
                raise Refused(
                    f"the checkpoint of step {step} has no average {label}, and a power-function average counts from "
                    "the first step: leave it out of ema.sigma_rel, or train from the start."
                )
            if label not in stored:
                begun.append(f"average {label} is new: it begins with the weights of step {step}")
            for name, tensor in tensors.items():
                tensor.copy_(stored.get(label, groups["model"])[name])
        self._copy_buffers()
        return begun

    def _copy_buffers(self) -> None:
        for copied, live in self._buffers:
            copied.copy_(live)


def group(label: str) -> str:
    """The name of an average's file: "posthoc:0.05" -> "posthoc_0.05"."""
    return label.replace(":", "_")


def frozen_tensors(model: nn.Module) -> Iterator[Tensor]:
    """What no step moves: parameters without gradient, and all of a module that says it is `frozen`."""
    yield from (p for p in model.parameters() if not p.requires_grad)
    for module in model.modules():
        if getattr(module, "frozen", False):
            yield from module.parameters()
            yield from module.buffers()
