"""CogVideoX's transformer in diffusers' form: the official answers from the official weights. Layout (B,F,C,H,W)."""

import pytest
import torch
from safetensors.torch import load_file

import zoo.objectives  # noqa: F401
from tests.parity.networks import DATA, ours, read
from vidiff.registry import CONVERTERS, build
from vidiff.types import Cond
from zoo.layers.embeddings import coordinates

ROTARY = ["diffusers_cogvideox_rope", "diffusers_cogvideox15_rope"]
SINCOS = ["diffusers_cogvideox_sincos", "diffusers_cogvideox_sincos_b"]


def load(name, dtype=torch.float32):
    tensors, state, kwargs = read("models", name)
    _, t, _, h, w = tensors["in.hidden_states"].shape
    patch = kwargs.get("patch_size_t") or 1
    settings = {
        "num_heads": kwargs["num_attention_heads"],
        "sizes": (t // patch, h // 2, w // 2),
        "length": tensors["in.encoder_hidden_states"].shape[1],
        "rotary": name in ROTARY,
    }
    converter = CONVERTERS["cogvideox"].build(settings)
    described = converter.describe(state)
    return tensors, state, converter, described, ours(described, converter.from_official(state), dtype)


@pytest.mark.parametrize(
    ("name", "dtype", "key", "tolerance"),
    [(n, torch.float32, "out", 1e-5) for n in ROTARY + SINCOS]
    + [(n, torch.float64, "out", 1e-5) for n in ROTARY]
    + [(n, torch.float64, "out64", 5e-7) for n in SINCOS],
)
@torch.no_grad()
def test_forward(name, dtype, key, tolerance):
    """In float64 3e-7 remain, from sinusoids of time and places in float32; a LayerNorm eps of 1e-6 would show."""
    tensors, _, _, _, (tokenizer, _, net) = load(name, dtype)
    x, text = (tensors[f"in.{k}"].to(dtype) for k in ("hidden_states", "encoder_hidden_states"))
    z = net(tokenizer.encode(x.transpose(1, 2)), tensors["in.timestep"].double() / 1000, Cond(tokens=text))
    y = tokenizer.decode(z).transpose(1, 2)
    assert torch.allclose(y, tensors[f"{key}.forward"].to(dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ROTARY)
def test_their_rotations(name):
    tensors, _, _, described, (_, _, net) = load(name)
    node, dim = described.nodes["positions"], described.nodes["backbone"]["dim"]
    rotary = build("positions", node, dim=dim, head_dim=net.head_dim, grid=described.grid, axes="thw")
    cos, sin = (r.flatten(0, 2) for r in rotary.rotation(coordinates(described.grid[1:], torch.device("cpu"))))
    assert torch.allclose(cos, tensors["in.rope_cos"], atol=1e-6)
    assert torch.allclose(sin, tensors["in.rope_sin"], atol=1e-6)


@pytest.mark.parametrize("name", [*ROTARY, *SINCOS])
def test_there_and_back(name):
    _, state, converter, described, (_, _, net) = load(name)
    back = converter.to_official({"backbone": net.state_dict(), "conditioner": {}}, described)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert converter.describe(back) == described


@pytest.mark.parametrize(("run", "shift"), [("16", 1.0), ("17", 3.0)])
def test_their_schedule(run, shift):
    """CogVideoXDDIMScheduler at its times: of 5B and 1.5, and with snr_shift_scale 3 of 2B."""
    table = load_file(DATA / "schedules" / "alphas_cumprod_T1000.safetensors")[f"{run}/out.alphas_cumprod"]
    path, t = build("path", {"name": "zero_snr", "shift": shift}), torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert torch.allclose(path.alphas_cumprod, table, rtol=1e-12, atol=0)
    assert torch.allclose(path.alpha(t) ** 2, table, rtol=1e-11, atol=0)
    assert torch.allclose(path.sigma(t) ** 2, 1 - table, rtol=1e-11, atol=0)
    described = load("diffusers_cogvideox_rope" if shift == 1 else "diffusers_cogvideox_sincos")[3]
    assert described.nodes["objective"]["path"]["shift"] == shift
