"""Latte with text in diffusers' form: the official answers from the official weights. Layout (B,C,F,H,W)."""

import pytest
import torch

from tests.parity.networks import PRECISIONS, frequencies_of_the_fixtures, ours, read  # noqa: F401
from vidiff.registry import CONVERTERS
from vidiff.types import Cond

NAMES = ["diffusers_latte_a", "diffusers_latte_c", "diffusers_latte_spatial_only"]


def load(name, dtype=torch.float32, temporal=True):
    tensors, state, kwargs = read("models", name)
    _, _, t, h, w = tensors["in.hidden_states"].shape
    settings = {
        "num_heads": kwargs["num_attention_heads"],
        "sizes": (t, h // 2, w // 2),
        "length": tensors["in.encoder_hidden_states"].shape[1],
        "temporal": temporal,
    }
    converter = CONVERTERS["diffusers_latte"].build(settings)
    described = converter.describe(state)
    return tensors, state, converter, described, ours(described, converter.from_official(state), dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "key", "tolerance"), PRECISIONS)
@torch.no_grad()
def test_forward(name, dtype, key, tolerance, frequencies_of_the_fixtures):  # noqa: F811
    tensors, _, _, described, (tokenizer, _, net) = load(name, dtype, temporal="spatial_only" not in name)
    x, text = (tensors[f"in.{k}"].to(dtype) for k in ("hidden_states", "encoder_hidden_states"))
    y = net(tokenizer.encode(x), tensors["in.timestep"].double() / 1000, Cond(tokens=text))
    assert torch.allclose(tokenizer.decode(y), tensors[f"{key}.forward"], rtol=0, atol=tolerance)
    assert described.nodes["objective"]["name"] == "iddpm"


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name):
    _, state, converter, described, (_, _, net) = load(name)
    back = converter.to_official({"backbone": net.state_dict(), "conditioner": {}}, described)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert converter.describe(back) == described


def test_without_temporal_blocks_nothing_is_written():
    _, _, converter, described, (_, _, net) = load(NAMES[2], temporal=False)
    with pytest.raises(ValueError, match="temporal blocks, and this model has none"):
        converter.to_official({"backbone": net.state_dict(), "conditioner": {}}, described)
