"""The method of Dormand & Prince (1980) of order 5 with error control: every sample keeps its own time and step.

Steps chosen for a whole batch (torchdiffeq, scipy) would make a sample depend on its neighbours. The rules of
acceptance, growth and the first step are those of Hairer, Norsett & Wanner 1993, sec. II.4, as in torchdiffeq.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vidiff.diffusion.path import expand

NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
MATRIX = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

Slope = Callable[[Tensor, Tensor], Tensor]
"""(x (B,...), t (B,)) -> dx/dt (B,...)."""


def dopri5(slope: Slope, x: Tensor, start: Tensor, end: Tensor, rtol: float, atol: float, limit: int) -> Tensor:
    """x (B,...) at time `start` -> at `end`, in either direction.

    Raises ValueError after `limit` evaluations: the tolerance is below the rounding of x, or the slope not smooth.
    """
    span, t = end - start, start.expand(len(x)).clone()
    k, used = slope(x, t), 2
    h = _first_step(slope, x, t, k, span, rtol, atol)
    while not (done := (t == end)).all():
        if (used := used + 6) > limit:
            raise ValueError(
                f"dopri5 needs more than {limit} evaluations for rtol {rtol:g}, atol {atol:g}: use larger "
                "tolerances, a larger limit, or a method of fixed steps (rk4, heun)."
            )
        last = (h.abs() >= (end - t).abs()) & ~done
        step = torch.where(done, torch.zeros_like(h), torch.where(last, end - t, h))
        slopes, wide = [k], expand(step, x)
        for node, row in zip(NODES, MATRIX, strict=True):
            ahead = x + wide * sum(a * b for a, b in zip(row, slopes, strict=True))
            at = torch.where(last & (node == 1), end, t + node * step)
            slopes.append(slope(ahead, at))
        error = wide * sum(e * b for e, b in zip(ERROR, slopes, strict=True))
        ratio = _rms(error / (atol + rtol * torch.maximum(x.abs(), ahead.abs()))).to(h.dtype)
        taken = (ratio <= 1) & ~done
        mask = expand(taken, x).bool()
        x, k = torch.where(mask, ahead, x), torch.where(mask, slopes[-1], k)
        t = torch.where(taken, torch.where(last, end, t + step), t)
        factor = (0.9 * ratio.clamp(min=1e-10) ** -0.2).clamp(max=10.0)
        h = torch.where(done, h, step * torch.where(taken, factor.clamp(min=1.0), factor.clamp(min=0.2)))
    return x


def _rms(x: Tensor) -> Tensor:
    """(B,...) -> (B,)."""
    return x.flatten(1).pow(2).mean(1).sqrt()


def _first_step(slope: Slope, x: Tensor, t: Tensor, k: Tensor, span: Tensor, rtol: float, atol: float) -> Tensor:
    """A step (B,) whose Euler error would be about right."""
    scale, sign = atol + rtol * x.abs(), torch.sign(span)
    size, speed = _rms(x / scale), _rms(k / scale)
    guess = torch.where((size < 1e-5) | (speed < 1e-5), torch.full_like(size, 1e-6), 0.01 * size / speed)
    guess = torch.minimum(guess.to(t.dtype), span.abs())
    then = slope(x + expand(sign * guess, x) * k, t + sign * guess)
    bend = torch.maximum(_rms((then - k) / scale) / guess, speed).to(t.dtype)
    better = torch.where(bend <= 1e-15, (guess * 1e-3).clamp(min=1e-6), (0.01 / bend) ** 0.2)
    return sign * torch.minimum(torch.minimum(100 * guess, better), span.abs())
