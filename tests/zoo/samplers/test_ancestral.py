"""Ancestral sampling and the eta family."""

from itertools import pairwise

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import gaussian, three
from vidiff.random import Random
from vidiff.registry import PATHS, build

F64 = torch.float64


class Recorded:
    """Fresh noise as given, one tensor per step."""

    def __init__(self, noises):
        self.noises = iter(noises)

    def normal(self, shape, dtype):
        noise = next(self.noises)
        assert noise.shape == tuple(shape) and noise.dtype == dtype
        return noise


def test_eta_one_draws_from_the_ddpm_posterior():
    """Ho et al. 2020, eq. 6 and 7, with respaced betas."""
    path, mixture = build("path", "ddpm"), three(3)
    times = torch.tensor([0.8, 0.35], dtype=F64)
    x, fresh = mixture.sample(5, 1), mixture.sample(5, 2)
    x0 = mixture.estimate(path)(x, times[:1].expand(5)).x0
    bar, bar_prev = (path.alpha(times) ** 2).tolist()
    beta = 1 - bar / bar_prev
    mean = bar_prev**0.5 * beta / (1 - bar) * x0 + (1 - beta) ** 0.5 * (1 - bar_prev) / (1 - bar) * x
    expected = mean + (beta * (1 - bar_prev) / (1 - bar)) ** 0.5 * fresh
    out = build("sampler", "ancestral")(mixture.estimate(path), x, times, path, Recorded([fresh]))
    assert torch.allclose(out, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", PATHS.names())
def test_eta_zero_is_euler(name):
    path, mixture, times = build("path", name), three(3), torch.linspace(1, 0, 7, dtype=F64)
    x = path.norm(times[0]) * mixture.sample(5, 1)
    still = build("sampler", {"name": "ancestral", "eta": 0.0})
    out = still(mixture.estimate(path), x, times, path, Random(0, rows=range(5)))
    assert torch.allclose(out, build("sampler", "euler")(mixture.estimate(path), x, times, path, None), rtol=1e-13)


@pytest.mark.parametrize("eta", [1.0, 0.5])
@pytest.mark.parametrize("name", PATHS.names())
def test_moments_of_a_gaussian_after_the_steps_are_those_of_the_closed_form(name, eta):
    """Each step: variance <- gain^2 variance + z^2, read from the sampler by unit impulses of every input."""
    path, data, steps = build("path", name), gaussian([0.4, -1.1], [0.3, 0.05]), 9
    times = torch.linspace(1, 0, steps + 1, dtype=F64)
    spread = torch.tensor([0.3, 0.05], dtype=F64)
    variance = path.alpha(times[0]) ** 2 * spread + path.sigma(times[0]) ** 2
    for t, s in pairwise(times):
        ratio = path.alpha(t) * path.sigma(s) / (path.alpha(s) * path.sigma(t))
        z2 = eta**2 * path.sigma(s) ** 2 * (1 - ratio**2)
        c = path.alpha(t) ** 2 * spread + path.sigma(t) ** 2
        gain = (path.alpha(s) * path.alpha(t) * spread + (path.sigma(s) ** 2 - z2).sqrt() * path.sigma(t)) / c
        variance = gain**2 * variance + z2
    # row 0: nothing; row 1: the start; row 2 + k: the fresh noise of step k
    x = (path.alpha(times[0]) * data.means).repeat(steps + 2, 1)
    x[1] += (path.alpha(times[0]) ** 2 * spread + path.sigma(times[0]) ** 2).sqrt()
    fresh = torch.zeros(steps, steps + 2, 2, dtype=F64)
    for k in range(steps):
        fresh[k, 2 + k] = 1
    sampler = build("sampler", {"name": "ancestral", "eta": eta})
    out = sampler(data.estimate(path), x, times, path, Recorded(fresh))
    assert torch.allclose(out[0], data.means[0], atol=1e-10)
    assert torch.allclose(((out[1:] - out[0]) ** 2).sum(0), variance, atol=1e-9)
