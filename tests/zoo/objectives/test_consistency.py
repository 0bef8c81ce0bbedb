"""Consistency functions against the exact ends of trajectories; the grid and the densities of the papers."""

import math
from itertools import pairwise

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import gaussian
from tests.teacher import Teacher, built
from vidiff.diffusion.path import expand
from vidiff.diffusion.sampler import start
from vidiff.random import Random
from vidiff.registry import OBJECTIVES, build
from vidiff.types import Cond

B, D, V = 6, 3, 0.4
F64 = torch.float64


def video(x):
    return x.reshape(-1, D, 1, 1, 1)


def end(path, x, t, low):
    """Where the trajectory of N(0, V) data through x at t is at time low, in units of the data: x n(low) / n(t)."""

    def n(u):
        return torch.sqrt(path.alpha(u) ** 2 * V + path.sigma(u) ** 2)

    low = torch.full_like(t, low)
    return expand(n(low) / n(t) / path.alpha(low), x) * x


class Exact(torch.nn.Module):
    """The network behind the exact consistency function, with an offset that should stay zero."""

    def __init__(self, o, t_of_label):
        super().__init__()
        self.o, self.t_of_label, self.offset = o, t_of_label, torch.nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x, label, cond):
        t = self.t_of_label(label)
        x_t = x / expand(self.o.prediction.input_scale(self.o.path, t), x)
        skip, out = self.o.prediction.scalings(self.o.path, t)
        wanted = end(self.o.path, x_t, t, self.o.interval[0])
        return (wanted - expand(skip, x) * x_t) / expand(out.clamp(min=1e-300), x) * expand(out > 0, x) + self.offset


def on(path, name="consistency", teacher=None, **settings):
    o = built(OBJECTIVES[name], {"path": path, "interval": (0.01, 0.97), **settings}, teacher)
    return o, Exact(o, lambda label: o.path.time(-8 * label))  # the label is a quarter of log(sigma / alpha)


@pytest.mark.parametrize("path", ["ve", "linear", "cosine"])
@pytest.mark.parametrize("huber", [0.0, 0.01])
def test_a_perfect_consistency_function_loses_nothing_and_is_not_pulled(path, huber, monkeypatch):
    o, net = on(path, huber=huber, cells=7, max_cells=7)
    monkeypatch.setattr(
        o,
        "earlier",
        lambda x0, noise, x_t, t, s, cond: end(o.path, x_t, t, 0.01) / end(o.path, torch.ones_like(x_t), s, 0.01),
    )
    losses = o.loss(net, video(torch.randn(B, D, dtype=F64) * V**0.5), Cond(), Random(0, "train", rows=range(B)))
    losses["loss"].backward()
    assert losses["loss"].abs() < 1e-15 and net.offset.grad.abs() < 1e-6
    with torch.no_grad():
        net.offset += 0.3
    assert o.loss(net, video(torch.randn(B, D, dtype=F64)), Cond(), Random(0, "train", rows=range(B)))["loss"] > 1e-4


@pytest.mark.parametrize("path", ["ve", "linear"])
@pytest.mark.parametrize(("solver", "order"), [("heun", 3), ("euler", 2)])
def test_distillation_of_an_exact_teacher_leaves_the_error_of_one_solver_step(path, solver, order):
    """Twice as many cells: 2^order less of it, where levels are about the data's."""
    path, rms = build("path", path), []
    data = gaussian([0.0] * D, [V] * D)
    t = path.time(torch.tensor([-1.4], dtype=F64))
    for cells in (64, 128, 256):
        o, net = on(
            path, "consistency_distillation", Teacher(path, data.estimate(path)), cells=cells, solver=solver, huber=0.0
        )
        grid = o.grid(cells)
        upper = grid[torch.searchsorted(grid, t)]
        x = torch.ones(1, D, 1, 1, 1, dtype=F64)
        s = grid[torch.searchsorted(grid, t) - 1]
        there = o.earlier(x, x, x, upper, s, Cond())
        off = end(o.path, there, s, 0.01) - end(o.path, x, upper, 0.01)
        rms.append(off.abs().max().item())
        if cells == 256:
            loss = o.loss_at(net, x * 0.5, x, t, Cond())
            assert loss["mse"] < 1e-6
    for coarse, fine in pairwise(rms):
        assert order - 0.6 < math.log2(coarse / fine) < order + 0.6, rms


