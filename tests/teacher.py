"""A teacher that needs no run: it believes what is exact for Gaussian data, or for a mixture."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.path import Path, expand
from vidiff.registry import Component, build


class Teacher:
    """Exact for a unit Gaussian on a path, whatever the shape; or as `estimate` says."""

    run, objective = "runs/teacher", None

    def __init__(self, path: Path | str = "linear", estimate: EstimateFn | None = None):
        self.path = build("path", path) if isinstance(path, str) else path
        self.exact = estimate or self.believe
        self.asked: list[Tensor] = []

    def believe(self, x: Tensor, t: Tensor) -> Estimate:
        """x0 = alpha x / n, noise = sigma x / n, n = alpha^2 + sigma^2; t (B,) or (B,t)."""
        n = self.path.norm(t) ** 2
        return Estimate(expand(self.path.alpha(t) / n, x) * x, expand(self.path.sigma(t) / n, x) * x)

    def check_steps(self, asks: Any, begins: Tensor, ends: Tensor) -> None:
        """Any steps."""

    def estimator(self, cond: Any, guidance: Any = None) -> EstimateFn:
        """The same whatever the condition."""

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            self.asked.append(t)
            return self.exact(x, t)

        return estimate


def built(
    component: Component, settings: dict[str, Any] | None = None, teacher: Teacher | None = None, width: int = 3
) -> Any:
    """An objective with these settings, for a backbone of this width, and a teacher where it wants one."""
    named = {"teacher": "runs/teacher"} if "teacher" in component.settings else {}
    wiring = dict(load=lambda run, asks=None: teacher or Teacher(), width=width, shape=(3, 8, 20, 24), training=True)
    return component.build({**named, **(settings or {})}, **wiring)
