"""Wan's transformer in diffusers' form: the official answers from the official weights. Layout (B,C,F,H,W)."""

from dataclasses import replace

import pytest
import torch

from tests.parity.networks import network, ours, read
from vidiff.registry import CONVERTERS, build
from vidiff.types import Cond, CondSpec

NAMES = ["diffusers_wan_a", "diffusers_wan_c"]


def load(name, dtype=torch.float32):
    tensors, state, kwargs = read("models", name)
    _, _, t, h, w = tensors["in.hidden_states"].shape
    length = tensors["in.encoder_hidden_states"].shape[1]
    settings = {"num_heads": kwargs["num_attention_heads"], "sizes": (t, h // 2, w // 2), "length": length}
    converter = CONVERTERS["wan"].build(settings)
    described = converter.describe(state)
    return tensors, state, converter, described, ours(described, converter.from_official(state), dtype)


def answer(tensors, tokenizer, net, dtype):
    x, text = (tensors[f"in.{k}"].to(dtype) for k in ("hidden_states", "encoder_hidden_states"))
    return tokenizer.decode(net(tokenizer.encode(x), tensors["in.timestep"].double() / 1000, Cond(tokens=text)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_forward(name, dtype):
    """float64 as well, against their float32: what is left is the rounding of theirs."""
    tensors, _, _, _, (tokenizer, _, net) = load(name, dtype)
    y = answer(tensors, tokenizer, net, dtype)
    assert torch.allclose(y.float(), tensors["out.forward"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_image_to_video():
    """More channels at the entrance, and the tokens of a picture beside those of the text."""
    tensors, state, converter, described, _ = load_i2v()
    spec = CondSpec(tokens=12, image=20, channels=12)
    net = network(described, spec)
    net.load_state_dict(converter.from_official(state)["backbone"])
    tokenizer = build("tokenizer", described.nodes["tokenizer"])
    latent, extra = tensors["in.hidden_states"].split(3, dim=1)
    cond = Cond(
        tokens=tensors["in.encoder_hidden_states"],
        image=tensors["in.encoder_hidden_states_image"],
        channels=tokenizer.encode(extra),
    )
    y = net.eval()(tokenizer.encode(latent), tensors["in.timestep"].double() / 1000, cond)
    assert torch.allclose(tokenizer.decode(y), tensors["out.forward"], rtol=0, atol=1e-5)
    back = converter.to_official({"backbone": net.state_dict()}, described)
    assert back.keys() == state.keys() and all(torch.equal(back[key], value) for key, value in state.items())
    with pytest.raises(ValueError, match="built for picture tokens 20 wide, and these are 0 wide"):
        net(tokenizer.encode(latent), torch.ones(1), replace(cond, image=None))


def load_i2v():
    tensors, state, kwargs = read("models", "diffusers_wan_i2v")
    converter = CONVERTERS["wan"].build({"num_heads": kwargs["num_attention_heads"], "sizes": (2, 2, 2)})
    return tensors, state, converter, converter.describe(state), kwargs


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name):
    _, state, converter, described, (_, _, net) = load(name)
    back = converter.to_official({"backbone": net.state_dict(), "conditioner": {}}, described)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert converter.describe(back) == described
