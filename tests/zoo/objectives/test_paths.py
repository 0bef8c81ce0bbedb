"""Values of single paths that follow from their papers."""

import math

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.registry import build

F64 = torch.float64
T = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=F64)


def test_linear_and_gvp_and_cosine_end_in_pure_noise():
    for name in ("linear", "gvp", "cosine", "sigmoid"):
        path = build("path", name)
        assert path.alpha(T)[-1] == 0 and path.sigma(T)[-1] == pytest.approx(1) and path.logsnr(T)[-1] == -math.inf


def test_cosine_is_the_formula_of_the_paper():
    """alpha_bar = f(t)/f(0) with f = cos^2((t + s)/(1 + s) pi/2); a larger offset is noisier early."""
    f = torch.cos((T + 0.008) / 1.008 * math.pi / 2) ** 2
    assert torch.allclose(build("path", "cosine").alpha(T) ** 2, f / f[0], atol=1e-15)
    path = build("path", {"name": "cosine", "offset": 0.2})
    g = torch.cos((T + 0.2) / 1.2 * math.pi / 2) ** 2
    assert torch.allclose(path.alpha(T) ** 2, g / g[0], atol=1e-15)
    tiny = torch.tensor([1e-12], dtype=F64)  # sigma^2 = 2 tan(first) rate t there
    slope = 2 * math.tan(0.008 / 1.008 * math.pi / 2) * math.pi / 2 / 1.008
    assert torch.allclose(build("path", "cosine").sigma(tiny) ** 2, slope * tiny, rtol=1e-9, atol=0)


def test_vp_is_the_formula_of_the_paper():
    """log alpha = -t^2 (beta_max - beta_min)/4 - t beta_min/2."""
    for low, high in ((0.1, 20.0), (0.3, 5.0), (2.0, 2.0)):
        path = build("path", {"name": "vp", "beta_min": low, "beta_max": high})
        assert torch.allclose(path.alpha(T).log(), -(T**2) * (high - low) / 4 - T * low / 2)


def test_ddpm_tends_to_vp():
    """Song et al. 2021, app. B: the linear betas are the discrete vp."""
    t = torch.linspace(0.01, 1, 50, dtype=F64)
    gaps = [
        (build("path", {"name": "ddpm", "num_timesteps": n}).logsnr(t) - build("path", "vp").logsnr(t)).abs().max()
        for n in (1000, 4000)
    ]
    assert gaps[0] < 0.12 and gaps[1] < gaps[0] / 3


def test_ve_is_proportional_and_ve_geometric_has_geometric_levels():
    assert torch.allclose(build("path", {"name": "ve", "sigma_max": 50.0}).sigma(T), 50 * T)
    path = build("path", {"name": "ve_geometric", "sigma_min": 0.01, "sigma_max": 50.0})
    published = 0.01 * 5000 ** T[1:]
    assert torch.allclose(path.sigma(T[1:]) ** 2, published**2 - 0.01**2, rtol=1e-12)


def test_sigmoid_is_the_formula_of_the_paper():
    """Chen 2023, alg. 1: gamma = (S(end/tau) - S((t (end - start) + start)/tau)) / (S(end/tau) - S(start/tau))."""
    for start, end, tau in ((-3.0, 3.0, 1.0), (0.0, 3.0, 0.9)):
        path = build("path", {"name": "sigmoid", "start": start, "end": end, "tau": tau})
        s = torch.sigmoid((start + T * (end - start)) / tau)
        assert torch.allclose(path.alpha(T) ** 2, (s[-1] - s) / (s[-1] - s[0]), atol=1e-15)


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ({"name": "ve_geometric", "sigma_min": 3.0, "sigma_max": 2.0}, "sigma_min 3 must be below sigma_max 2."),
        ({"name": "sigmoid", "start": 1.0, "end": 1.0}, "start 1 must be below end 1."),
        ({"name": "ddpm", "num_timesteps": 19}, "a beta of 1.05263 in a table of 19 timesteps"),
        ({"name": "ddpm_cosine", "cap": 0.0}, "a beta of 0 in a table of 1000 timesteps"),
    ],
)
def test_impossible_settings_are_refused_with_the_numbers(node, text):
    with pytest.raises(ValueError) as caught:
        build("path", node)
    assert str(caught.value).startswith(text)


def test_polynomial_is_the_straight_line_at_another_speed():
    path, line = build("path", {"name": "polynomial", "power": 2.5}), build("path", "linear")
    assert torch.allclose(path.alpha(T), (1 - T) ** 2.5) and torch.allclose(path.sigma(T), 1 - (1 - T) ** 2.5)
    same = build("path", {"name": "polynomial", "power": 1.0})
    assert torch.allclose(same.alpha(T), line.alpha(T)) and torch.allclose(same.sigma_dot(T), line.sigma_dot(T))
    tiny = torch.tensor([1e-13], dtype=F64)
    assert torch.allclose(path.sigma(tiny), 2.5 * tiny, rtol=1e-9, atol=0)  # no digits lost


def test_jsd_erases_equal_shares():
    for steps in (40, 300):
        path = build("path", {"name": "ddpm_jsd", "num_timesteps": steps})
        entries = torch.arange(1, steps + 1, dtype=F64) / steps
        assert torch.allclose(path.alpha(entries) ** 2, 1 - entries, atol=1e-14) and path.alpha(entries)[-1] == 0


def test_warmup_rises_and_stays():
    path = build("path", {"name": "ddpm_warmup", "num_timesteps": 50, "fraction": 0.5, "beta_start": 0.001})
    entries = torch.arange(1, 51, dtype=F64) / 50
    betas = -torch.expm1(-path.beta(entries) / 50)
    assert torch.allclose(betas[:25], torch.linspace(0.001, 0.02, 25, dtype=F64), rtol=1e-9)
    assert torch.allclose(betas[25:], torch.full((25,), 0.02, dtype=F64), rtol=1e-9)


def test_the_table_of_the_sigmoid_is_the_sigmoid_at_its_entries():
    """But for the cap at the end, and the rounding of the published codes."""
    node = {"start": -2.0, "end": 3.0, "tau": 0.8}
    table = build("path", {"name": "ddpm_sigmoid_signal", "num_timesteps": 500, **node})
    entries = torch.arange(1, 500, dtype=F64) / 500
    smooth = build("path", {"name": "sigmoid", **node}).alpha(entries) ** 2
    assert torch.allclose(table.alpha(entries) ** 2, smooth, atol=1e-7)
    with pytest.raises(ValueError, match="start 1 must be below end 1"):
        build("path", {"name": "ddpm_sigmoid_signal", "start": 1.0, "end": 1.0})


def test_laplace_spends_its_steps_around_equal_shares():
    """log-SNR of its formula is Laplace over uniform times: half the steps lie within log(2)/2 of 0."""
    path = build("path", "ddpm_laplace")
    alpha = path.alphas_cumprod  # diffusers' product of 1 - beta is alpha
    logsnr = (alpha**2 / (1 - alpha**2)).log()
    within = (logsnr.abs() < math.log(2) / 2).double().mean()
    assert abs(within - 0.5) < 0.01
