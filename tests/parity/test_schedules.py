"""Published schedules, conversions, grids and densities (data/schedules), in float64."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo.objectives
import zoo.samplers  # noqa: F401
from vidiff.diffusion.estimate import Estimate, velocity
from vidiff.registry import build

DATA = Path(__file__).parent / "data" / "schedules"
F64 = torch.float64
ENTRIES = torch.arange(1, 1001, dtype=F64) / 1000


def near(found, expected, rtol=1e-9, atol=1e-12):
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=rtol, atol=atol), (found - expected).abs().max()


@pytest.mark.parametrize(
    ("run", "path"), [("00", "ddpm"), ("01", "ddpm_cosine"), ("12", "ddpm_scaled_linear"), ("14", "ddpm_sigmoid")]
)
def test_alphas_cumprod(run, path):
    table, path = load_file(DATA / "alphas_cumprod_T1000.safetensors")[f"{run}/out.alphas_cumprod"], build("path", path)
    near(path.alphas_cumprod, table, rtol=1e-12, atol=0)
    near(path.alpha(ENTRIES) ** 2, table, rtol=1e-12, atol=0)
    near(path.sigma(ENTRIES) ** 2, 1 - table, rtol=1e-11)
    near(1000 * path.label(ENTRIES), torch.arange(1000, dtype=F64), atol=1e-9)


@pytest.mark.parametrize(("official", "ours"), [("Linear", "linear"), ("GVP", "gvp"), ("VP", "vp")])
def test_sit_paths(official, ours):
    """SiT's t is 1 - ours, so derivatives and velocities change their sign."""
    tensors, path = load_file(DATA / "sit_path_tables_a.safetensors"), build("path", ours)
    out = {k.removeprefix(f"{official}/out."): v for k, v in tensors.items() if k.startswith(f"{official}/out.")}
    t, x, v = 1 - tensors["in.t"], tensors["in.x"], tensors["in.v"]
    near(path.alpha(t), out["alpha"])
    near(path.sigma(t), out["sigma"])
    near(-path.alpha_dot(t), out["d_alpha"])
    near(-path.sigma_dot(t), out["d_sigma"])
    flow, score = build("prediction", "velocity"), build("prediction", "score")
    estimate = flow.solve(path, x, -v, t)
    near(score.ask(path, estimate, t), out["score_from_velocity"])
    near(estimate.noise, out["noise_from_velocity"])
    near(-velocity(path, score.solve(path, x, v, t), t), out["velocity_from_score"])
    likelihood, sigma = build("weighting", "sit_likelihood").weight(path, t), path.sigma(t)
    near(likelihood * sigma**2, out["compute_drift_var"])
    near((path.alpha_dot(t) / path.alpha(t))[:, None] * x, out["compute_drift_mean"])


@pytest.mark.parametrize(("official", "ours"), [("CondOT", "linear"), ("Cosine", "gvp"), ("VP", "vp")])
def test_flow_matching_schedulers_and_conversions(official, ours):
    """flow_matching's t is 1 - ours, its x0 is our noise and its x1 our x0; its snr is alpha/sigma, not squared."""
    tensors, path = load_file(DATA / "flow_matching_tables_a.safetensors"), build("path", ours)
    out = {k.removeprefix(f"{official}/out."): v for k, v in tensors.items() if k.startswith(f"{official}/out.")}
    t, x0, noise = 1 - tensors["in.t"], tensors["in.x1"], tensors["in.x0"]
    near(path.alpha(t), out["alpha_t"])
    near(path.sigma(t), out["sigma_t"])
    near(-path.alpha_dot(t), out["d_alpha_t"])
    near(-path.sigma_dot(t), out["d_sigma_t"])
    near(1 - path.time(2 * (out["alpha_t"] / out["sigma_t"]).log()), out["snr_inverse_of_alpha_over_sigma"], atol=1e-9)
    x_t = path.point(x0, noise, t)
    near(x_t, out["x_t"])
    near(-velocity(path, Estimate(x0, noise), t), out["dx_t"])
    kinds = {"target": "x0", "epsilon": "eps", "velocity": "velocity"}
    given = {"target": x0, "epsilon": noise, "velocity": velocity(path, Estimate(x0, noise), t)}
    for key, expected in out.items():
        source, _, goal = key.partition("_to_")
        if not goal:
            continue
        estimate = build("prediction", kinds[source]).solve(path, x_t, given[source], t)
        found = build("prediction", kinds[goal]).ask(path, estimate, t)
        near(-found if goal == "velocity" else found, expected)


