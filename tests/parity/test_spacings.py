"""Every published grid of timesteps and noise levels (data/schedules): where samplers put their steps."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo.objectives
import zoo.samplers  # noqa: F401
from vidiff.registry import build

DATA = Path(__file__).parent / "data" / "schedules"
ZERO_TO_ONE = (0.0, 1.0)


def grid(spacing, steps, path="linear", interval=ZERO_TO_ONE):
    return build("spacing", spacing)(steps, build("path", path), interval)


def near(found, expected, rtol=1e-9, atol=1e-12):
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=rtol, atol=atol), (found - expected).abs().max()


def named(name, **settings):
    return {"name": name, **settings}


SECTIONS = named("sections", shares=[10, 15, 20])
TIMESTEPS = {  # run: spacing, timesteps of the chain
    "00": ("respaced", 1000), "01": ("leading", 1000), "02": (SECTIONS, 1000),
    "03": ({**SECTIONS, "num_timesteps": 300}, 300), "05": ("respaced", 1000),
    "04": (named("explicit", times=[0.001]), 1000),  # theirs: one step is that at the cleanest timestep; `respaced`: 999
    "06": ("leading", 1000), "07": ("leading", 1000),
    "08": (named("leading", offset=1), 1000), "09": (named("leading", offset=1), 1000),
    "10": ("respaced", 1000), "11": ("respaced", 1000), "12": ("respaced", 1000), "13": ("respaced", 1000),
    "14": ("trailing", 1000), "15": ("trailing", 1000), "16": ("trailing", 1000), "17": ("trailing", 1000),
    "18": (named("respaced", first=False), 1000), "19": ("trailing", 1000),
    "20": (named("leading", first=False, offset=1), 1000), "25": ("trailing", 1000),
}  # fmt: skip


@pytest.mark.parametrize("run", TIMESTEPS)
def test_timesteps(run):
    spacing, total = TIMESTEPS[run]
    expected = load_file(DATA / "timestep_grids_a.safetensors")[f"{run}/out.timesteps"].double()
    times = grid(spacing, len(expected), "ddpm")
    near(total * times[:-1] - 1, expected.sort(descending=True).values, atol=1e-9)
    assert times[-1] == 0


LEVELS = {
    "18": named("respaced", first=False), "19": "trailing", "20": named("leading", first=False, offset=1),
    "21": "karras", "22": "logsnr", "23": "logsnr", "24": "linspace", "25": "trailing", "26": "karras",
}  # fmt: skip


@pytest.mark.parametrize("run", LEVELS)
def test_noise_levels_of_diffusers_schedulers(run):
    """Their smallest level is that of timestep 0, where our interval begins; in float32 it has four digits."""
    expected = load_file(DATA / "timestep_grids_a.safetensors")[f"{run}/out.sigmas"]
    path = build("path", "ddpm_scaled_linear")
    times = grid(LEVELS[run], len(expected) - 1, "ddpm_scaled_linear", (0.001, 1.0))
    near(path.sigma(times) / path.alpha(times), expected, rtol=1e-4)


def test_fractional_timesteps():
    expected = load_file(DATA / "timestep_grids_a.safetensors")["24/out.timesteps"]
    near(torch.linspace(999, 0, 12, dtype=torch.float64), expected, rtol=1e-6)


K = dict(sigma_min=0.03, sigma_max=14.6)
SIGMAS = {  # run: spacing, sigma_max of the `ve` path, relative tolerance (k-diffusion makes them in float32)
    "00": ("karras", 80.0, 1e-12),
    "01": ("karras", 80.0, 1e-12),
    "02": (named("karras", rho=3.0, sigma_min=0.01, sigma_max=50.0), 80.0, 1e-12),
    "03": (named("karras", **K), 80.0, 1e-5),
    "04": (named("logsnr", **K), 80.0, 1e-5),
    "05": (named("polyexponential", rho=1.5, **K), 80.0, 1e-5),
    "06": (named("matched", of="vp", spacing=named("uniform", last=0.001)), 200.0, 1e-3),
}


@pytest.mark.parametrize("run", SIGMAS)
def test_noise_levels_of_edm_and_k_diffusion(run):
    spacing, top, rtol = SIGMAS[run]
    expected = load_file(DATA / "sigma_schedules_a.safetensors")[f"{run}/out.sigmas"]
    near(top * grid(spacing, len(expected) - 1, named("ve", sigma_max=top)), expected, rtol)


FRACTIONS = named("explicit", times=[1 - i / 8 for i in range(8)])
WHOLE = [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]


def of_tokens(tokens):
    return named("dynamic_shifted", tokens=tokens, spacing=FRACTIONS)


SHIFTS = {
    "07": "linear_quadratic", "08": "linear_quadratic",
    "25": named("shifted", factor=3.0), "26": named("shifted", factor=5.0),
    "28": named("uniform", last=0.001),
    "30": named("shifted", factor=3.0, spacing=named("uniform", last=3 * 0.001 / (1 + 2 * 0.001))),  # shifted twice
    "31": named("shifted", factor=3.0, spacing=named("uniform", last=1 - 0.9 * 0.999)),
    **{run: of_tokens(n) for run, n in (("10", 1024), ("14", 2048), ("18", 4096), ("22", 9000))},
    **{run: named("stretched", last=0.1, spacing=of_tokens(n))
       for run, n in (("11", 1024), ("15", 2048), ("19", 4096), ("23", 9000))},
    **{run: named("shifted", factor=n / 1024, spacing=FRACTIONS)
       for run, n in (("12", 1024), ("16", 2048), ("20", 4096), ("24", 9000))},
}  # fmt: skip


@pytest.mark.parametrize("run", SHIFTS)
def test_grids_of_flow_models(run):
    """LTX-Video, Wan and diffusers' flow schedulers, on `linear`: their sigma is our t."""
    expected = load_file(DATA / "sigma_schedules_a.safetensors")[f"{run}/out.sigmas"]
    ends = expected[-1] == 0
    times = grid(SHIFTS[run], len(expected) - int(ends))
    times = times if ends else times[:-1]
    if run == "31":  # UniPC there lowers the first one to 1 - 1e-6, whose log-SNR is finite
        assert expected[0] == pytest.approx(1 - 1e-6)
        times[0] = expected[0]
    if int(run) in (12, 16, 20, 24):  # "simple diffusion" there: begins at 0.98, clamped before it is shifted
        first = torch.tensor([0.98], dtype=torch.float64)
        m = int({"12": 1024, "16": 2048, "20": 4096, "24": 9000}[run]) / 1024
        times[0] = m * first / (1 + (m - 1) * first)
    near(times, expected, rtol=2e-6 if int(run) >= 25 else 1e-6)