def test_a_teacher_of_one_data_point_loses_nothing():
    """There one DDIM step is exact, and the end of every trajectory is the point: the loss and its gradient are 0."""
    path, point = build("path", "linear"), gaussian([0.4, -1.3, 0.8], [0.0] * D)
    teacher = Teacher(path, point.estimate(path))
    o = built(
        OBJECTIVES["consistency_distillation"], {"path": path, "interval": (1e-6, 1.0), "solver": "euler"}, teacher
    )
    bias = torch.nn.Parameter(torch.zeros((), dtype=F64))

    def net(x, label, cond):
        t = path.time(-8 * label)
        skip, out = o.prediction.scalings(path, t)
        x_t = x / expand(o.prediction.input_scale(path, t), x)
        return (video(point.means).to(x) - expand(skip, x) * x_t) / expand(out, x).clamp(min=1e-9) + bias

    t = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    noise = torch.randn(3, D, 1, 1, 1, dtype=F64)
    losses = o.loss_at(net, video(point.means).expand(3, -1, -1, -1, -1), noise, t, Cond())
    losses["loss"].backward()
    assert losses["loss"] < 1e-9 and bias.grad.abs() < 1e-4


@pytest.mark.parametrize("path", ["ve", "linear", "vp", "cosine"])
def test_at_the_low_end_the_answer_is_the_input_whatever_the_network_says(path):
    o, _ = on(path)
    x, wild = torch.randn(2, D, 1, 1, 1, dtype=F64), lambda x, label, cond: 1e3 * torch.sin(7 * x)
    low = torch.full((2,), 0.01, dtype=F64)
    assert torch.allclose(o.estimate(wild, x, low, Cond()).x0, x / expand(o.path.alpha(low), x), rtol=1e-9)
    near = o.estimate(wild, x, low + 1e-9, Cond()).x0
    assert torch.allclose(near, x / expand(o.path.alpha(low), x), atol=1e-3), "it is continuous there"


def test_scalings_are_those_of_the_paper_on_its_path():
    """c_skip = D^2 / ((l - l_min)^2 + D^2), c_out = D (l - l_min) / sqrt(D^2 + l^2): app. C, D = 0.5, l from 0.002."""
    o = built(OBJECTIVES["consistency"], {"sigma_data": 0.5})
    t = torch.linspace(0.0001, 1, 9, dtype=F64)
    level = 80 * t
    skip, out = o.prediction.scalings(o.path, t)
    low = o.prediction.lowest
    assert low == pytest.approx(0.002)
    assert torch.allclose(skip, 0.25 / ((level - low) ** 2 + 0.25)) and torch.allclose(
        out, 0.5 * (level - low) / (0.25 + level**2).sqrt()
    )
    assert torch.allclose(o.prediction.input_scale(o.path, t), (level**2 + 0.25) ** -0.5)


