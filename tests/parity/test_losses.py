"""Published losses at given data, noise, time and network output (data/losses)."""

import json
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

import zoo.guidance
import zoo.objectives  # noqa: F401
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.guidance import Branch, Given
from vidiff.diffusion.objective import Objective
from vidiff.registry import OBJECTIVES, build
from vidiff.types import Cond

DATA = Path(__file__).parent / "data" / "losses"


def objective(path, prediction, weighting="uniform", interval=(0.0, 1.0)):
    parts = {"path": path, "prediction": prediction, "weighting": weighting, "times": "uniform", "noise": "gaussian"}
    return Objective(**{kind: build(kind, node) for kind, node in parts.items()}, interval=interval)


def per_row(o, x0, noise, t, output):
    """The loss of each row, the gradient of their mean with respect to the output, and what the network was given."""
    output, losses, given = output.clone().requires_grad_(), [], []

    def net(x, label, cond):
        given.append((x, label))
        return output[len(given) - 1].unsqueeze(0)

    for i in range(len(x0)):
        losses.append(o.loss_at(net, x0[i : i + 1], noise[i : i + 1], t[i : i + 1], Cond())["loss"])
    losses = torch.stack(losses)
    (gradient,) = torch.autograd.grad(losses.mean(), output)
    inputs, labels = (torch.cat(parts) for parts in zip(*given))
    return losses.detach(), gradient, inputs, labels


SIT_PATHS = {"Linear": "linear", "GVP": "gvp", "VP": "vp"}
SIT_PREDICTIONS = {"velocity": "velocity", "noise": "eps", "score": "score"}
SIT_WEIGHTS = {"velocity": "sit_velocity", "likelihood": "sit_likelihood"}
SIT_RUNS = [
    (file, name, run)
    for file in ("sit_losses_a", "sit_losses_c")
    for name, run in json.loads((DATA / f"{file}.json").read_text())["runs"].items()
]


@pytest.mark.parametrize(("file", "name", "run"), SIT_RUNS, ids=lambda v: v if isinstance(v, str) else "")
def test_sit(file, name, run):
    """t = 1 - SiT's, the velocity changes sign; its score loss (sigma score + noise)^2 is `snr` here."""
    tensors, prediction = load_file(DATA / f"{file}.safetensors"), SIT_PREDICTIONS[run["prediction"]]
    plain = "snr" if prediction == "score" else "uniform"
    weighting = SIT_WEIGHTS.get(run["loss_weight"], plain)
    o = objective(SIT_PATHS[run["path_type"]], prediction, weighting, (0.0, 0.999))
    sign = -1 if prediction == "velocity" else 1
    x0, noise, t = tensors["in.x1"], tensors["in.x0"], 1 - tensors[f"{name}/out.t"]
    losses, gradient, _, _ = per_row(o, x0, noise, t, sign * tensors["in.model_output"])
    assert torch.allclose(losses, tensors[f"{name}/out.loss"], rtol=1e-9)
    expected = tensors[f"{name}/out.grad_mean_loss_wrt_model_output"]
    assert torch.allclose(sign * gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("file", "run", "sigma_data"),
    [("edm_losses_a", "edm", 0.5), ("edm_losses_a", "edm_sd1", 1.0), ("edm_losses_c", "edm", 0.25)],
)
def test_edm(file, run, sigma_data):
    """Float32 there, so 1e-5; the published gradient is that of the sum over elements divided by the batch."""
    tensors = {k: v.double() for k, v in load_file(DATA / f"{file}.safetensors").items()}
    node = {"name": "edm", "sigma_data": sigma_data}
    o = OBJECTIVES["edm"].build({"prediction": node, "weighting": node})
    sigma = tensors[f"{run}/out.sigma"]
    losses, gradient, inputs, labels = per_row(
        o, tensors["in.images"], tensors["in.unit_noise"], sigma / 80, tensors["in.F"]
    )
    assert torch.allclose(losses, tensors[f"{run}/out.loss"].mean((1, 2, 3)), rtol=1e-5)
    elements = tensors["in.F"][0].numel()
    assert torch.allclose(gradient * elements, tensors[f"{run}/out.grad_of_sum_over_B_wrt_F"], rtol=1e-4, atol=1e-5)
    assert torch.allclose(inputs, tensors[f"{run}/out.network_input"], rtol=1e-5, atol=1e-6)
    assert torch.allclose(labels, tensors[f"{run}/out.c_noise"], atol=1e-6)
    draws = build("times", {"name": "lognormal_sigma", **_lognormal(file, run)})
    u = torch.special.ndtr(tensors["in.rnd_normal"])
    assert torch.allclose(80 * draws.quantile(u, o.path, (0.0, 1.0)), sigma, rtol=1e-5)


