"""The hybrid loss of improved-diffusion, as DiT and Latte train with it; its tensors are (B,F,C,H,W)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo.objectives  # noqa: F401
from vidiff.registry import build
from vidiff.types import Cond

DATA = Path(__file__).parent / "data" / "losses"
RUN = "eps_learned_range"


@pytest.mark.parametrize("name", ["iddpm_losses_a", "iddpm_losses_c"])
def test_losses_and_gradients(name):
    tensors, objective = load_file(DATA / f"{name}.safetensors"), build("objective", "iddpm")
    x0, noise, output = (tensors[f"in.{k}"].transpose(1, 2) for k in ("x_start", "noise", "model_output"))
    t, output = (tensors["in.t"].double() + 1) / 1000, output.clone().requires_grad_()
    rows = [
        objective.loss_at(lambda *_, i=i: output[i : i + 1], x0[i : i + 1], noise[i : i + 1], t[i : i + 1], Cond())
        for i in range(len(x0))
    ]
    for key, theirs in (("mse", "mse"), ("bound", "vb")):
        found = torch.cat([row[key] for row in rows])
        assert torch.allclose(found, tensors[f"{RUN}/out.{theirs}"], rtol=1e-6), key
    losses = torch.stack([row["loss"] for row in rows])
    assert torch.allclose(losses, tensors[f"{RUN}/out.loss"], rtol=1e-6)
    (gradient,) = torch.autograd.grad(losses.mean(), output)
    expected = tensors[f"{RUN}/out.grad_mean_loss_wrt_model_output"].transpose(1, 2)
    assert torch.allclose(gradient, expected, rtol=1e-6, atol=1e-12)


def test_the_estimate_is_that_of_the_first_half():
    tensors = load_file(DATA / "iddpm_losses_a.safetensors")
    x, output = (tensors[f"in.{k}"].transpose(1, 2) for k in ("x_start", "model_output"))
    t = (tensors["in.t"].double() + 1) / 1000
    with_variances = build("objective", "iddpm").estimate(lambda *_: output, x, t, Cond())
    without = build("objective", "epsilon").estimate(lambda *_: output[:, : x.shape[1]], x, t, Cond())
    assert torch.equal(with_variances.x0, without.x0) and torch.equal(with_variances.noise, without.noise)
