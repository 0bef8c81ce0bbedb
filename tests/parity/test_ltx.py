"""LTX-Video's transformer in diffusers' form: the official answers from the official weights. Packed (B,F*H*W,C)."""

import pytest
import torch
from einops import rearrange

from tests.parity.networks import ours, read
from vidiff.registry import CONVERTERS, build
from vidiff.types import Cond, Grid
from zoo.layers.embeddings import coordinates

# (t,h,w) and their rope_interpolation_scale
CASES = {"diffusers_ltx_a": ((3, 2, 3), (0.32, 32, 32)), "diffusers_ltx_c": ((2, 3, 3), (1.0, 32, 32))}


def load(name, dtype=torch.float32):
    tensors, state, kwargs = read("models", name)
    sizes, scale = CASES[name]
    converter = CONVERTERS["ltx"].build(
        {
            "num_heads": kwargs["num_attention_heads"],
            "sizes": sizes,
            "cell": scale,
            "length": tensors["in.encoder_hidden_states"].shape[1],
        }
    )
    described = converter.describe(state)
    return tensors, state, converter, described, ours(described, converter.from_official(state), dtype)[2]


def ask(tensors, sizes, dtype=torch.float32):
    t, h, w = sizes
    x = rearrange(tensors["in.hidden_states"], "b (t h w) c -> b c t h w", t=t, h=h, w=w).to(dtype)
    mask = tensors["in.encoder_attention_mask"].bool()
    return (
        x,
        tensors["in.timestep"].double() / 1000,
        Cond(tokens=tensors["in.encoder_hidden_states"].to(dtype), mask=mask),
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_forward(name, dtype):
    """float64 as well, against their float32: what is left is the rounding of their time frequencies."""
    tensors, _, _, _, net = load(name, dtype)
    y = rearrange(net(*ask(tensors, CASES[name][0], dtype)), "b c t h w -> b (t h w) c")
    assert torch.allclose(y.float(), tensors["out.forward"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_their_rotations(name):
    tensors, _, _, described, net = load(name)
    node, dim = described.nodes["positions"], described.nodes["backbone"]["dim"]
    rotary = build("positions", node, dim=dim, head_dim=net.head_dim, grid=Grid(8, *CASES[name][0]), axes="thw")
    cos, sin = rotary.rotation(coordinates(CASES[name][0], torch.device("cpu")))
    assert torch.equal(cos.flatten(0, 2), tensors["aux.rope_cos"][0])
    assert torch.equal(sin.flatten(0, 2), tensors["aux.rope_sin"][0])


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name):
    _, state, converter, described, net = load(name)
    back = converter.to_official({"backbone": net.state_dict(), "conditioner": {}}, described)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert converter.describe(back) == described


@torch.no_grad()
def test_a_time_for_every_frame_is_theirs_for_every_token():
    tensors, _, _, _, net = load("diffusers_ltx_a")
    x, time, cond = ask(tensors, (3, 2, 3))
    y = net(x, time[:, None].expand(2, 3), cond)
    assert torch.allclose(rearrange(y, "b c t h w -> b (t h w) c"), tensors["out.forward"], rtol=0, atol=1e-5)


def test_a_published_model_tells_its_heads_and_another_is_asked():
    _, state, _ = read("models", "diffusers_ltx_c")
    with pytest.raises(ValueError, match="dim=40 does not split into heads of 64: give num_heads"):
        CONVERTERS["ltx"].build({}).describe(state)
    with pytest.raises(ValueError, match=r"'adaln.weight' is not a weight"):
        CONVERTERS["ltx"].build({}).from_official({"adaln.weight": torch.zeros(1)})