def _lognormal(file, run):
    settings = json.loads((DATA / f"{file}.json").read_text())["runs"][run].get("loss_kw", {})
    return {"mean": settings.get("P_mean", -1.2), "std": settings.get("P_std", 1.2)}


@pytest.mark.parametrize(("file", "patch"), [("nanosora_loss_a", (2, 4, 4)), ("nanosora_loss_c", (1, 4, 4))])
def test_nano_sora(file, patch):
    """Its x1 is our x0, its x0 our noise, its t is 1 - ours; its output is tokens of patches."""
    tensors = {k: v.double() for k, v in load_file(DATA / f"{file}.safetensors").items()}
    x0, noise, t = tensors["in.x1"], tensors["in.x0"], 1 - tensors["in.t"]
    (pt, ph, pw), (_, c, frames, height, width) = patch, x0.shape
    sizes = dict(pt=pt, ph=ph, pw=pw, t=frames // pt, h=height // ph, w=width // pw, c=c)
    tokens, video = "b (t h w) (c pt ph pw)", "b c (t pt) (h ph) (w pw)"
    o, output = OBJECTIVES["rectified_flow"].build(), tensors["in.model_output_tokens"].clone().requires_grad_()
    seen = []

    def net(x, label, cond):
        seen.append(x)
        return -rearrange(output, f"{tokens} -> {video}", **sizes)

    loss = o.loss_at(net, x0, noise, t, Cond())["loss"]
    assert torch.allclose(loss, tensors["out.loss"], rtol=1e-6)
    assert torch.allclose(seen[0], tensors["out.xt"], atol=1e-6)
    assert torch.allclose(torch.autograd.grad(loss, output)[0], tensors["out.grad"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("file", "run", "path", "prediction"),
    [
        ("a", "eps_mse_only", "ddpm", "eps"),
        ("c", "eps_fixed_small_cosine", "ddpm_cosine", "eps"),
        ("c", "x0_mse", "ddpm", "x0"),
    ],
)
def test_improved_diffusion(file, run, path, prediction):
    """The plain mse of DiT's and Latte's code; their tensors are (B,F,C,H,W)."""
    tensors = load_file(DATA / f"gaussian_diffusion_losses_{file}.safetensors")
    x0, noise = (tensors[f"in.{k}"].transpose(1, 2) for k in ("x_start", "noise"))
    output = tensors["in.model_output"].transpose(1, 2)[:, : x0.shape[1]]
    t = (tensors["in.t"].double() + 1) / 1000
    losses, gradient, _, labels = per_row(objective(path, prediction), x0, noise, t, output)
    assert torch.allclose(losses, tensors[f"{run}/out.loss"], rtol=1e-9)
    expected = tensors[f"{run}/out.grad_mean_loss_wrt_model_output"].transpose(1, 2)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-14)
    assert torch.allclose(1000 * labels, tensors["in.t"].double(), atol=1e-9)


def test_classifier_free_guidance():
    """diffusers: uncond + 7.5 (cond - uncond) on all four channels."""
    tensors = load_file(DATA / "cfg_rescale_a.safetensors")
    beliefs = [Estimate(tensors[k], -tensors[k]) for k in ("in.cond", "in.uncond")]
    guided = build("guidance", {"name": "cfg", "scale": 7.5})(
        lambda x, t, asked: beliefs, Given(Branch(Cond()), Branch(Cond()))
    )(None, None)
    assert torch.allclose(guided.x0, tensors["out.cfg"], atol=1e-5)
    assert torch.allclose(guided.noise, -tensors["out.cfg"], atol=1e-5)
