"""Averages and learning rates of EDM, EDM2 and diffusers, step by step: fixture ema_lr_tables_a, float64."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.parity.networks import DATA
from vidiff.config.schema import EMA, Schedule
from vidiff.engine.ema import decay_of
from vidiff.engine.optim import InverseSqrt, LearningRate
from vidiff.engine.posthoc import coefficients, exponent, power_decay

TABLES = load_file(DATA / "schedules" / "ema_lr_tables_a.safetensors")


def table(name):
    return TABLES[name].tolist()


def test_edm2_power_function():
    sigmas = table("edm2/in.std")
    assert [exponent(s) for s in sigmas] == pytest.approx(table("edm2/out.exp"), rel=1e-12)
    for sigma, row in zip(sigmas, table("edm2/out.beta_delta500")):
        ours = [power_decay(t / 500, exponent(sigma)) for t in table("edm2/in.t_next")]
        assert ours == pytest.approx(row, rel=0, abs=1e-12)


def test_edm2_posthoc_coefficients():
    x, _ = coefficients([2.0, 2.0, 4.0, 4.0], [0.05, 0.1, 0.05, 0.1], [4, 4], [0.07, 0.12])
    assert torch.allclose(x, TABLES["edm2/out.posthoc_coefficients"], rtol=0, atol=1e-9)


def test_edm():
    """A half-life of 500,000 images at 512 a step. Theirs counts images before the step: delay 1."""
    config = EMA(decay=0.5 ** (512 / 500_000), warmup="share", warmup_share=0.05, delay=1)
    ours = [decay_of(n / 512 + 1, config.decay, config) for n in table("edm/in.cur_nimg")]
    assert ours == pytest.approx(table("edm/out.ema_beta"), rel=0, abs=1e-12)


@pytest.mark.parametrize(
    ("run", "config"),
    [
        (0, EMA(decay=0.9999, delay=1)),
        (1, EMA(decay=0.9999, warmup="power", warmup_power=2 / 3, delay=1)),
        (2, EMA(decay=0.999, delay=6, min_decay=0.1)),
    ],
)
def test_diffusers_ema(run, config):
    """theirs waits update_after_step + 1 steps: delay."""
    ours = [decay_of(s, config.decay, config) for s in table(f"diffusers_ema_{run}/in.step")]
    assert ours == pytest.approx(table(f"diffusers_ema_{run}/out.decay"), rel=0, abs=1e-12)


LEARNING_RATES = {
    "constant_with_warmup": Schedule("constant", warmup_steps=4),
    "linear": Schedule("linear", warmup_steps=4),
    "cosine": Schedule("cosine", warmup_steps=4),
    "cosine_with_restarts": Schedule("cosine_restarts", warmup_steps=2, cycles=2),
    "polynomial": Schedule("polynomial", warmup_steps=4, power=1.0, min_lr=1e-7),
}


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_diffusers_learning_rates(name):
    """Our step s is their s + 1: their first step has a rate of 0. Of their 22 values the last is beyond the end."""
    optimizer = torch.optim.SGD(nn.Linear(2, 3).parameters(), lr=1.0)
    rate = LearningRate(optimizer, LEARNING_RATES[name], 20)
    assert [rate.set(s) for s in range(20)] == pytest.approx(table(f"lr_{name}/out.lr")[1:21], rel=0, abs=1e-12)


def test_edm2_learning_rate():
    """70,000 reference batches of 2048, a ramp of 10 million images; theirs are float32."""
    optimizer = torch.optim.SGD(nn.Linear(2, 3).parameters(), lr=0.01)
    rate = InverseSqrt(optimizer, warmup=10e6 / 2048, reference=70e3)
    ours = [0.01 * rate.factor(n / 2048) for n in table("edm2_lr/in.nimg")]
    assert ours == pytest.approx(table("edm2_lr/out.lr"), rel=1e-7)
