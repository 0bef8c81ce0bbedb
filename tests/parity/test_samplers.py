"""Trajectories of the published samplers on an analytic mixture, state by state in float64 (data/samplers).

Times: the published t of SiT, Nano-Sora and flow_matching runs from noise 0 to data 1 and is 1 - ours;
diffusers' flow sigma is our t; the integer timestep i of DDPM codes is our (i+1)/1000; EDM's sigma is 80 t on `ve`.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import Mixture
from vidiff.registry import build

DATA = Path(__file__).parent / "data" / "samplers"
F64 = torch.float64


class Run:
    """One run of a fixture: its tensors by short name, and the mixture it was made with."""

    def __init__(self, file, name):
        tensors = load_file(DATA / f"{file}.safetensors")
        eye = torch.eye(4, dtype=F64)
        variances = tensors["gmm.stds"][:, None, None] ** 2
        self.mixture = Mixture(tensors["gmm.weights"], tensors["gmm.means"], variances * eye)
        self.tensors = tensors | {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}

    def __getitem__(self, key):
        return self.tensors[key]

    def states(self, sampler, path, times, prediction="x0"):
        """x before every step, and at the end."""
        path, sampler, seen = build("path", path), build("sampler", sampler), []
        estimate = self.mixture.through(build("prediction", prediction), path)
        noises = Recorded(self.tensors.get("in.noise"))
        x = self["out.states"][0]
        out = sampler(lambda x, t: seen.append(x) or estimate(x, t), x, times, path, noises)
        calls_per_step = 2 if len(seen) > len(times) - 1 else 1
        return torch.stack([*seen[::calls_per_step], out])


class Recorded:
    """The published draws, in order; the last, multiplied by 0, is not always among them."""

    def __init__(self, noises):
        self.noises = iter([] if noises is None else noises)

    def normal(self, shape, dtype):
        return next(self.noises, torch.zeros(shape, dtype=dtype))


def same(found, expected):
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9), (found - expected).abs().amax((1, 2))


def clean(times):
    return torch.cat([times, times.new_zeros(1)])


@pytest.mark.parametrize(
    ("file", "name", "spacing"),
    [
        ("edm_sampler_a", "deterministic_18", {}),
        ("edm_sampler_a", "deterministic_rho3_8", {"rho": 3.0, "sigma_min": 0.01, "sigma_max": 20.0}),
        ("edm_sampler_c", "deterministic_5", {"sigma_min": 0.05, "sigma_max": 10.0}),
    ],
)
def test_edm_heun_with_its_own_noise_levels(file, name, spacing):
    run = Run(file, name)
    times = build("spacing", {"name": "karras", **spacing})(len(run["out.states"]) - 1, build("path", "ve"), (0.0, 1.0))
    assert torch.allclose(80 * times[0] * run["in.latents"], run["out.states"][0], rtol=1e-12)
    same(run.states("heun", "ve", times, "edm"), run["out.states"])


def test_edm_ablation_euler_on_the_iddpm_levels():
    run = Run("edm_sampler_a", "ablation_iddpm_linear_euler")
    path = {"name": "ve", "sigma_max": 200.0}
    same(run.states("euler", path, clean(run["aux.model_sigmas"] / 200)), run["out.states"])


def test_edm_ablation_heun_on_the_vp_path():
    """All but the last step, which is an Euler step of the ODE there and the denoised x0 here."""
    run, vp = Run("edm_sampler_a", "ablation_vp_heun"), build("path", "vp")
    levels = torch.cat([run["aux.model_sigmas"][:1], run["aux.model_sigmas"][1::2]])
    found = run.states("heun", "vp", clean(vp.time(-2 * levels.log())), "v")
    same(found[:-1], run["out.states"][:-1])


@pytest.mark.parametrize(
    ("name", "prediction"),
    [("linear_velocity_euler", "velocity"), ("linear_noise_euler", "eps"), ("linear_velocity_reverse", "velocity")],
)
def test_sit_euler(name, prediction):
    run = Run("sit_ode_a", name)
    same(run.states("euler", "linear", 1 - run["out.t"], prediction), run["out.states"])


def test_sit_euler_of_25_steps():
    run = Run("sit_ode_c", "linear_velocity_euler25")
    times = build("spacing", "uniform")(25, build("path", "linear"), (0.0, 1.0))
    assert torch.allclose(times, 1 - run["out.t"], atol=1e-12)
    same(run.states("euler", "linear", times, "velocity"), run["out.states"])


def test_sit_heun():
    """All but the last step, which is not corrected here: its second slope would be that of clean data."""
    run = Run("sit_ode_a", "linear_velocity_heun2")
    same(run.states("heun", "linear", 1 - run["out.t"], "velocity")[:-1], run["out.states"][:-1])


@pytest.mark.parametrize("file", ["nanosora_sampler_a", "nanosora_sampler_c"])
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_nano_sora(file, name):
    run = Run(file, name)
    times = build("spacing", "uniform")(len(run["out.states"]) - 1, build("path", "linear"), (0.0, 1.0))
    last = None if name == "euler" else -1  # Heun corrects the last step there
    same(run.states(name, "linear", times, "velocity")[:last], run["out.states"][:last])


def test_flow_matching_euler():
    run = Run("flow_matching_ode_c", "condot_euler_grid")
    same(run.states("euler", "linear", 1 - run["in.time_grid"], "velocity"), run["out.states"])
    run = Run("flow_matching_ode_a", "condot_euler_step0.1")
    found = run.states("euler", "linear", torch.linspace(1, 0, 11, dtype=F64), "velocity")
    same(found[[0, 5, 10]], run["out.states"][[0, 2, 3]])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *(("diffusers_flow_edm_a", f"flow_euler_{n}") for n in ("shift1", "shift3", "dynamic_mu", "shift_terminal")),
        *(("diffusers_flow_c", f"flow_euler_{n}") for n in ("shift5", "custom_sigmas")),
    ],
)
def test_diffusers_flow_euler(file, name):
    run = Run(file, name)
    same(run.states("euler", "linear", run["out.sigmas"], "velocity"), run["out.states"])


@pytest.mark.parametrize(
    ("file", "name"), [("diffusers_flow_edm_a", "flow_heun"), ("diffusers_flow_c", "flow_heun_shift2")]
)
def test_diffusers_flow_heun(file, name):
    run = Run(file, name)
    sigmas, states = run["out.sigmas"], run["out.states"]  # a state per call of the network: every other one is a step
    times = torch.cat([sigmas[:1], sigmas[1::2]])
    same(run.states("heun", "linear", times, "velocity"), torch.cat([states[:-1:2], states[-1:]]))


def test_diffusers_edm_euler():
    run = Run("diffusers_flow_edm_a", "edm_euler")
    path = build("path", {"name": "ve", "sigma_max": 20.0})
    times = build("spacing", {"name": "karras", "sigma_min": 0.02})(9, path, (0.0, 1.0))
    assert torch.allclose(20 * times, run["out.sigmas"], rtol=1e-9)
    same(run.states("euler", {"name": "ve", "sigma_max": 20.0}, times, "edm"), run["out.states"])


@pytest.mark.parametrize(
    ("file", "name", "sampler"),
    [
        ("k_diffusion_a", "euler", "euler"),
        ("k_diffusion_a", "heun", "heun"),
        ("k_diffusion_a", "euler_ancestral", "ancestral"),
        ("k_diffusion_c", "euler_vp", "euler"),
        ("k_diffusion_c", "heun_exponential", "heun"),
    ],
)
def test_k_diffusion(file, name, sampler):
    run = Run(file, name)
    top = float(run["in.sigmas"][0])
    same(run.states(sampler, {"name": "ve", "sigma_max": top}, run["in.sigmas"] / top), run["out.states"])


@pytest.mark.parametrize(
    ("file", "name", "spacing", "sampler"),
    [
        ("gaussian_diffusion_a", "ddpm_fixed_small", "respaced", "ancestral"),
        ("gaussian_diffusion_a", "ddim_eta0", "leading", "euler"),
        ("gaussian_diffusion_a", "ddim_eta0.5", "leading", {"name": "ancestral", "eta": 0.5}),
        ("gaussian_diffusion_c", "ddim_eta1", "leading", "ancestral"),
    ],
)
def test_improved_diffusion(file, name, spacing, sampler):
    """The code of DiT and Latte, its own respacing included."""
    run, path = Run(file, name), build("path", "ddpm")
    times = build("spacing", spacing)(len(run["out.states"]) - 1, path, (0.0, 1.0))
    assert torch.equal((1000 * times[:-1]).round().long() - 1, run["out.timestep_map"].flip(0))
    same(run.states(sampler, "ddpm", times, "eps"), run["out.states"])


def test_improved_diffusion_ddim_inversion():
    """Up to the last step, which goes to alpha = 0, where this table never gets."""
    run = Run("gaussian_diffusion_a", "ddim_reverse")
    times = (run["out.timestep_map"].double() + 1) / 1000
    same(run.states("euler", "ddpm", times, "eps"), run["out.states"][:-1])


@pytest.mark.parametrize(
    ("file", "name", "path", "spacing", "sampler", "prediction"),
    [
        ("a", "ddpm_small_leading", "ddpm", "leading", "ancestral", "eps"),
        ("a", "ddpm_small_trailing_v", "ddpm_cosine", "uniform", "ancestral", "v"),
        ("c", "ddpm_small_log_x0", "ddpm", "leading", "ancestral", "x0"),
        ("c", "ddim_eta1_trailing", "ddpm_scaled_linear", "uniform", "ancestral", "eps"),
    ],
)
def test_diffusers_ddpm(file, name, path, spacing, sampler, prediction):
    run = Run(f"diffusers_ddpm_ddim_{file}", name)
    times = build("spacing", spacing)(len(run["out.states"]) - 1, build("path", path), (0.0, 1.0))
    assert torch.allclose(1000 * times[:-1] - 1, run["out.timesteps"].double(), atol=1e-9)
    same(run.states(sampler, path, times, prediction), run["out.states"])


def test_diffusers_ddim_with_an_offset_ends_at_the_first_entry():
    run, path = Run("diffusers_ddpm_ddim_a", "ddim_eta0_leading_offset1"), build("path", "ddpm_scaled_linear")
    times = build("spacing", {"name": "leading", "offset": 1})(10, path, (0.0, 1.0))
    times[-1] = 1 / 1000  # set_alpha_to_one=False
    same(run.states("euler", "ddpm_scaled_linear", times, "eps"), run["out.states"])