@pytest.mark.parametrize(("run", "tokens"), [("09", 1024), ("13", 2048), ("17", 4096), ("21", 9000)])
def test_mu_of_a_number_of_tokens(run, tokens):
    expected = load_file(DATA / "sigma_schedules_a.safetensors")[f"{run}/out.sigmas"]
    assert build("spacing", named("dynamic_shifted", tokens=tokens)).mu == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("run", "factor"), [("27", 1.0), ("29", 3.0)])
def test_training_tables_of_diffusers_flow_schedulers(run, factor):
    expected = load_file(DATA / "sigma_schedules_a.safetensors")[f"{run}/out.sigmas"]
    near(grid(named("shifted", factor=factor), 1000)[:-1:100], expected, rtol=1e-6)


def test_timesteps_of_the_flow_form_of_unipc_are_the_levels_cut_to_integers():
    tensors = load_file(DATA / "sigma_schedules_a.safetensors")
    near((1000 * tensors["31/out.sigmas"][:-1]).floor(), tensors["32/out.sigmas"])


@pytest.mark.parametrize(
    "spacing", [named("dynamic_shifted", mu=1.15), named("shifted", factor=math.exp(1.15))], ids=str
)
def test_diffusers_dynamic_shift(spacing):
    """exp(mu) / (exp(mu) + 1/t - 1) of given sigmas: test_samplers.py has the run (flow_euler_dynamic_mu)."""
    tensors = load_file(DATA.parent / "samplers" / "diffusers_flow_edm_a.safetensors")
    given = named("explicit", times=[1.0, 0.8, 0.6, 0.4, 0.2])
    near(grid({**spacing, "spacing": given}, 5), tensors["flow_euler_dynamic_mu/out.sigmas"])


def test_diffusers_shift_terminal():
    tensors = load_file(DATA.parent / "samplers" / "diffusers_flow_edm_a.safetensors")
    given = named("explicit", times=[1.0, 0.75, 0.5, 0.25])
    spacing = named("stretched", last=0.1, spacing=named("dynamic_shifted", mu=2.05, spacing=given))
    near(grid(spacing, 4), tensors["flow_euler_shift_terminal/out.sigmas"])
