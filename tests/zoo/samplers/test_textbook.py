"""Samplers of k-diffusion and SiT, written again in their own variables: sigma on exploding paths, t from noise to data.

Expected values come from these few lines, with the same draws; ours are written in alpha, sigma and lambda of any path.
"""

import math

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import three
from vidiff.diffusion.estimate import velocity
from vidiff.random import generator
from vidiff.registry import build

F64 = torch.float64
TOP = 20.0
SIGMAS = torch.tensor([20.0, 9.0, 4.1, 1.7, 0.6, 0.15, 0.0], dtype=F64)
X, DRAWS = (
    torch.randn(*shape, 5, 2, generator=generator(1, "textbook", len(shape)), dtype=F64) for shape in ((), (40,))
)


class Given:
    """The draws, in order."""

    def __init__(self):
        self.draws = iter(DRAWS)

    def normal(self, shape, dtype):
        return next(self.draws)


def denoiser(sigma_of_x):
    estimate = three(2).estimate(build("path", {"name": "ve", "sigma_max": TOP}))
    return lambda x, sigma: estimate(x, torch.full((5,), sigma / TOP, dtype=F64)).x0


def ancestral_step(sigma, lower, eta):
    up = min(lower, eta * math.sqrt(lower**2 * (sigma**2 - lower**2) / sigma**2))
    return math.sqrt(lower**2 - up**2), up


def dpmpp_2s_ancestral(denoise, x, draws, eta, s_noise):
    for sigma, lower in zip(SIGMAS.tolist(), SIGMAS.tolist()[1:]):
        down, up = ancestral_step(sigma, lower, eta)
        d = denoise(x, sigma)
        if down == 0:
            x = x + (x - d) / sigma * (down - sigma)
            continue
        h = math.log(sigma / down)
        half = sigma * math.exp(-h / 2)
        d = denoise(half / sigma * x - math.expm1(-h / 2) * d, half)
        x = down / sigma * x - math.expm1(-h) * d + next(draws) * s_noise * up
    return x


def dpmpp_sde(denoise, x, draws, eta, s_noise):
    for sigma, lower in zip(SIGMAS.tolist(), SIGMAS.tolist()[1:]):
        d = denoise(x, sigma)
        if lower == 0:
            x = d
            continue
        half = math.sqrt(sigma * lower)
        down, up = ancestral_step(sigma, half, eta)
        d = denoise(down / sigma * x + (1 - down / sigma) * d + next(draws) * s_noise * up, half)
        down, up = ancestral_step(sigma, lower, eta)
        x = down / sigma * x + (1 - down / sigma) * d + next(draws) * s_noise * up
    return x


def dpmpp_3m_sde(denoise, x, draws, eta, s_noise):
    ds, hs = [], []
    for sigma, lower in zip(SIGMAS.tolist(), SIGMAS.tolist()[1:]):
        ds = [denoise(x, sigma), *ds]
        if lower == 0:
            return ds[0]
        h = math.log(sigma / lower)
        wide = h * (eta + 1)
        x = math.exp(-wide) * x - math.expm1(-wide) * ds[0]
        phi2 = math.expm1(-wide) / wide + 1
        if len(ds) > 2:
            r0, r1 = hs[0] / h, hs[1] / h
            first, second = (ds[0] - ds[1]) / r0, (ds[1] - ds[2]) / r1
            bend = (first - second) / (r0 + r1)
            x = x + phi2 * (first + bend * r0) - (phi2 / wide - 0.5) * bend
        elif len(ds) > 1:
            x = x + phi2 * (ds[0] - ds[1]) / (hs[0] / h)
        x = x + next(draws) * lower * math.sqrt(-math.expm1(-2 * h * eta)) * s_noise
        hs = [h, *hs]
    return x


@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.6, 1.03)])
@pytest.mark.parametrize("theirs", [dpmpp_2s_ancestral, dpmpp_sde, dpmpp_3m_sde], ids=lambda f: f.__name__)
def test_k_diffusion(theirs, eta, s_noise):
    path = build("path", {"name": "ve", "sigma_max": TOP})
    sampler = build("sampler", {"name": theirs.__name__, "eta": eta, "s_noise": s_noise})
    found = sampler(three(2).estimate(path), TOP * X, SIGMAS / TOP, path, Given())
    expected = theirs(denoiser(path), TOP * X, iter(DRAWS), eta, s_noise)
    assert torch.allclose(found, expected, rtol=1e-11, atol=1e-11)


# ---- SiT: t runs from noise 0 to data 1 ----

FORMS = {
    "constant": lambda norm, t, a, s, da, ds: norm * torch.ones_like(t),
    "sigma": lambda norm, t, a, s, da, ds: norm * s,
    "linear": lambda norm, t, a, s, da, ds: norm * (1 - t),
    "decreasing": lambda norm, t, a, s, da, ds: 0.25 * (norm * torch.cos(torch.pi * t) + 1) ** 2,
    "increasing_decreasing": lambda norm, t, a, s, da, ds: norm * torch.sin(torch.pi * t) ** 2,
    "sbdm": lambda norm, t, a, s, da, ds: norm * (da / a * s**2 - s * ds),
}


def sit(path, form, norm, method, last, grid):
    """Steps along their grid, the last of which ends on the data."""
    exact, x = three(2).estimate(path), X

    def told(x, t):
        ours = (1 - t).expand(5)
        now = exact(x, ours)
        w = FORMS[form](norm, t, path.alpha(1 - t), path.sigma(1 - t), -path.alpha_dot(1 - t), -path.sigma_dot(1 - t))
        return -velocity(path, now, ours), -now.noise / path.sigma(1 - t), w

    def drift(x, t):
        v, score, w = told(x, t)
        return v + w * score

    draws, size = iter(DRAWS), grid[1] - grid[0]
    for t in grid[:-1]:
        noise = torch.sqrt(2 * told(x, t)[2]) * next(draws) * size.sqrt()
        if method == "heun_sde":
            x = x + noise
            slope = drift(x, t)
            x = x + size * (slope + drift(x + size * slope, t + size)) / 2
        else:
            x = x + drift(x, t) * size + noise
    t = grid[-1]
    v, score, w = told(x, t)
    if last == "tweedie":
        alpha, sigma = path.alpha(1 - t), path.sigma(1 - t)
        return x / alpha + sigma**2 / alpha * score
    return x + (1 - t) * (v + w * score if last == "mean" else v)


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("method", ["euler_maruyama", "heun_sde"])
@pytest.mark.parametrize("last", ["tweedie", "mean", "euler"])
@pytest.mark.parametrize("form", FORMS)
def test_sit(path, form, method, last):
    path, grid = build("path", path), torch.linspace(0.01, 0.96, 11, dtype=F64)
    node = {"name": method, "diffusion": form, "norm": 0.8, "last": last}
    times = torch.cat([1 - grid, grid.new_zeros(1)])
    found = build("sampler", node)(three(2).estimate(path), X, times, path, Given())
    assert torch.allclose(found, sit(path, form, 0.8, method, last, grid), rtol=1e-10, atol=1e-10)
