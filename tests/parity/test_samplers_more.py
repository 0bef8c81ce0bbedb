"""diffusers' multistep schedulers, state by state in float64 (data/samplers/diffusers_more, see make_references.py)."""

import pytest
import torch

from tests.parity.test_samplers import Run, same
from tests.parity.test_samplers_published import levels_on, run_of, ve

TABLE = "ddpm_scaled_linear"
FINAL = {"lower_order_final": True}
"""Theirs ends with lower orders: UniPC always, DEIS and DPM-Solver below 15 steps."""
RUNS = {
    "unipc_2": {"name": "unipc", **FINAL},
    "unipc_3_bh1": {"name": "unipc", "order": 3, "solver": "bh1", **FINAL},
    "unipc_3_karras_v": {"name": "unipc", "order": 3, **FINAL},
    "unipc_1_sample": {"name": "unipc", "order": 1, **FINAL},
    "unipc_2_sigma_min": {"name": "unipc", **FINAL},
    "unipc_2_predictor_only": {"name": "unipc", "corrector": False, **FINAL},
    "unipc_2_noise": {"name": "unipc", "of": "noise", **FINAL},
    "unipc_3_noise_bh1": {"name": "unipc", "of": "noise", "order": 3, "solver": "bh1", **FINAL},
    "deis_2": {"name": "deis", "order": 2, **FINAL},
    "deis_3": {"name": "deis", "order": 3, **FINAL},
    "deis_3_long": {"name": "deis", "order": 3},
    "deis_1": {"name": "deis", "order": 1},
    "dpm_1": {"name": "dpm_solver", "order": 1},
    "dpm_2": {"name": "dpm_solver", **FINAL},
    "dpm_2_heun": {"name": "dpm_solver", "solver": "heun", **FINAL},
    "dpm_3": {"name": "dpm_solver", "order": 3, **FINAL},
    "sde_dpm_1": {"name": "dpm_solver", "order": 1, "stochastic": True},
    "sde_dpm_2": {"name": "dpm_solver", "stochastic": True, **FINAL},
    "sde_dpm_2_heun": {"name": "dpm_solver", "stochastic": True, "solver": "heun", **FINAL},
    "dpmpp_3_heun_karras": {"name": "dpmpp_3m", "solver": "heun", **FINAL},
    "sde_dpmpp_1": "ancestral",
    "sde_dpmpp_2_heun": {"name": "dpmpp_2m_sde", "solver": "heun", **FINAL},
    "single_1": {"name": "dpmpp_singlestep", "order": 1},
    "single_2": {"name": "dpmpp_singlestep"},
    "single_2_heun_even": {"name": "dpmpp_singlestep", "solver": "heun"},
    "single_3_karras": {"name": "dpmpp_singlestep", "order": 3},
    "single_3_heun_v": {"name": "dpmpp_singlestep", "order": 3, "solver": "heun"},
}
PREDICTIONS = {"single_3_heun_v": "v", "unipc_3_karras_v": "v", "unipc_1_sample": "x0", "deis_3_long": "v"}
FLOW = {"unipc_2_flow_shift3": {"name": "unipc", **FINAL}, "sde_dpmpp_2_flow": {"name": "dpmpp_2m_sde", **FINAL}}


@pytest.mark.parametrize("name", RUNS)
def test_on_a_table(name):
    run = Run("diffusers_more", name)
    times = levels_on(TABLE, run["out.sigmas"])
    same(run_of(run, RUNS[name], TABLE, times, PREDICTIONS.get(name, "eps")), run["out.states"])


@pytest.mark.parametrize("name", FLOW)
def test_on_the_linear_path(name):
    run = Run("diffusers_more", name)
    same(run_of(run, FLOW[name], "linear", run["out.sigmas"], "velocity"), run["out.states"])


@pytest.mark.parametrize("name", ["dpm2_ancestral", "dpm2_ancestral_karras"])
def test_dpm2_ancestral(name):
    """Each level twice there, and a state halfway as well; the states at the levels themselves are ours."""
    run = Run("diffusers_more", name)
    path, times = ve(run, "out.sigmas")
    found = run_of(run, "dpm2_ancestral", path, torch.unique_consecutive(times), calls=2)
    states = run["out.states"]
    same(found, torch.cat([states[:-1:2], states[-1:]]))


def test_sde_dpm_solver_of_order_three_and_its_sign():
    """The weight of their quadratic term ends in - 1/2 where its integral has + 1/2: it does not vanish with h."""
    run, node = Run("diffusers_more", "sde_dpmpp_3"), {"name": "dpmpp_3m_sde", "solver": "midpoint", **FINAL}
    times = levels_on(TABLE, run["out.sigmas"])
    same(run_of(run, node, TABLE, times, "eps")[:3], run["out.states"][:3])
    same(run_of(run, {**node, "minus_half": True}, TABLE, times, "eps"), run["out.states"])