def test_respacings_and_leading_grids():
    tensors, path = load_file(DATA / "timestep_grids_a.safetensors"), build("path", "ddpm")
    settings = {
        "00": ("respaced", {}), "05": ("respaced", {}), "01": ("leading", {}),
        "06": ("leading", {}), "07": ("leading", {}),
        "08": ("leading", {"offset": 1}), "09": ("leading", {"offset": 1}),
        "10": ("respaced", {}), "11": ("respaced", {}), "14": ("uniform", {}), "15": ("uniform", {}),
    }  # fmt: skip
    for run, (name, extra) in settings.items():
        expected = tensors[f"{run}/out.timesteps"].sort(descending=True).values
        times = build("spacing", {"name": name, **extra})(len(expected), path, (0.0, 1.0))
        timesteps = (1000 * times[:-1]).round().long() - 1
        assert torch.equal(timesteps, expected), run
        assert times[-1] == 0


def test_noise_levels_of_edm_and_k_diffusion():
    tensors, ve = load_file(DATA / "sigma_schedules_a.safetensors"), build("path", "ve")
    k = {"sigma_min": 0.03, "sigma_max": 14.6}
    settings = {
        "00": ("karras", {}, 1e-12), "01": ("karras", {}, 1e-12),
        "02": ("karras", {"rho": 3.0, "sigma_min": 0.01, "sigma_max": 50.0}, 1e-12),
        "03": ("karras", k, 1e-5), "04": ("logsnr", k, 1e-5),  # made in float32 there
    }  # fmt: skip
    for run, (name, extra, rtol) in settings.items():
        expected = tensors[f"{run}/out.sigmas"]
        near(80 * build("spacing", {"name": name, **extra})(len(expected) - 1, ve, (0.0, 1.0)), expected, rtol, 1e-12)


def test_densities_over_time_and_noise_level():
    tensors = load_file(DATA / "timestep_sampling_and_weights_a.safetensors")
    ve, linear = build("path", "ve"), build("path", "linear")
    u = torch.special.ndtr(tensors["in.normal"])
    for run, (mean, std) in {"0": (0.0, 1.0), "1": (0.5, 1.3)}.items():
        times = build("times", {"name": "logit_normal", "mean": mean, "std": std})
        near(times.quantile(u, linear, (0.0, 1.0)), tensors[f"logit_normal_{run}/out.u"])
    u = tensors["in.uniform"] * (1 - 2e-7) + 1e-7
    levels = 80 * build("times", "lognormal_sigma").quantile(u, ve, (0.0, 1.0))
    near(levels, tensors["k_lognormal/out.sigma"], rtol=1e-6)  # a float32 icdf there


def test_min_snr_weights_and_v():
    tensors, path = load_file(DATA / "timestep_sampling_and_weights_a.safetensors"), build("path", "ddpm_scaled_linear")
    t = (tensors["in.timesteps"].double() + 1) / 1000
    near(path.logsnr(t).exp(), tensors["out.snr"])
    weighting = build("weighting", {"name": "min_snr", "gamma": 5.0})
    for prediction, key in {"eps": "epsilon", "v": "v", "x0": "x0"}.items():
        near(weighting(path, build("prediction", prediction), t), tensors[f"min_snr_5.0/out.weight_{key}"])
    x0, noise, t = tensors["v/in.x0"], tensors["v/in.eps"], (tensors["v/in.t"].double() + 1) / 1000
    near(path.point(x0, noise, t), tensors["v/out.x_t"])
    near(build("prediction", "v").target(path, x0, noise, t), tensors["v/out.v"])
