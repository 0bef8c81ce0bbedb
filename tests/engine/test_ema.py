"""The moving average against its closed form."""

import pytest
import torch
from torch import nn

from vidiff.config.schema import EMA
from vidiff.engine.ema import MovingAverage


class Module(nn.Module):
    """Two parameters, a buffer of floats and a counter."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(5))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))


def set_all(module, value, count):
    with torch.no_grad():
        module.a.fill_(value)
        module.b.fill_(-value)
        module.seen.fill_(count)


@pytest.mark.parametrize("warmup", [False, True])
def test_closed_form(warmup):
    decay, module = 0.9, Module()
    ema = MovingAverage(module, EMA(decay=decay, warmup=warmup))
    expected = 0.0
    for step, value in enumerate([1.0, 4.0, -2.0, 7.0, 0.5], start=1):
        set_all(module, value, step)
        ema.update(step)
        d = min(decay, (1 + step) / (10 + step)) if warmup else decay
        expected = d * expected + (1 - d) * value
    assert torch.allclose(ema.module.a, torch.full((3, 2), expected), atol=1e-6)
    assert torch.allclose(ema.module.b, torch.full((5,), -expected), atol=1e-6)
    assert ema.module.seen == 5


def test_a_constant_stays_and_the_average_is_no_alias():
    module = Module()
    set_all(module, 3.0, 1)
    ema = MovingAverage(module, EMA(decay=0.5, warmup=False))
    ema.update(1)
    assert torch.equal(ema.module.a, torch.full((3, 2), 3.0))
    set_all(module, 9.0, 2)
    assert torch.equal(ema.module.a, torch.full((3, 2), 3.0))
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_warmup_decay_rises_to_its_limit():
    ema = MovingAverage(Module(), EMA(decay=0.99, warmup=True))
    decays = [ema.decay(s) for s in (1, 10, 100, 10_000)]
    assert decays == [2 / 11, 11 / 20, 101 / 110, 0.99]
