"""Published losses at given data, noise, time and network output (data/losses)."""

import json
import math
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

import zoo.guidance
import zoo.objectives  # noqa: F401
from vidiff.config.schema import EMA
from vidiff.diffusion.chain import Chain
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.guidance import Branch, Given
from vidiff.diffusion.objective import Objective
from vidiff.engine.ema import Averages
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


@pytest.mark.parametrize("file", ["nanosora_loss_a", "nanosora_loss_c"])
def test_the_average_of_nano_sora(file):
    """Its shadow starts as the weights it finds first."""
    tensors = load_file(DATA / f"{file}.safetensors")
    weights, shadows = tensors["ema/in.weights"], tensors["ema/out.shadow_decay0.9"]
    module = torch.nn.Linear(3, 2, bias=False)
    found = []
    for weight in weights:
        with torch.no_grad():
            module.weight.copy_(weight)
        if not found:
            average = Averages(module, EMA(decay=0.9, warmup=False))
        else:
            average.update(len(found))
        found.append(average.module.weight.clone())
    assert torch.allclose(torch.stack(found), shadows, atol=1e-6)


EDM_RUNS = [
    (file, name, run)
    for file in ("edm_losses_a", "edm_losses_c")
    for name, run in json.loads((DATA / f"{file}.json").read_text())["runs"].items()
]


def edm_objective(run):
    """(objective, our time of their sigma, what its label becomes there) of a loss and a preconditioner of EDM's code.

    VPLoss and VELoss are noise losses: D = x -+ sigma F makes weight |D - y|^2 = |F -+ noise|^2. The draws of VPLoss
    start at t = 1 and go down. `label` times 999, or 4 label - log 2, is what those networks are told.
    """
    k = run.get("loss_kw", {})
    if run["loss"] == "EDMLoss":
        node = {"name": "edm", "sigma_data": k.get("sigma_data", 0.5)}
        times = {"name": "lognormal_sigma", "mean": k.get("P_mean", -1.2), "std": k.get("P_std", 1.2)}
        o = OBJECTIVES["edm"].build({"prediction": node, "weighting": node, "times": times})
        return o, lambda label: label
    if run["loss"] == "VPLoss":
        low = k.get("beta_min", 0.1)
        path = {"name": "vp", "beta_min": low, "beta_max": low + k.get("beta_d", 19.9)}
        o = OBJECTIVES["epsilon"].build({"path": path, "interval": [k.get("epsilon_t", 1e-5), 1.0]})
        return o, lambda label: 999 * label
    ends = {"sigma_min": k.get("sigma_min", 0.02), "sigma_max": k.get("sigma_max", 100.0)}
    times = {"name": "loguniform_sigma", **ends}
    o = OBJECTIVES["epsilon"].build({"path": {"name": "ve", "sigma_max": ends["sigma_max"]}, "times": times})
    return o, lambda label: 4 * label - math.log(2)


@pytest.mark.parametrize(("file", "name", "run"), EDM_RUNS, ids=lambda v: v if isinstance(v, str) else "")
def test_edm(file, name, run):
    """Float32 there, so 1e-5; the published gradient is that of the sum over elements divided by the batch."""
    tensors, (o, told) = {k: v.double() for k, v in load_file(DATA / f"{file}.safetensors").items()}, edm_objective(run)
    out = {k.partition("out.")[2]: v for k, v in tensors.items() if k.startswith(f"{name}/")}
    normal, uniform = tensors["in.rnd_normal"], tensors["in.rnd_uniform"]
    u = {"EDMLoss": torch.special.ndtr(normal), "VPLoss": 1 - uniform, "VELoss": uniform}[run["loss"]]
    t = o.times.quantile(u, o.path, o.interval)
    assert torch.allclose((-o.path.logsnr(t) / 2).exp(), out["sigma"], rtol=1e-5)
    sign = -1 if run["loss"] == "VELoss" else 1
    losses, gradient, inputs, labels = per_row(
        o, tensors["in.images"], tensors["in.unit_noise"], t, sign * tensors["in.F"]
    )
    assert torch.allclose(losses, out["loss"].mean((1, 2, 3)), rtol=1e-5)
    elements = tensors["in.F"][0].numel()
    assert torch.allclose(sign * gradient * elements, out["grad_of_sum_over_B_wrt_F"], rtol=1e-4, atol=1e-5)
    assert torch.allclose(inputs, out["network_input"], rtol=1e-5, atol=1e-6)
    assert torch.allclose(told(labels), out["c_noise"], rtol=1e-6, atol=1e-6)


