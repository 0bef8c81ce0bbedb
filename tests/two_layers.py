"""Two-layer networks, trained for 2,000 steps on data in the plane whose law is known: clips of two frames of a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from tests.oracle import Mixture, gaussian, three
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import start
from vidiff.random import generator
from vidiff.registry import build
from vidiff.types import Cond, CondSpec, Grid

GRID, STEPS, ROWS, RATE = Grid(1, 2, 1, 1), 2000, 1024, 4e-3
FREQUENCIES = (1, 2, 4, 8, 16, 32)
MIXTURE = three(2)


def turned(mean: list[float], variances: list[float], angle: float = 0.5) -> Mixture:
    """One Gaussian whose axes are turned: nothing is independent of anything."""
    straight = gaussian(mean, variances)
    c, s = torch.cos(torch.tensor(angle).double()), torch.sin(torch.tensor(angle).double())
    turn = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
    return Mixture(straight.weights, straight.means, turn @ straight.covariances @ turn.T)


def scaled(law: Mixture, factor: float) -> Mixture:
    """The law of `factor` times the data."""
    return Mixture(law.weights, factor * law.means, factor**2 * law.covariances)


class Dice:
    """A `Random` of one generator for all rows, quicker than one for each; uniform numbers are stratified."""

    device, shared = "cpu", None

    def __init__(self, *key: object, num: int):
        self.rows, self.total, self.key = range(num), num, key
        self.first = key[1] * num if key[0] == "train" else 0
        self.generator = generator(1, *key)

    def stream(self, name: str) -> Dice:
        """Dice of their own, for one purpose."""
        return Dice(*self.key, name, num=self.total)

    def normal(self, shape, dtype=torch.float32) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, dtype=dtype)

    def uniform(self, shape, dtype=torch.float32) -> Tensor:
        u = torch.rand(tuple(shape), generator=self.generator, dtype=dtype)
        order = torch.rand(tuple(shape), generator=self.generator).argsort(0)
        return (order.to(dtype) + u) / self.total


class Told(nn.Module):
    """The length of a step, as itself and as waves, beside what is in the condition's vector."""

    def forward(self, cond: Cond, length: Tensor) -> Cond:
        told = waves(length[:, None])
        return replace(cond, vector=told if cond.vector is None else torch.cat([cond.vector, told], 1))

    def extend(self, spec: CondSpec) -> CondSpec:
        return CondSpec(vector=spec.vector + 9)


def waves(t: Tensor, frequencies: tuple[int, ...] = (1, 2, 4, 8)) -> Tensor:
    """(B,k) -> (B,k (1 + 2 frequencies))."""
    return torch.cat([t, *(f(k * t) for k in frequencies for f in (torch.sin, torch.cos))], 1)


class Second(nn.Module):
    """The second layer: what a hidden state is taken from, one of half the width for each frame."""

    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return silu(self.layer(silu(h))).unflatten(1, (2, -1))


class TwoLayers(nn.Module):
    """x (B,1,2,1,1), a time (B,) or (B,2), and the condition's vector through two hidden layers."""

    streams = 1

    def __init__(self, outputs: int = 1, told: int = 0, width: int = 128, frequencies: tuple[int, ...] = FREQUENCIES):
        super().__init__()
        self.frequencies, seen = frequencies, 2 + 2 * (1 + 2 * len(frequencies))
        self.enter, self.blocks = nn.Linear(seen + told, width), nn.ModuleList([Second(width)])
        self.leave = nn.Linear(width, 2 * outputs)

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        label = label if label.ndim == 2 else label[:, None].expand(-1, 2)
        told = [] if cond.vector is None else [cond.vector]
        h = torch.cat([x.flatten(1), waves(label, self.frequencies), *told], 1).to(x.dtype)
        h = self.leave(self.blocks[0](self.enter(h)).flatten(1))
        return h.reshape(len(x), -1, 2, 1, 1)


class Both(nn.Module):
    """What is averaged: the network and what the objective learns beside it."""

    def __init__(self, o: Objective, net: TwoLayers):
        super().__init__()
        self.o, self.net = o, net


def clips(law: Mixture, num: int, seed: int) -> Tensor:
    """(num,1,2,1,1) float32."""
    return law.sample(num, seed).float().reshape(num, *GRID)


def trained(
    o: Objective,
    law: Mixture = MIXTURE,
    rate: float = RATE,
    told: int = 0,
    condition: Callable[[Tensor, Tensor], Cond] = lambda x0, k: Cond(),
    frequencies: tuple[int, ...] = FREQUENCIES,
    num: int = ROWS,
    width: int = 128,
) -> tuple[Objective, TwoLayers]:
    """The objective and its network with the average of the weights at the end: what one samples from.

    `condition` makes what the network is told, `told` numbers wide, of clips and the components they are drawn from.
    `frequencies` are those that it sees times by, `width` its own; a step sees `num` clips.
    """
    told += 9 if hasattr(o, "step") else 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        both = Both(o, TwoLayers(o.outputs, told, width, frequencies))
    if hasattr(o, "step"):
        o.step = Told()
    optimizer = torch.optim.Adam(both.parameters(), betas=(0.9, 0.99), fused=True)
    average = torch.optim.swa_utils.AveragedModel(both, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    data, k = law.draw(generator(0, "data"), 64 * 1024)
    data = data.float().reshape(-1, *GRID)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50) * (1 - step / STEPS)
        rows = torch.randint(len(data), (num,), generator=generator(0, "rows", step))
        optimizer.zero_grad()
        o.loss(both.net, data[rows], condition(data[rows], k[rows]), Dice("train", step, num=num))["loss"].backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(both)
    return average.module.o.requires_grad_(False), average.module.net.requires_grad_(False)


def normal(num: int = 4096, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise (num,1,2,1,1) that lies more evenly than chance has it: moments of samples are not about luck."""
    u = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(num, dtype=torch.float64)
    return torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9)).reshape(num, *GRID).to(dtype)


def drawn(estimate, path: Path, interval=(0.0, 1.0), num: int = 4096, **sampler) -> Tensor:
    """Samples (num,2) of an estimate."""
    made = build("sampler", {"name": "heun", "steps": 40, **sampler})
    times = made.spacing(made.steps, path, interval)
    x = start(path, normal(num), times[0])
    return made(estimate, x, times, path, Dice("draw", num=num)).flatten(1).double()


def off(out: Tensor, law: Mixture, unit: Mixture | None = None) -> tuple[float, float]:
    """How far mean and covariance of samples (N,2) are from a law's, in its deviation and covariance, or another's."""
    spread = (unit or law).covariance
    mean = (out.mean(0) - law.mean).norm() / spread.trace() ** 0.5
    return mean.item(), ((out.T.cov() - law.covariance).norm() / spread.norm()).item()
