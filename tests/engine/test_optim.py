"""Optimizers and learning rates against their definitions."""

import math

import pytest
import torch
from torch import nn

from vidiff.config.schema import Optimizer, Schedule
from vidiff.engine.optim import LearningRate, make_optimizer
from vidiff.errors import Refused


def rates(schedule, steps=40, lr=2.0):
    optimizer = torch.optim.SGD(nn.Linear(2, 3).parameters(), lr=lr)
    rate = LearningRate(optimizer, schedule, steps)
    return [rate.set(step) for step in range(steps)]


def test_warmup_is_linear_and_reaches_the_peak():
    values = rates(Schedule(name="constant", warmup_steps=8))
    assert values[:8] == pytest.approx([2.0 * (s + 1) / 8 for s in range(8)], rel=1e-6)
    assert values[8:] == pytest.approx([2.0] * 32)


def test_cosine():
    values = rates(Schedule(name="cosine", warmup_steps=0, min_lr=0.1))
    expected = [0.1 + 0.5 * 1.9 * (1 + math.cos(math.pi * (s + 1) / 40)) for s in range(40)]
    assert values == pytest.approx(expected, rel=1e-5)


def test_linear_and_wsd_end_at_the_minimum():
    linear = rates(Schedule(name="linear", warmup_steps=0, min_lr=0.0))
    assert linear == pytest.approx([2.0 * (1 - (s + 1) / 40) for s in range(40)], abs=1e-6)
    wsd = rates(Schedule(name="wsd", warmup_steps=4, min_lr=0.0, decay_fraction=0.25))
    assert wsd[4:29] == pytest.approx([2.0] * 25)
    assert wsd[-1] < 0.2 and sorted(wsd[30:], reverse=True) == wsd[30:]


def test_the_rate_is_a_function_of_the_step():
    optimizer = torch.optim.SGD(nn.Linear(2, 3).parameters(), lr=1.0)
    rate = LearningRate(optimizer, Schedule(), 500)
    first = [rate.set(s) for s in range(500)]
    assert [rate.set(s) for s in (499, 3, 250)] == [first[s] for s in (499, 3, 250)]


def test_biases_are_not_decayed_and_betas_arrive():
    optimizer = make_optimizer(nn.Linear(4, 3), Optimizer(weight_decay=0.3, betas=(0.8, 0.95)))
    decay = {tuple(p.shape): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay == {(3, 4): 0.3, (3,): 0.0}
    assert all(tuple(g["betas"]) == (0.8, 0.95) for g in optimizer.param_groups)
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["fused"]


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adafactor", "muon", "lamb"])
def test_optimizers_of_timm_move_every_parameter(name):
    module = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))
    optimizer = make_optimizer(module, Optimizer(name=name, lr=0.1))
    before = [p.clone() for p in module.parameters()]
    module(torch.randn(5, 4, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, module.parameters()))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (Optimizer(name="adamww"), "Did you mean 'adamw'?"),
        (Optimizer(name="schedulefree_adamw"), "optimizer.name is 'schedulefree_adamw'"),
        (Optimizer(extra={"momentun": 0.9}), "momentun"),
    ],
)
def test_refusals(config, text):
    with pytest.raises(Refused) as caught:
        make_optimizer(nn.Linear(2, 2), config)
    assert text in str(caught.value) and "\n" not in str(caught.value)
