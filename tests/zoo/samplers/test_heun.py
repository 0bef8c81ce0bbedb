"""Heun's method."""

import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import three
from vidiff.diffusion.estimate import velocity
from vidiff.diffusion.sampler import start
from vidiff.registry import build

F64 = torch.float64


def test_one_step_is_the_trapezoid_rule():
    path, mixture = build("path", "cosine"), three(3)
    exact, times = mixture.estimate(path), torch.tensor([0.8, 0.5], dtype=F64)
    t, s = times[0].expand(4), times[1].expand(4)
    x = path.point(mixture.sample(4, 1), mixture.sample(4, 2), t)
    first = velocity(path, exact(x, t), t)
    ahead = velocity(path, exact(x - 0.3 * first, s), s)
    out = build("sampler", "heun")(exact, x, times, path, None)
    assert torch.allclose(out, x - 0.15 * (first + ahead), rtol=1e-12)


def test_the_last_step_is_the_euler_step_and_costs_one_evaluation():
    path, mixture = build("path", "ddpm"), three(3)
    times, calls = torch.tensor([0.3, 0.0], dtype=F64), []
    x, exact = mixture.sample(4, 1), mixture.estimate(path)
    heun = build("sampler", "heun")(lambda x, t: calls.append(t) or exact(x, t), x, times, path, None)
    assert torch.equal(heun, build("sampler", "euler")(exact, x, times, path, None)) and len(calls) == 1
    assert build("sampler", {"name": "heun", "steps": 7}).evaluations == 13


def test_where_the_slope_is_infinite_it_takes_the_euler_step():
    path, mixture = build("path", "sigmoid"), three(3)
    times, one = torch.tensor([1.0, 0.9, 0.5, 0.0], dtype=F64), torch.ones((), dtype=F64)
    x, exact = start(path, mixture.sample(4, 1), one), mixture.estimate(path)
    whole = build("sampler", "heun")(exact, x, times, path, None)
    first = build("sampler", "euler")(exact, x, times[:2], path, None)
    assert torch.equal(whole, build("sampler", "heun")(exact, first, times[1:], path, None)) and whole.isfinite().all()
