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


TABLES = {
    "00": "ddpm",
    "01": "ddpm_cosine",
    "02": {"name": "ddpm_scaled_linear", "beta_start": 1e-4, "beta_end": 0.02},  # their "quad"
    "03": "ddpm_warmup",
    "04": {"name": "ddpm", "beta_start": 0.02, "beta_end": 0.02},
    "05": "ddpm_jsd",
    "06": {"name": "ddpm_cosine", "cap": 0.9999},
    "07": "ddpm_sigmoid",
    "08": "ddpm_sigmoid_signal",
    "09": {"name": "ddpm_sigmoid_signal", "start": 0.0, "tau": 0.9},
    "10": "ddpm_scaled_linear",
    "11": "ddpm",
    "12": "ddpm_scaled_linear",
    "13": "ddpm_cosine",
    "14": "ddpm_sigmoid",
    "15": "ddpm_laplace",
    "16": "zero_snr",
    "17": {"name": "zero_snr", "shift": 3.0},  # of the same table, shifted before it is moved
    "18": "ddpm_scaled_linear",
}


@pytest.mark.parametrize(("run", "path"), TABLES.items())
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


FORMS = {
    "constant": "constant", "SBDM": "sbdm", "sigma": "sigma", "linear": "linear", "decreasing": "decreasing",
    "inccreasing-decreasing": "increasing_decreasing",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("official", "ours"), [("Linear", "linear"), ("GVP", "gvp"), ("VP", "vp")])
def test_sit_diffusion_coefficients(official, ours, form):
    tensors = load_file(DATA / "sit_path_tables_a.safetensors")
    sampler = build("sampler", {"name": "euler_maruyama", "diffusion": FORMS[form], "norm": 0.8})
    near(sampler.coefficient(build("path", ours), 1 - tensors["in.t"]), tensors[f"{official}/out.diffusion_{form}"])


@pytest.mark.parametrize(
    ("official", "ours"), [("CondOT", "linear"), ("Cosine", "gvp"), ("VP", "vp"), ("Poly3", "polynomial")]
)
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


def sampling_and_weights():
    return load_file(DATA / "timestep_sampling_and_weights_a.safetensors")


def quantile(u, path, node):
    return build("times", node).quantile(u, build("path", path), (0.0, 1.0))


def test_densities_over_time():
    """SD3's u; diffusers looks it up in a table that descends, which turns noise and data round."""
    tensors = sampling_and_weights()
    u = torch.special.ndtr(tensors["in.normal"])
    for run, (mean, std) in {"0": (0.0, 1.0), "1": (0.5, 1.3)}.items():
        times = {"name": "logit_normal", "mean": mean, "std": std}
        near(quantile(u, "linear", times), tensors[f"logit_normal_{run}/out.u"])
    for run, scale in {"0": 1.29, "1": 0.8}.items():
        times = {"name": "mode", "scale": scale}  # the published formula falls with its u, a quantile rises
        near(quantile(1 - tensors["in.uniform"], "linear", times), tensors[f"mode_{run}/out.u"])


def test_densities_over_noise_levels():
    """k-diffusion's; its interpolated cosine counts u from sigma_max down, a quantile up."""
    tensors, far = sampling_and_weights(), {"name": "ve", "sigma_max": 1000.0}
    u = tensors["in.uniform"]
    mean, std = torch.tensor([-1.2, 1.2]).tolist()  # torch's Normal keeps them in float32
    lognormal = {"name": "lognormal_sigma", "mean": mean, "std": std}
    near(80 * quantile(u * (1 - 2e-7) + 1e-7, "ve", lognormal), tensors["k_lognormal/out.sigma"])
    near(1000 * quantile(u, far, "log_logistic_sigma"), tensors["k_log_logistic/out.sigma"])
    half = {"name": "v_diffusion_sigma", "sigma_data": 0.5}
    near(1000 * quantile(u, far, half), tensors["k_v_diffusion/out.sigma"])
    cosine = {"name": "cosine_interpolated_sigma", "size": 32.0, "sigma_data": 0.5}
    near(1000 * quantile(1 - u, far, cosine), tensors["k_cosine_interpolated/out.sigma"])


def test_weights_of_sd3():
    tensors, linear = sampling_and_weights(), build("path", "linear")
    for name in ("sigma_sqrt", "cosmap"):
        found = build("weighting", f"sd3_{name}").weight(linear, tensors["in.sigmas"])
        near(found, tensors[f"sd3_{name}/out.weight"])
    near(build("weighting", "uniform").weight(linear, tensors["in.sigmas"]), tensors["sd3_none/out.weight"])


def test_weights_of_diffusion_forcing():
    """Its noise levels are (frames, batch), -1-based times of the sigmoid table; ours (batch, frames)."""
    tensors, path = sampling_and_weights(), build("path", "ddpm_sigmoid_signal")
    t = (tensors["df/in.noise_levels"].double().T + 1) / 1000
    fused = build("weighting", {"name": "fused_snr", "gamma": 5.0, "decay": 0.98})
    plain = build("weighting", {"name": "min_snr", "gamma": 5.0})
    for theirs, ours in {"noise": "eps", "x0": "x0", "v": "v"}.items():
        prediction = build("prediction", ours)
        near(fused(path, prediction, t).T, tensors[f"df/out.pred_{theirs}_fused"])
        near(plain(path, prediction, t).T, tensors[f"df/out.pred_{theirs}_minsnr"])


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
