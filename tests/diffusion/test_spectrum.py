"""The effective weighting over log-SNR against closed forms."""

import math
from itertools import pairwise

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.diffusion.spectrum import gain, spectrum
from vidiff.registry import build
from vidiff.types import Grid

F64 = torch.float64
GRID = Grid(3, 4, 5, 6)


def of(name, **settings):
    return spectrum(build("objective", {"name": name, **settings}), GRID)


def near(found, expected, curve, reach=10.0, rtol=3e-3):
    inside = curve.logsnr.abs() < reach
    assert torch.allclose(found[inside], expected[inside], rtol=rtol)


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "gvp"])
@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_likelihood_weights_every_noise_level_alike_on_every_path(path, prediction):
    """Kingma et al. 2021: the bound is 1/2 integral |noise - noise_hat|^2 dl; sigmoid takes its share of it."""
    common = {"path": path, "prediction": prediction, "interval": (0.0, 0.9999)}
    curve = of("v_prediction", weighting="sit_likelihood", **common)
    near(curve.noise, torch.full_like(curve.noise, 0.5), curve, reach=8)
    curve = of("v_prediction", weighting={"name": "sigmoid", "bias": -1.0}, **common)
    near(curve.noise, torch.sigmoid(-1.0 - curve.logsnr) / 2, curve, reach=8)


def test_plain_flow_matching_weights_noise_by_exp_of_minus_half_the_logsnr():
    """Kingma & Gao 2023, table 1: W = e^(-l/2) up to a constant, and v with the cosine path is the same loss."""
    curve, constant = of("rectified_flow"), 0.5
    near(curve.noise / (-curve.logsnr / 2).exp(), torch.full_like(curve.noise, constant), curve)
    cosine = of("rectified_flow", path="gvp", prediction="v")
    ratio = cosine.x0 / curve.x0
    near(ratio, ratio[120].expand_as(ratio), cosine)


def test_edm_is_a_normal_density_times_what_its_network_sees():
    curve = of("edm", times={"name": "lognormal_sigma", "mean": -0.4, "std": 1.0})
    log_level = -curve.logsnr / 2
    density = torch.exp(-((log_level + 0.4) ** 2) / 2) / math.sqrt(2 * math.pi) / 2
    near(curve.density, density, curve, reach=8)
    near(curve.x0, density * (curve.logsnr.exp() + 1), curve, reach=8)
    near(curve.v, density, curve, reach=8)


def test_the_density_holds_all_draws_and_an_absolute_error_weighs_by_the_root():
    curve = of("rectified_flow", times="logit_normal")
    step = curve.logsnr[1] - curve.logsnr[0]
    assert abs(curve.density.sum() * step - 1) < 1e-6
    squared, absolute = of("epsilon"), of("l1", path="ddpm")
    near(absolute.x0**2 / absolute.density**2, squared.x0 / squared.density, squared, reach=8)


def test_a_density_that_knows_the_grid_and_weights_that_learn():
    small, large = (
        spectrum(build("objective", {"name": "rectified_flow", "times": "shifted_by_grid"}), g)
        for g in (Grid(3, 4, 8, 8), Grid(3, 16, 16, 16))
    )
    assert (large.density * large.logsnr).sum() < (small.density * small.logsnr).sum()
    learned = of("edm", weighting={"name": "uncertainty", "weighting": "edm"})
    assert torch.allclose(learned.x0, of("edm").x0, equal_nan=True)  # u starts at 0


def test_losses_that_are_no_square_of_the_networks_own_error():
    """MeanFlow's exponent is that of its adaptive weight; consistency weighs x0 by the inverse gap of two levels."""
    flow, mean = (of(name, times="logit_normal") for name in ("rectified_flow", "meanflow"))
    assert torch.allclose(mean.x0, flow.x0, equal_nan=True)
    for settings in ({"huber": 0.0}, {"huber": 0.001}, {"gap_weight": False}):
        o = build("objective", {"name": "consistency", "cells": 6, "max_cells": 6, **settings})
        curve, levels = spectrum(o, GRID), (torch.linspace(0.002 ** (1 / 7), 80 ** (1 / 7), 7, dtype=F64)) ** 7
        level = (-curve.logsnr / 2).exp()
        for low, high in pairwise(levels):
            inside = (level > 1.001 * low) & (level < 0.999 * high)
            gap = 1.0 if "gap_weight" in settings else high - low
            assert inside.any() and torch.allclose(curve.x0[inside], curve.density[inside] / gap)
        power = 2 if settings.get("huber") == 0 else 1
        assert torch.allclose(curve.noise, curve.x0 * level**power, equal_nan=True)


def test_levels_a_path_does_not_reach_are_left_out():
    table = of("iddpm")
    assert table.density[table.logsnr < -11].sum() == 0 and table.x0[table.logsnr < -11].isnan().all()


@pytest.mark.parametrize("path", ["linear", "vp"])
def test_gains_are_those_of_an_actual_error(path):
    path, logsnr = build("path", path), torch.tensor([-6.0, 0.5, 5.0], dtype=F64)
    t, x, y = path.time(logsnr), torch.ones(3, 1, dtype=F64), torch.full((3, 1), 0.3, dtype=F64)
    for name in ("eps", "velocity", "edm"):
        prediction = build("prediction", name)
        a, b = (prediction.solve(path, x, y + d, t) for d in (0.0, 0.01))
        assert torch.allclose(gain("x0", path, prediction, logsnr), ((b.x0 - a.x0) / 0.01).abs().flatten(), rtol=1e-6)
        assert torch.allclose(
            gain("noise", path, prediction, logsnr), ((b.noise - a.noise) / 0.01).abs().flatten(), rtol=1e-6
        )
    far = gain("x0", build("path", "vp"), build("prediction", "v"), torch.tensor([-40.0, 0.0], dtype=F64))
    assert far[0].isnan() and far[1].isfinite()
