"""What make_references.py and make_k_references.py added last: a second set of diffusers' arguments, dpm_fast, dpm_adaptive.

Here the grids are those of YAML too, so that a run is reached by names and numbers alone.
"""

import pytest
import torch

from tests.parity.test_samplers import F64, Run, same
from tests.parity.test_samplers_published import run_of
from vidiff.registry import build

TABLE, FINAL = "ddpm_scaled_linear", {"lower_order_final": True}
ENDS = build("path", TABLE)
LOW, HIGH = (
    (ENDS.sigma(t) / ENDS.alpha(t)).item() for t in (torch.tensor(0.001, dtype=F64), torch.tensor(1.0, dtype=F64))
)
BETA = {"name": "beta", "sigma_min": LOW, "sigma_max": HIGH}
RESPACED = {"name": "respaced", "first": False}
TIMES = {"name": "ve", "sigma_max": 1.0}


def of_time(name):
    return {"name": "borrowed", "of": TIMES, "spacing": {"name": name, "sigma_min": 0.001, "sigma_max": 1.0}}


def stopped(**sampler):
    return {"name": "stopped", "sampler": sampler}


def single(**settings):
    return {"name": "dpmpp_singlestep", **settings}


RUNS = {  # run: path, spacing, prediction, sampler
    "dpmpp_2_beta": (TABLE, BETA, "eps", {"name": "dpmpp_2m", **FINAL}),
    "dpmpp_2_beta_v_sigma_min": (TABLE, BETA, "v", stopped(name="dpmpp_2m", **FINAL)),
    "dpmpp_3_sigma_min": (TABLE, RESPACED, "eps", stopped(name="dpmpp_3m", **FINAL)),
    "sde_dpmpp_3_heun": (TABLE, RESPACED, "eps", stopped(name="dpmpp_3m_sde", minus_half=True)),
    "dpmpp_2_flow": ("linear", {"name": "shifted", "factor": 5.0, "spacing": {"name": "uniform", "first": 0.999}}, "velocity", {"name": "dpmpp_2m", **FINAL}),
    "unipc_2_zero_snr_v": ({"name": "zero_snr", "last": 2.0**-24}, "trailing", "v", {"name": "unipc", **FINAL}),
    "deis_2_exponential": (TABLE, {"name": "logsnr", "sigma_min": LOW, "sigma_max": HIGH}, "eps", stopped(name="deis", order=2)),
    "single_2_even_final": (TABLE, RESPACED, "eps", stopped(**single(), **FINAL)),
    "single_3_final": (TABLE, RESPACED, "v", stopped(**single(order=3), **FINAL)),
    "single_2_noise": (TABLE, RESPACED, "eps", stopped(**single(of="noise"))),
    "single_3_noise": (TABLE, RESPACED, "eps", stopped(**single(of="noise", order=3))),
    "single_3_noise_heun": (TABLE, RESPACED, "eps", stopped(**single(of="noise", order=3, solver="heun"))),
    "single_2_sde_heun": (TABLE, RESPACED, "eps", single(stochastic=True, solver="heun")),
    "single_3_sde": (TABLE, RESPACED, "eps", single(stochastic=True, order=3)),
    "single_3_sde_heun": (TABLE, RESPACED, "eps", single(stochastic=True, order=3, solver="heun", minus_half=True)),
    "flow_euler_karras": ("linear", of_time("karras"), "velocity", "euler"),
    "flow_euler_exponential": ("linear", of_time("logsnr"), "velocity", "euler"),
    "flow_euler_beta": ("linear", of_time("beta"), "velocity", "euler"),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_diffusers(name):
    run, (path, spacing, prediction, sampler) = Run("diffusers_rest", name), RUNS[name]
    path, steps = build("path", path), len(run["out.states"]) - 1
    times = build("spacing", spacing)(steps, path, (0.0, 1.0))
    until = times.clamp(min=0.001) if "stopped" in str(sampler) else times
    levels = until if prediction == "velocity" else path.sigma(until) / path.alpha(until)
    assert torch.allclose(levels, run["out.sigmas"], rtol=1e-9, atol=1e-9)
    found = run_of(run, sampler, path, times, prediction)
    skipped = steps + 1 - len(found)  # a last step of no length (beta, exponential: they end on the level they are at)
    assert skipped in (0, 1) and torch.equal(run["out.states"][-1], run["out.states"][-1 - skipped])
    same(found, run["out.states"][: len(found)])


@pytest.mark.parametrize(
    ("name", "path", "offset", "sampler"),
    [
        ("pndm", TABLE, 0, {"name": "pndm"}),
        ("pndm_first_entry", TABLE, 1, stopped(name="pndm")),
        ("pndm_prk", "ddpm", 0, {"name": "pndm", "warmup": "prk"}),
    ],
)
def test_diffusers_pndm(name, path, offset, sampler):
    """A state per call: theirs counts the second evaluation of the first step, and Runge-Kutta's, as steps."""
    run = Run("diffusers_rest", name)
    warm = 9 if "prk" in name else 1
    steps = len(run["out.states"]) - 1 - warm
    times = build("spacing", {"name": "leading", "offset": offset})(steps, build("path", path), (0.0, 1.0))
    found = run_of(run, sampler, path, times, "eps")
    same(found, run["out.states"])
    promised = build("sampler", {**sampler, "steps": steps}).evaluations
    assert promised is None or promised == len(found) - 1


ADAPTIVE = {"name": "dpm_adaptive", "together": True}
K_RUNS = {
    **{f"dpm_fast_{n}": {"name": "dpm_fast", "steps": n} for n in (5, 7, 9)},
    "dpm_fast_8_eta0.6": {"name": "dpm_fast", "steps": 8, "eta": 0.6, "s_noise": 1.01},
    "dpm_fast_6_eta1": {"name": "dpm_fast", "steps": 6, "eta": 1.0},
    "dpm_adaptive_3": ADAPTIVE,
    "dpm_adaptive_2_tight": {**ADAPTIVE, "order": 2, "rtol": 0.01, "atol": 0.001},
    "dpm_adaptive_3_pid": {**ADAPTIVE, "pid": (0.4, 0.3, 0.1), "rtol": 0.02},
    "dpm_adaptive_3_eta1": {**ADAPTIVE, "eta": 1.0, "s_noise": 0.98, "first": 1.5},
    "dpmpp_sde_r0.3": {"name": "dpmpp_sde", "r": 0.3},
    "dpmpp_sde_r0.7_eta0.8": {"name": "dpmpp_sde", "r": 0.7, "eta": 0.8, "s_noise": 0.97},
}


@pytest.mark.parametrize("name", K_RUNS)
def test_k_diffusion(name):
    """dpm_fast and dpm_adaptive stop at the last level above 0 there, and know nothing of those between."""
    run, sampler = Run("k_diffusion_rest", name), K_RUNS[name]
    path, times = build("path", {"name": "ve", "sigma_max": 14.6}), run["in.sigmas"] / 14.6
    if "steps" in sampler:
        times = torch.linspace(1.0, times[-2].item(), sampler["steps"] + 1, dtype=F64)
    elif sampler["name"] == "dpm_adaptive":
        times = times[:-1]
    found = run_of(run, sampler, path, times)
    same(found[[0, -1]], run["out.states"])
    if "steps" in sampler:
        assert len(found) - 1 == sampler["steps"]
        same(found[:-1:3], run["aux.states"][: len(found[:-1:3])])  # blocks of three evaluations, as far as they go


def test_dpm_fast_goes_on_to_clean_data():
    """From the grid of a YAML file: theirs with n = 9, and one evaluation more."""
    run, path = Run("k_diffusion_rest", "dpm_fast_9"), build("path", {"name": "ve", "sigma_max": 14.6})
    times = build("spacing", {"name": "logsnr", "sigma_min": 0.03, "sigma_max": 14.6})(10, path, (0.0, 1.0))
    found = run_of(run, {"name": "dpm_fast", "steps": 10}, path, times)
    same(found[-2:-1], run["out.states"][-1:])
    last = run.mixture.through(build("prediction", "x0"), path)(found[-2], times[-2].expand(len(found[-2]))).x0
    same(found[-1], last)
