"""What every objective promises: vidiff.diffusion.objective.Objective."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vidiff.checks.parts import Straight, apart, require, watched_dice
from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.path import expand
from vidiff.random import Random
from vidiff.registry import Component
from vidiff.types import Cond, Origin

B, SHAPE, VIDEO = 2, (3, 4, 5, 6), (3, 8, 20, 24)


class Net(nn.Module):
    """A tiny network that uses its input and its time."""

    def __init__(self, outputs: int, dtype: torch.dtype):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3 * outputs, dtype=dtype)])
        self.dtype, self.labels = dtype, []

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        """x (B,3,t,h,w) -> (B,3*outputs,t,h,w)."""
        self.labels.append(label)
        wave = torch.sin(label.to(self.dtype)).reshape(len(label), 1, -1, 1, 1)
        tokens = (x.to(self.dtype) + wave).movedim(1, -1)
        return self.blocks[0](tokens.flatten(2, 3)).reshape(*tokens.shape[:4], -1).movedim(-1, 1)


class Teacher:
    """Another run's model: exact for unit Gaussian data on the straight path."""

    run, objective, path = "runs/teacher", None, Straight()

    def check_steps(self, asks: Any, begins: Tensor, ends: Tensor) -> None:
        """Any steps."""

    def estimator(self, cond: Any, guidance: Any = None) -> EstimateFn:
        """x0 = alpha x / n, noise = sigma x / n, n = alpha^2 + sigma^2."""

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            n = self.path.norm(t) ** 2
            return Estimate(expand(self.path.alpha(t) / n, x) * x, expand(self.path.sigma(t) / n, x) * x)

        return estimate


def make(component: Component) -> Objective:
    """A tiny one, for a backbone 3 wide, with a teacher where it wants one; its weights are the same each time."""
    named = {"teacher": "runs/teacher"} if "teacher" in component.settings else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wiring = dict(load=lambda run, *needs: Teacher(), width=3, shape=VIDEO, training=True)
        return component.build({**named, **component.tiny}, **wiring)


def net_of(objective: Objective, dtype: torch.dtype = torch.float32) -> Net:
    """The same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Net(objective.outputs, dtype)


def data(dtype: torch.dtype = torch.float32) -> Tensor:
    """Latents (B,3,4,5,6) of unit scale."""
    return torch.randn(B, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=dtype)


def dice(rows: Any = range(B), step: int = 1) -> Random:
    """Those of a training step."""
    return Random(9, "train", step, rows=rows, first=0, total=B)


def told(objective: Objective, rows: Any = range(B)) -> Cond:
    """A condition that knows, as the Diffuser's do, which clips it belongs to."""
    clips = torch.randint(256, (B, *VIDEO), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    batch = {"video": clips[list(rows)], **objective.entries(data()[list(rows)], dice(rows))}
    return Cond(origin=Origin(batch, torch.zeros(len(rows), dtype=torch.bool)), without=Cond())


def loss_trains_the_network(component: Component) -> None:
    """`loss` gives {"loss": (), "mse": (B,), "time": (B,)}, finite in every dtype of latents, in float32 at least; the
    loss has a gradient at every weight and the other two have none."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        objective = make(component)
        net = net_of(objective, dtype)
        out = objective.loss(net, data(dtype), told(objective), dice())
        shapes = {key: tuple(out[key].shape) for key in ("loss", "mse", "time")}
        require(shapes == dict(loss=(), mse=(B,), time=(B,)), f"in {dtype} the shapes are {shapes}.")
        full = torch.float64 if dtype == torch.float64 else torch.float32
        require(out["loss"].dtype == full, f"the loss of {dtype} latents is {out['loss'].dtype}, expected {full}.")
        require(all(v.isfinite().all() for v in out.values()), f"in {dtype} something is not finite.")
        out["loss"].backward()
        for name, p in net.named_parameters():
            taught = p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0
            require(taught, f"in {dtype} {name} has no gradient, or one that is not finite.")
        free = not out["mse"].requires_grad and not out["time"].requires_grad
        require(free, "mse or time hold on to the graph: detach them.")


def rows_are_independent(component: Component) -> None:
    """The mean of the rows' own losses is the loss of the batch: accumulation and more devices change nothing."""
    objective = make(component)
    net, x0 = net_of(objective, torch.float64), data(torch.float64)
    whole = objective.loss(net, x0, told(objective), dice())
    rows = [objective.loss(net, x0[i : i + 1], told(objective, [i]), dice([i])) for i in range(B)]
    rtol = 1e-6 if any(True for _ in objective.parameters()) else 1e-12  # parameters of its own are float32
    off = apart(torch.stack([r["loss"] for r in rows]).mean(), whole["loss"], 1e-8, rtol)
    require(off <= 0, f"the losses are {off:.3g} apart.")
    off = apart(torch.cat([r["mse"] for r in rows]), whole["mse"], 1e-8, 1e-12)
    require(off <= 0, f"the errors are {off:.3g} apart.")
    require(torch.equal(torch.cat([r["time"] for r in rows]), whole["time"]), "rows draw other times alone.")


def throws_its_own_dice(component: Component) -> None:
    """The same draws give the same loss and those of another step another one, all from `random` and none from a
    global generator."""
    objective = make(component)
    net, x0 = net_of(objective), data()
    with watched_dice():
        first, again, later = (objective.loss(net, x0, told(objective), dice(step=s))["loss"] for s in (1, 1, 2))
    require(torch.equal(first, again), "the same draws give two losses.")
    require(not torch.equal(first, later), "two steps have the same loss.")


def believes_from_noise_to_data(component: Component) -> None:
    """`estimate` gives x0 and noise of the latent's shape, in float32 and finite, at both ends of the interval."""
    objective = make(component)
    net = net_of(objective)
    for level in (objective.interval[1], 0.5, objective.interval[0]):
        estimate = objective.estimate(net, data(), torch.full((B,), level, dtype=torch.float64), Cond())
        for part in estimate:
            fits = part.shape == (B, *SHAPE) and part.dtype == torch.float32
            require(fits, f"at t = {level:g} it gives {tuple(part.shape)} in {part.dtype}.")
            require(part.isfinite().all(), f"at t = {level:g} it is not finite.")


def takes_a_time_per_frame(component: Component) -> None:
    """Times (B,t) with one value repeated give the loss of times (B,), and with several the network is told each."""
    objective = make(component)
    net, x0, cond = net_of(objective, torch.float64), data(torch.float64), told(objective)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    one = objective.loss_at(net, x0, noise, t, cond)
    each = objective.loss_at(net, x0, noise, t[:, None].expand(B, 4), cond)
    for key in ("loss", "mse"):
        off = apart(one[key], each[key], 1e-8, 1e-12)
        require(off <= 0, f"{key} is off by {off:.3g} when the time is given for every frame.")
    several = torch.rand(B, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 0.8 + 0.1
    different = objective.loss_at(net, x0, noise, several, cond)
    require(different["loss"].isfinite(), "the loss is not finite with several times.")
    require(net.labels[-1].shape == (B, 4), f"the network is told times {tuple(net.labels[-1].shape)}.")


CHECKS = (loss_trains_the_network, rows_are_independent, throws_its_own_dice, believes_from_noise_to_data,
          takes_a_time_per_frame)  # fmt: skip
