"""Latte, variant 1: the official network's answers from the official weights. Official layout (B,F,C,H,W)."""

import pytest
import torch

from tests.parity.networks import PRECISIONS, frequencies_of_the_fixtures, ours, read  # noqa: F401
from vidiff.registry import build
from zoo.converters import latte
from zoo.layers.attention import SelfAttention

NAMES = ["latte_uncond_a", "latte_uncond_b", "latte_uncond_d", "latte_uncond_e"]


def load(name, dtype):
    tensors, state, kwargs = read("models", name)
    described = latte.describe(state, kwargs["num_heads"])
    tokenizer, conditioner, net = ours(described, latte.from_official(state), dtype)

    def answer(x, t, **walk):
        """x (B,F,C,H,W), t steps (B,) -> (B,F,C_out,H,W) as the official forward gives it."""
        z = tokenizer.encode(x.to(dtype).transpose(1, 2))
        keep = torch.zeros(len(x), dtype=torch.bool)
        return tokenizer.decode(net(z, t.double() / 1000, conditioner({}, keep), **walk)).transpose(1, 2)

    return tensors, answer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "key", "tolerance"), PRECISIONS)
@torch.no_grad()
def test_forward(name, dtype, key, tolerance, frequencies_of_the_fixtures):  # noqa: F811
    tensors, answer = load(name, dtype)
    y = answer(tensors["in.x"], tensors["in.t"])
    assert torch.allclose(y, tensors[f"{key}.forward"], rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "key", "tolerance"), PRECISIONS)
@torch.no_grad()
def test_pictures_beside_a_clip(dtype, key, tolerance, frequencies_of_the_fixtures):  # noqa: F811
    """latte_img: three frames of a clip, then two pictures that no temporal block touches."""
    tensors, answer = load("latte_img_uncond", dtype)
    y = answer(tensors["in.x"], tensors["in.t"], images=2)
    assert torch.allclose(y, tensors[f"{key}.forward"], rtol=0, atol=tolerance)


def test_their_attention():
    """Their 'math' attention; its 'flash' branch forgets a transpose and must not be matched."""
    tensors, state, kwargs = read("models", "latte_attention_modes")
    for name in ("math", "sdpa", "matmul"):
        module = SelfAttention(kwargs["dim"], kwargs["num_heads"], build("attention", name))
        module.load_state_dict(state)
        y = module(tensors["in.x"])
        assert torch.allclose(y, tensors["out.math"], atol=1e-5)
        assert not torch.allclose(y, tensors["out.flash_branch_as_written"], atol=0.1)


def test_there_and_back():
    _, state, kwargs = read("models", "latte_uncond_b")
    grid = latte.describe(state, kwargs["num_heads"]).grid
    back = latte.to_official(latte.from_official(state), kwargs["patch_size"], grid[1:])
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert torch.allclose(back[key], value, rtol=0, atol=1e-6 if key in ("pos_embed", "temp_embed") else 0)
