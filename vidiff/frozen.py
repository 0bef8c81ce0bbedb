"""Another run's model, to learn from or to be guided by: held by a component without being a part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidiff.diffuser import Diffuser
from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.guidance import Guidance
from vidiff.diffusion.path import Path
from vidiff.diffusion.transfer import transfer
from vidiff.types import VELOCITY, Cond


class Frozen:
    """A trained model that is asked and never trained.

    No module: its weights are in nobody's parameters, checkpoint or average, and copies of its holder share it.
    They are read when it is asked first, and live on the device it is asked on.
    """

    def __init__(self, run: str, objective: Any, make: Callable[[torch.device], Diffuser], path: Path | None = None):
        """`make` reads the model for a device; `path` is that of the asking side, None the model's own."""
        self.run, self.objective, self.path = run, objective, path
        self._make, self._models = make, {}

    def __deepcopy__(self, memo: dict) -> Frozen:
        return self

    def model(self, device: torch.device) -> Diffuser:
        """The model on a device, in evaluation mode and without gradients."""
        if device not in self._models:
            self._models = {device: self._make(device).eval().requires_grad_(False)}
        return self._models[device]

    def check_steps(self, asks: frozenset[str], begins: Tensor, ends: Tensor) -> None:
        """Raises ValueError for steps (S,) along the asking side's path that a few-step model was not trained for."""
        if self.objective is None or not asks & self.objective.tells - VELOCITY:
            return
        if self.path is not None:
            begins, ends = (self.objective.path.time(self.path.logsnr(t)) for t in (begins, ends))
        try:
            self.objective.check_steps(begins, ends)
        except ValueError as error:
            raise ValueError(f"the model of {self.run}: {error}") from None

    @torch.no_grad()
    def estimator(self, cond: Cond, guidance: Guidance | None = None) -> EstimateFn:
        """Its estimate as a function of (x_t, t), x_t on the asking side's path.

        The condition is its own, made from what `cond` was made from; `guidance` guides it, None asks it plainly.
        """
        if cond.origin is None:
            raise RuntimeError(f"the model of {self.run} is asked about a condition of unknown origin")
        model = self.model(cond.origin.drop.device)
        drop = cond.origin.drop
        if drop.ndim == 2 and drop.shape[1] != torch.tensor(model.conditioner.drop).numel():
            drop = drop[:, -1]  # its conditioner has other parts: what is dropped is all of them together
        given, null = model.conditions(cond.origin.batch, len(drop), drop)
        if guidance is None:
            estimate = lambda x, t: model.objective.estimate(model.backbone, x, t, given)  # noqa: E731
        else:
            estimate = model.guided(guidance, given, null)
        if self.path is not None:
            estimate = transfer(estimate, model.objective.path, self.path, model.objective.interval)

        def asked(x: Tensor, t: Tensor) -> Estimate:
            with torch.no_grad():
                return estimate(x, t)

        return asked
