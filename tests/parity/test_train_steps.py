"""Steps of the official training loops (data/e2e): loss, gradient, AdamW, clipping and average of DiT and Latte.

The fixtures give batch, timesteps and noise of each step; everything else is our converters, objectives and engine.
"""

import json
import math

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from tests.parity.networks import DATA, frequencies_of_the_fixtures, ours, read  # noqa: F401
from vidiff.config.schema import EMA, Optimizer
from vidiff.diffuser import Diffuser
from vidiff.engine.ema import Averages
from vidiff.engine.optim import make_optimizer, parameters
from vidiff.registry import CONVERTERS, build

ADAMW = Optimizer(lr=1e-3, betas=(0.9, 0.999))
"""torch's AdamW at its defaults, as both training scripts have it."""
RUNS = {
    "dit_train_steps": ("dit", "dit_a", dict(num_classes=10), EMA(decay=0.9, warmup=False), math.inf),
    "latte_train_steps": ("latte", "latte_uncond_b", {}, EMA(decay=0.99, warmup=False), 0.5),
}


class Steps:
    """The steps of a fixture, done by us: losses and gradient norms on the way, official state dicts at the end."""

    def __init__(self, name, dtype):
        family, weights, classes, ema, clip = RUNS[name]
        self.run, _, _ = read("e2e", name)
        _, state, kwargs = read("models", weights)
        converter = CONVERTERS[family].build({"num_heads": kwargs["num_heads"], **classes})
        described = converter.describe(state)
        tokenizer, conditioner, net = ours(described, converter.from_official(state), dtype)
        model = Diffuser(tokenizer, conditioner, net, build("objective", described.nodes["objective"]))
        optimizer, averages = make_optimizer(model, ADAMW), Averages(model, ema)
        self.losses, self.norms = [], []
        for i, x in enumerate(self.run["in.x"]):
            loss = self.loss(model, i, x, dtype)
            loss.backward()
            self.losses.append(loss.detach().double())
            self.norms.append(clip_grad_norm_(list(parameters(optimizer)), clip).double())
            optimizer.step()
            averages.update(i + 1)
            optimizer.zero_grad(set_to_none=True)
        self.official, self.averaged = (
            converter.to_official({k: getattr(m, k).state_dict() for k in ("backbone", "conditioner")}, described)
            for m in (model, averages.module)
        )

    def loss(self, model, i, x, dtype):
        """x and noise in the official layout: (B,C,H,W) of DiT, (B,F,C,H,W) of Latte."""
        x, noise = (v[:, :, None] if v.ndim == 4 else v.transpose(1, 2) for v in (x, self.run["in.noise"][i]))
        z, noise = (model.tokenizer.encode(v.to(dtype)) for v in (x, noise))
        keep = torch.zeros(len(x), dtype=torch.bool)
        cond = model.conditioner({"label": self.run["in.y"][i]} if "in.y" in self.run else {}, keep)
        t = (self.run["in.t"][i].double() + 1) / 1000
        return model.objective.loss_at(model.backbone, z, noise, t, cond)["loss"]

    def of_official(self, state, key):
        """The tensors of `state` that the fixture stores under `key`."""
        names = [k.removeprefix(key) for k in self.run if k.startswith(key)]
        assert names
        return [(name, state[name].double(), self.run[key + name].double()) for name in names]


def without_key_bias(name, tensor):
    """The gradient of an attention's key bias is 0; Adam makes steps of its rounding."""
    if not name.endswith("attn.qkv.bias"):
        return tensor
    q, _, v = tensor.chunk(3)
    return torch.cat([q, v])


def near(found, expected, tolerance):
    assert (torch.stack(found) - expected).abs().max() <= tolerance


@pytest.mark.parametrize("name", RUNS)
def test_float32(name, frequencies_of_the_fixtures):  # noqa: F811
    steps = Steps(name, torch.float32)
    near(steps.losses, steps.run["out.loss"], 1e-5)
    near(steps.norms, steps.run["out.grad_norm_before_clip"], 1e-5)
    for state, key in ((steps.official, "out.param."), (steps.averaged, "out.ema.")):
        for parameter, found, expected in steps.of_official(state, key):
            gap = without_key_bias(parameter, found) - without_key_bias(parameter, expected)
            assert gap.abs().max() <= 1e-6, parameter


@pytest.mark.parametrize("name", RUNS)
def test_float64(name, frequencies_of_the_fixtures):  # noqa: F811
    """Every parameter and every average, by its norm; three parameters element by element.

    Their sinusoids and tables stay in float32, so that 1e-7 remain.
    """
    steps = Steps(name, torch.float64)
    near(steps.losses, steps.run["out64.loss"], 1e-6)
    near(steps.norms, steps.run["out64.grad_norm_before_clip"], 1e-6)
    for parameter, found, expected in steps.of_official(steps.official, "out64.param."):
        assert (found - expected).abs().max() <= 1e-6, parameter
    order = json.loads((DATA / "e2e" / f"{name}.json").read_text())["param_order"]
    for state, key in ((steps.official, "out64.param_norms_after"), (steps.averaged, "out64.ema_norms_after")):
        near([state[parameter].double().norm() for parameter in order], steps.run[key], 1e-6)