def test_the_grid_is_that_of_karras_and_is_refined():
    o = built(OBJECTIVES["consistency"], {"cells": 10, "max_cells": 40, "double_every": 100})
    assert [o.refined(step) for step in (0, 99, 100, 199, 200, 10**6)] == [10, 10, 20, 20, 40, 40]
    i = torch.arange(21, dtype=F64)
    karras = (0.002 ** (1 / 7) + i / 20 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    assert torch.allclose(80 * o.grid(20), karras, rtol=1e-9)
    asked = []
    o.neighbours = lambda t, cells: asked.append(cells) or (t, t / 2)
    x = torch.randn(2, D, 1, 1, 1)
    for step in (0, 150, 400):
        o.loss(
            lambda x, label, cond: x,
            x,
            Cond(),
            Random(0, "train", rows=[8 * step, 8 * step + 1], first=8 * step, total=8),
        )
    assert asked == [10, 20, 40], "the step is told by the sample numbers"


def test_cells_are_met_as_often_as_the_paper_says():
    """p(cell i) ~ erf((log l_{i+1} - mean) / (sqrt 2 std)) - erf((log l_i - mean) / (sqrt 2 std)), mean -1.1, std 2."""
    o = built(OBJECTIVES["consistency"])
    num, cells = 20000, 10
    t = o.times.draw(Random(3, "times", rows=range(num)), o.path, o.interval, 1)
    later, earlier = o.neighbours(t, cells)
    grid = o.grid(cells)
    found = torch.bincount(torch.searchsorted(grid, later), minlength=cells + 1)[1:].double()
    erf = torch.erf(((80 * grid).log() + 1.1) / (2**0.5 * 2.0))
    share = erf.diff()
    share[0] += 1 + erf[0]  # levels beyond the ends fall on them
    share[-1] += 1 - erf[-1]
    expected = num * share / share.sum()
    assert ((found - expected) ** 2 / expected).sum() < 30  # chi^2 of 9 degrees of freedom: p = 4e-4
    assert (earlier < later).all() and (t <= later).all() and (t >= earlier).all()


def test_the_distance_is_pseudo_huber_and_the_weight_the_inverse_gap():
    o = built(OBJECTIVES["consistency"], {"huber": 0.03, "cells": 5, "max_cells": 5})
    x0, noise, t = (
        torch.randn(1, D, 1, 1, 1, dtype=F64),
        torch.randn(1, D, 1, 1, 1, dtype=F64),
        torch.tensor([0.3], dtype=F64),
    )

    def net(x, label, cond):
        return torch.zeros_like(x)

    later, earlier = o.neighbours(t, 5)
    a, b = (o.estimate(net, o.path.point(x0, noise, u), u, Cond()).x0 for u in (later, earlier))
    m = ((a - b) ** 2).mean()
    wanted = ((m + 0.03**2).sqrt() - 0.03) / (80 * (later - earlier))
    assert torch.allclose(o.loss_at(net, x0, noise, t, Cond())["loss"], wanted, rtol=1e-9)


@pytest.mark.parametrize("gap_weight", [True, False])
def test_a_learned_uncertainty_learns_of_the_distance(gap_weight):
    """loss = L exp(-u) + u, of which the slope at u = 0 is 1 - L."""
    settings = {"cells": 5, "max_cells": 5, "gap_weight": gap_weight}
    plain = built(OBJECTIVES["consistency"], settings)
    learned = built(
        OBJECTIVES["consistency"], {**settings, "weighting": {"name": "uncertainty", "weighting": "uniform"}}
    )
    x0, noise = torch.randn(2, 3, D, 1, 1, 1, dtype=F64)
    t = torch.tensor([0.3, 0.02, 0.9], dtype=F64)

    def net(x, label, cond):
        return torch.zeros_like(x)

    loss = plain.loss_at(net, x0, noise, t, Cond())["loss"]
    same = learned.loss_at(net, x0, noise, t, Cond())["loss"]
    assert torch.allclose(same, loss, rtol=1e-12)
    same.backward()
    assert learned.weighting.level.grad.item() == pytest.approx(1 - loss.item(), rel=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_sampler_draws_from_the_data(steps):
    """The exact consistency function of N(0, V): one step is the flow map, more keep the distribution."""
    o, net = on("linear", interval=(1e-4, 0.9999))
    sampler = build("sampler", {"name": "consistency", "steps": steps})
    times, num = sampler.spacing(steps, o.path, o.interval), 4000
    noise = video(torch.randn(num, D, generator=torch.Generator().manual_seed(1), dtype=F64))
    x = start(o.path, noise, times[0])
    with torch.no_grad():
        out = sampler(lambda x, t: o.estimate(net, x, t, Cond()), x, times, o.path, Random(0, "s", rows=range(num)))
    assert out.var() == pytest.approx(V, rel=0.04) and out.mean().abs() < 0.03
    if steps == 1:
        assert torch.allclose(out, V**0.5 * noise, atol=2e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"interval": (0.0, 1.0)}, "interval begins at 0, where there is no noise"),
        ({"cells": 20, "max_cells": 10}, "max_cells is 10: the grid begins with 20"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        built(OBJECTIVES["consistency"], settings)


def test_the_target_is_the_networks_own_answer_or_that_of_its_average():
    x0, noise = torch.randn(2, 2, D, 1, 1, 1, dtype=F64)
    t = torch.tensor([0.3, 0.6], dtype=F64)
    scale = torch.nn.Parameter(torch.tensor(0.7, dtype=F64))

    def net(x, label, cond):
        return scale * x

    def average(x, label, cond):
        return -0.4 * x

    losses = {}
    for target in ("online", "average"):
        o = built(OBJECTIVES["consistency"], {"target": target, "huber": 0.0, "gap_weight": False})
        o.averaged = lambda: average
        later, earlier = o.neighbours(t, 10)
        of = {"online": net, "average": average}[target]
        believed, wanted = (
            o.estimate(f, o.path.point(x0, noise, u), u, Cond()).x0 for f, u in ((net, later), (of, earlier))
        )
        losses[target] = o.loss_at(net, x0, noise, t, Cond())["loss"]
        assert o.needs_average == (target == "average")
        assert torch.allclose(losses[target], ((believed - wanted.detach()) ** 2).flatten(1).mean(1).mean(), rtol=1e-12)
        (gradient,) = torch.autograd.grad(losses[target], scale, retain_graph=True)
        exact = torch.autograd.grad(((believed - wanted.detach()) ** 2).flatten(1).mean(1).mean(), scale)[0]
        assert torch.allclose(gradient, exact), "no gradient through the target"
    assert not torch.allclose(losses["online"], losses["average"])
