"""Every training loss of improved-diffusion's code, as DiT and Latte carry it; its tensors are (B,F,C,H,W)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo  # noqa: F401
from vidiff.building import plan
from vidiff.config import load
from vidiff.registry import build
from vidiff.types import Cond

DATA = Path(__file__).parent / "data" / "losses"
RUNS = [
    (file, name, run)
    for file in ("a", "c")
    for name, run in json.loads((DATA / f"gaussian_diffusion_losses_{file}.json").read_text())["runs"].items()
]
SCHEDULES = {"linear": "ddpm", "squaredcos_cap_v2": "ddpm_cosine"}


def path_of(run):
    path, respacing = {"name": SCHEDULES[run.get("noise_schedule", "linear")]}, run["timestep_respacing"]
    return {"name": "respaced", "path": path, "sections": list(map(int, respacing.split(",")))} if respacing else path


def objective_of(run):
    """The settings of create_diffusion in our words."""
    path = path_of(run)
    timesteps = sum(path["sections"]) if path["name"] == "respaced" else 1000
    common = {"path": path, "prediction": "x0" if run.get("predict_xstart") else "eps"}
    if run.get("use_kl"):
        fixed = "fixed_small" if run.get("sigma_small") else "fixed_large"
        return build(
            "objective", {"name": "vlb", **common, "variance": "learned_range" if run["learn_sigma"] else fixed}
        )
    if not run["learn_sigma"]:
        return build("objective", {"name": "epsilon", **common})
    bound = timesteps / 1000 if run.get("rescale_learned_sigmas") else 1.0
    return build("objective", {"name": "iddpm", **common, "bound": bound})


@pytest.mark.parametrize(("file", "name", "run"), RUNS, ids=lambda v: v if isinstance(v, str) else "")
def test_losses_and_gradients(file, name, run):
    tensors, o = load_file(DATA / f"gaussian_diffusion_losses_{file}.safetensors"), objective_of(run)
    expected = {k.partition("out.")[2]: v for k, v in tensors.items() if k.startswith(f"{name}/out.")}
    x0, noise, output = (tensors[f"in.{k}"].transpose(1, 2) for k in ("x_start", "noise", "model_output"))
    output = output[:, : o.outputs * x0.shape[1]].clone().requires_grad_()
    t = (tensors["in.t"].double() + 1) / getattr(o.path, "num_timesteps", None)
    rows = [
        o.loss_at(lambda *_, i=i: output[i : i + 1], x0[i : i + 1], noise[i : i + 1], t[i : i + 1], Cond())
        for i in range(len(x0))
    ]
    for key, theirs in (("mse", "mse"), ("bound", "vb")):
        if theirs in expected:
            found = torch.cat([row[key] for row in rows])
            if theirs == "vb" and run.get("rescale_learned_sigmas"):
                found = found * o.bound  # theirs is scaled already
            assert torch.allclose(found, expected[theirs], rtol=1e-9), key
    losses = torch.stack([row["loss"] for row in rows])
    assert torch.allclose(losses, expected["loss"], rtol=1e-9)
    (gradient,) = torch.autograd.grad(losses.mean(), output)
    theirs = expected["grad_mean_loss_wrt_model_output"].transpose(1, 2)
    assert torch.allclose(gradient, theirs, rtol=1e-9, atol=1e-12 * theirs.abs().max())


def test_a_respaced_chain_tells_the_network_the_timesteps_of_the_whole_one():
    """improved-diffusion wraps the model: entry i of the short chain is told timestep kept[i]."""
    for sections, kept in (([3], [0, 50, 99]), ([2, 3], [0, 49, 50, 74, 99])):
        table = {"name": "ddpm", "num_timesteps": 100}
        whole, path = build("path", table), build("path", {"name": "respaced", "path": table, "sections": sections})
        t = torch.arange(1, len(kept) + 1, dtype=torch.float64) / len(kept)
        assert torch.allclose(100 * path.label(t), torch.tensor(kept, dtype=torch.float64), atol=1e-9)
        assert torch.allclose(path.alphas_cumprod, whole.alphas_cumprod[kept], rtol=1e-12)
    every = build("path", {"name": "respaced", "path": {"name": "ddpm", "num_timesteps": 100}, "every": 20})
    assert torch.allclose(every.alphas_cumprod, whole.alphas_cumprod[::20], rtol=1e-12)


def test_impossible_chains_are_refused():
    with pytest.raises(ValueError, match="60 timesteps cannot be kept of a section of 50"):
        build("path", {"name": "respaced", "path": {"name": "ddpm", "num_timesteps": 100}, "sections": [10, 60]})
    with pytest.raises(ValueError, match="only a table of timesteps can be respaced"):
        build("path", {"name": "respaced", "path": "cosine"})


def test_the_estimate_is_that_of_the_first_half():
    tensors = load_file(DATA / "gaussian_diffusion_losses_a.safetensors")
    x, output = (tensors[f"in.{k}"].transpose(1, 2) for k in ("x_start", "model_output"))
    t = (tensors["in.t"].double() + 1) / 1000
    without = build("objective", "epsilon").estimate(lambda *_: output[:, : x.shape[1]], x, t, Cond())
    for name in ("iddpm", "vlb"):
        found = build("objective", name).estimate(lambda *_: output, x, t, Cond())
        assert torch.equal(found.x0, without.x0) and torch.equal(found.noise, without.noise)


def test_the_project_weighs_the_bound_as_the_paper_and_draws_with_what_it_learned():
    """Nichol & Dhariwal 2021, eq. 16: L_simple + 0.001 L_vlb, the bound a sum over all steps, not their mean."""
    made = plan(load(Path(__file__).resolve().parents[2] / "projects/iddpm.yaml"))
    objective = made.diffuser.objective
    assert objective.bound == pytest.approx(0.001 * objective.chain.num_steps)
    assert objective.tells_variances and made.sampler.reads_variances