def test_edm2():
    """Its network answers u beside the denoised image; ours is a weighting. Element by element there, in float32."""
    tensors = {k: v.double() for k, v in load_file(DATA / "edm2_loss_a.safetensors").items()}
    run = json.loads((DATA / "edm2_loss_a.json").read_text())["runs"]["edm2"]
    edm = {"name": "edm", "sigma_data": run["sigma_data"]}
    times = {"name": "lognormal_sigma", "mean": run["P_mean"], "std": run["P_std"]}
    settings = {"prediction": edm, "weighting": {"name": "uncertainty", "weighting": edm}, "times": times}
    o, logvar = OBJECTIVES["edm"].build(settings), tensors["in.logvar"]
    t = o.times.quantile(torch.special.ndtr(tensors["in.rnd_normal"]), o.path, o.interval)
    assert torch.allclose(80 * t, tensors["out.sigma"], rtol=1e-6)
    x0, noise, denoised = tensors["in.images"], tensors["in.unit_noise"], tensors["in.denoised"]
    for i in range(len(x0)):
        o.weighting.uncertainty = lambda path, t, i=i: logvar[i : i + 1]
        row, at = slice(i, i + 1), t[i : i + 1]
        x_t = o.path.point(x0[row], noise[row], at)
        belief = Estimate(denoised[row], (x_t - denoised[row]) / o.path.sigma(at).reshape(-1, 1, 1, 1))
        answer = o.prediction.ask(o.path, belief, at)
        loss = o.loss_at(lambda *_, answer=answer: answer, x0[row], noise[row], at, Cond())["loss"]
        assert torch.allclose(loss, tensors["out.loss"][i].mean(), rtol=2e-6)


def test_lucidrains():
    """L1 and L2 of the noise on their cosine table, and the posterior step with x0 clipped by value and by quantile."""
    tensors = load_file(DATA / "lucidrains_losses_a.safetensors")
    x0, noise, answer = (tensors[f"in.{k}"].double() for k in ("x_start", "noise", "model_output"))
    t, path = (tensors["in.t"].double() + 1) / 1000, {"name": "ddpm_cosine", "cap": 0.9999}
    for name, theirs in {"l1": "l1", "epsilon": "l2"}.items():
        o = OBJECTIVES[name].build({"path": path})
        loss = o.loss_at(lambda *_: answer, x0, noise, t, Cond())["loss"]
        assert torch.allclose(loss, tensors[f"out.loss_{theirs}"].double(), rtol=1e-6)
    chain, x_t = Chain(o.path), o.path.point(x0, noise, t)
    assert torch.allclose(x_t, tensors["out.x_noisy"].double(), atol=1e-6)
    believed = o.prediction.solve(o.path, x_t, answer, t).x0
    reach = believed.abs().flatten(1).quantile(0.9, dim=1).clamp(min=1).reshape(-1, 1, 1, 1, 1)
    dynamic = believed.clamp(-reach, reach) / reach
    for clipped, key in ((believed.clamp(-1, 1), "p_mean_clip"), (dynamic, "p_mean_dynamic_thres0.9")):
        assert torch.allclose(chain.mean(clipped, x_t, t), tensors[f"out.{key}"].double(), atol=2e-6)
    found, theirs = chain.fixed("fixed_small", t), tensors["out.p_logvar"].flatten().double()
    last = tensors["in.t"] == 0  # its variance is 0: they write 1e-20, improved-diffusion and we the neighbour's
    assert torch.allclose(found[~last], theirs[~last], rtol=1e-5)
    assert torch.allclose(theirs[last], torch.tensor(1e-20, dtype=torch.float64).log())


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


def test_classifier_free_guidance():
    """diffusers: uncond + 7.5 (cond - uncond) on all four channels."""
    tensors = load_file(DATA / "cfg_rescale_a.safetensors")
    beliefs = [Estimate(tensors[k], -tensors[k]) for k in ("in.cond", "in.uncond")]
    guided = build("guidance", {"name": "cfg", "scale": 7.5})(
        lambda x, t, asked: beliefs, Given(Branch(Cond()), Branch(Cond()))
    )(None, None)
    assert torch.allclose(guided.x0, tensors["out.cfg"], atol=1e-5)
    assert torch.allclose(guided.noise, -tensors["out.cfg"], atol=1e-5)
