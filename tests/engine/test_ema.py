"""The moving averages against their closed forms."""

import pytest
import torch
from torch import nn

from vidiff.config.schema import EMA
from vidiff.engine.ema import Averages, curves, decay_of
from vidiff.errors import Refused


class Frozen(nn.Module):
    """A frozen part, as a tokenizer: its weights say nothing of gradients."""

    frozen = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7))
        self.register_buffer("scale", torch.ones(2))


class Module(nn.Module):
    """Two parameters, a frozen one, buffers of floats and a counter, and a frozen part."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(5))
        self.still = nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(6))
        self.part = Frozen()


def set_all(module, value, count):
    with torch.no_grad():
        module.a.fill_(value)
        module.b.fill_(-value)
        module.seen.fill_(count)
        module.mean.fill_(value)


VALUES = [1.0, 4.0, -2.0, 7.0, 0.5]


def tracked(config, values=VALUES):
    module = Module()
    averages = Averages(module, config)
    for step, value in enumerate(values, start=1):
        set_all(module, value, step)
        averages.update(step)
    return module, averages


@pytest.mark.parametrize("warmup", [False, True])
def test_closed_form(warmup):
    _, ema = tracked(EMA(decay=0.9, warmup=warmup))
    expected = 0.0
    for step, value in enumerate(VALUES, start=1):
        d = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        expected = d * expected + (1 - d) * value
    assert torch.allclose(ema.module.a, torch.full((3, 2), expected), atol=1e-6)
    assert torch.allclose(ema.module.b, torch.full((5,), -expected), atol=1e-6)
    assert ema.module.seen == 5
    assert torch.equal(ema.module.mean, torch.full((6,), 0.5)), "buffers are copied, not averaged"


def test_several_at_once_are_what_each_is_alone():
    config = EMA(decay=0.9, decays=(0.5, 0.99), sigma_rel=(0.1,))
    _, together = tracked(config)
    assert list(together.tensors) == ["ema:0.9", "ema:0.5", "ema:0.99", "posthoc:0.1"]
    for label, alone in [("ema:0.5", EMA(decay=0.5)), ("posthoc:0.1", EMA(decay=0.0, sigma_rel=(0.1,)))]:
        _, one = tracked(alone)
        assert torch.equal(together.tensors[label]["a"], one.module.a)
    with pytest.raises(Refused, match="same average twice: ema:0.9"):
        curves(EMA(decay=0.9, decays=(0.9,)))


def test_frozen_weights_are_the_models_own():
    module, ema = tracked(EMA(decay=0.9))
    assert ema.module.still is module.still
    assert ema.module.part.weight is module.part.weight and ema.module.part.scale is module.part.scale
    assert module.part.weight.requires_grad, "the model's own flag stays"
    assert set(ema.state()[0]["ema"]) == {"a", "b", "seen", "mean"}
    assert ema.module.a is not module.a and not ema.module.a.requires_grad


def test_a_constant_stays_and_the_average_is_no_alias():
    module = Module()
    set_all(module, 3.0, 1)
    ema = Averages(module, EMA(decay=0.5, warmup=False))
    ema.update(1)
    assert torch.equal(ema.module.a, torch.full((3, 2), 3.0))
    set_all(module, 9.0, 2)
    assert torch.equal(ema.module.a, torch.full((3, 2), 3.0))


def test_warmup_decay_rises_to_its_limit():
    decays = [decay_of(s, 0.99, EMA(decay=0.99, warmup=True)) for s in (1, 10, 100, 10_000)]
    assert decays == [2 / 11, 11 / 20, 101 / 110, 0.99]


def test_delay_copies_and_then_counts_from_there():
    _, ema = tracked(EMA(decay=0.9, delay=5))
    assert torch.equal(ema.module.a, torch.full((3, 2), VALUES[-1]))
    late, early = EMA(delay=40, warmup="power"), EMA(warmup="power")
    assert [decay_of(s + 40, 0.99, late) for s in (1, 7, 90)] == [decay_of(s, 0.99, early) for s in (1, 7, 90)]


def test_state_and_back_and_what_is_missing():
    config = EMA(decay=0.9, decays=(0.5,), sigma_rel=(0.1,))
    module, ema = tracked(config)
    groups, labels = ema.state()
    assert labels == {"ema": "ema:0.9", "ema_0.5": "ema:0.5", "posthoc_0.1": "posthoc:0.1"}
    groups = {name: {k: t.clone() for k, t in tensors.items()} for name, tensors in groups.items()}
    groups["model"] = dict(module.state_dict())
    fresh = Averages(module, config)
    assert fresh.fill(groups, labels, 5) == []
    for label, tensors in ema.tensors.items():
        assert all(torch.equal(fresh.tensors[label][k], t) for k, t in tensors.items())
    # a checkpoint from before there were several: its only average is the first, the others begin
    old = {"model": groups["model"], "ema": {**groups["model"], **groups["ema"]}}
    lines = Averages(module, EMA(decay=0.9, decays=(0.7,))).fill(old, {"ema": "ema"}, 5)
    assert lines == ["average ema:0.7 is new: it begins with the weights of step 5"]
    with pytest.raises(Refused, match="counts from the first step"):
        Averages(module, config).fill(old, {"ema": "ema"}, 5)
