"""The Euler/DDIM step."""

from itertools import pairwise

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import gaussian, three
from vidiff.diffusion.estimate import velocity
from vidiff.registry import PATHS, build

F64 = torch.float64
TIMES = torch.tensor([0.95, 0.6, 0.55, 0.2, 0.0], dtype=F64)


@pytest.mark.parametrize("name", ["linear", "ve"])
def test_is_the_euler_step_of_the_ode_where_the_path_is_straight(name):
    path, mixture = build("path", name), three(3)
    x = path.point(mixture.sample(5, 1), mixture.sample(5, 2), TIMES[:1].expand(5))
    t, s = TIMES[0].expand(5), TIMES[1].expand(5)
    step = x + (s - t)[:, None] * velocity(path, mixture.estimate(path)(x, t), t)
    assert torch.allclose(build("sampler", "euler")(mixture.estimate(path), x, TIMES[:2], path, None), step, rtol=1e-13)


@pytest.mark.parametrize("name", ["cosine", "ddpm"])
def test_is_the_ddim_step_on_variance_preserving_paths(name):
    """Song et al. 2020, eq. 12 with sigma = 0, written with alphas_cumprod."""
    path, mixture = build("path", name), three(3)
    x = path.point(mixture.sample(5, 1), mixture.sample(5, 2), TIMES[:1].expand(5))
    eps = mixture.estimate(path)(x, TIMES[0].expand(5)).noise
    now, then = path.alpha(TIMES[0]) ** 2, path.alpha(TIMES[1]) ** 2
    ddim = then.sqrt() * (x - (1 - now).sqrt() * eps) / now.sqrt() + (1 - then).sqrt() * eps
    out = build("sampler", "euler")(mixture.estimate(path), x, TIMES[:2], path, None)
    assert torch.allclose(out, ddim, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", PATHS.names())
def test_moments_of_a_gaussian_after_the_steps_are_those_of_the_closed_form(name):
    """On Gaussian data every step is affine: x_s - alpha_s m = (alpha_s alpha l + sigma_s sigma)/c (x - alpha m)."""
    path, data = build("path", name), gaussian([0.4, -1.1, 0.2], [0.3, 0.05, 1.9])
    times = torch.linspace(1, 0, 12, dtype=F64)
    spread, mean = data.eigenvalues[0], data.means[0]
    axes, gain = data.axes[0], torch.ones(3, dtype=F64)
    for t, s in pairwise(times):
        c = path.alpha(t) ** 2 * spread + path.sigma(t) ** 2
        gain = gain * (path.alpha(s) * path.alpha(t) * spread + path.sigma(s) * path.sigma(t)) / c
    starts = torch.cat([torch.zeros(1, 3, dtype=F64), axes.T]) + path.alpha(times[0]) * mean  # the centre, unit vectors
    out = build("sampler", "euler")(data.estimate(path), starts, times, path, None)
    assert torch.allclose(out[0], mean, atol=1e-10)
    assert torch.allclose(out[1:] - mean, gain[:, None] * axes.T, atol=1e-10)


def test_ten_ddim_steps_of_a_gaussian_on_the_ddpm_table_lose_variance_as_predicted():
    """RELIABILITY 4.1: a step-count bias is exact and predictable (25 steps of `leading` lose a third of .05)."""
    path, data = build("path", "ddpm"), gaussian([0.5, -0.3], [0.3, 0.05])
    sampler = build("sampler", {"name": "euler", "steps": 25, "spacing": "leading"})
    times = sampler.spacing(25, path, (0.0, 1.0))
    ends = path.alpha(times[0]) * data.means + torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=F64)
    out = sampler(data.estimate(path), ends, times, path, None)
    start_variance = path.alpha(times[0]) ** 2 * 0.05 + path.sigma(times[0]) ** 2
    assert (out[1, 1] - out[0, 1]) ** 2 * start_variance == pytest.approx(0.0318, abs=5e-4)
