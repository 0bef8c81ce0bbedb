"""What a sampler cannot do is said when the configuration is read, not when a run draws its first samples."""

from pathlib import Path

import pytest

import zoo  # noqa: F401
from vidiff.building import plan
from vidiff.config import ConfigError, load

PROJECT = Path(__file__).resolve().parents[2] / "projects/oracle.yaml"
LEARNED = "sampler={name: ddpm, variance: learned, steps: 4}"
REFUSED = [
    (["sampler={name: euler, spacing: leading, steps: 2000}"], "2000 sampling steps cannot be taken from 1000"),
    (["sampler={name: euler, spacing: {name: explicit, times: [0.9, 0.2]}, steps: 2}", "objective.interval=[0,0.5]"],
     "begins at 0.9, above the interval's end 0.5"),
    (["sampler={name: euler, spacing: {name: explicit_levels, levels: [900.0, 1.0]}, steps: 2}", "objective=epsilon"],
     "begins at 900, and the path ends at 157"),
    (["sampler={name: euler_maruyama, diffusion: sbdm}"], "sbdm is infinite where alpha = 0"),
    (["sampler={name: heun_sde, diffusion: sbdm, path: linear}", "objective=epsilon"], "sbdm is infinite"),
    (["sampler={name: clipped, sampler: {name: euler_maruyama, diffusion: sbdm}}"], "sbdm is infinite"),
    ([LEARNED], "needs a model that answers variances: objective iddpm"),
    ([LEARNED, "objective={name: vlb, variance: fixed_small}"], "needs a model that answers variances"),
    ([LEARNED, "objective={name: iddpm, variance: learned}"], "needs a model that answers variances"),
    (["sampler={name: clipped, sampler: {name: ddpm, variance: learned}}"], "needs a model that answers variances"),
    ([LEARNED, "objective=iddpm", "guidance=cfg_zero"], "this guidance asks the network nothing in the first ones"),
    ([LEARNED, "objective=iddpm", "guidance={name: rescale, guidance: cfg_zero}"], "asks the network nothing"),
    (["sampler={name: clipped, sampler: jump}"], "it asks a model for jump"),
    (["sampler={name: stopped, sampler: {name: euler_maruyama, diffusion: sbdm}}"], "sbdm is infinite"),
    (["sampler={name: stopped, sampler: {name: ddpm, variance: learned}}"], "needs a model that answers variances"),
]  # fmt: skip
TAKEN = [
    [LEARNED, "objective=iddpm"],
    [LEARNED, "objective=vlb"],
    [LEARNED, "objective=iddpm", "guidance={name: cfg_zero, zero_init: 0.0}"],
    ["sampler={name: euler_maruyama, diffusion: sbdm}", "objective=epsilon"],
    ["sampler={name: euler_maruyama, diffusion: sbdm}", "objective.interval=[0,0.999]"],
    ["sampler={name: heun_sde, diffusion: sbdm, path: ve}"],
]


@pytest.mark.parametrize(("overrides", "words"), REFUSED, ids=[" ".join(o) for o, _ in REFUSED])
def test_refused_in_one_line(overrides, words):
    with pytest.raises(ConfigError, match=words) as refused:
        plan(load(PROJECT, overrides))
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("overrides", TAKEN, ids=[" ".join(o) for o in TAKEN])
def test_taken(overrides):
    plan(load(PROJECT, overrides))
