"""SiT: the official network's answers from the official weights, in its direction of time and in ours."""

import pytest
import torch

from tests.parity.networks import PRECISIONS, ours, read
from zoo.converters import sit

NAMES = ["sit_a", "sit_c"]


def load(name, dtype, convert):
    tensors, state, kwargs = read("models", name)
    described = sit.describe(state, kwargs["num_heads"], kwargs["num_classes"])
    tokenizer, conditioner, net = ours(described, convert(state, kwargs["num_classes"]), dtype)

    def answer(x, t, y, drop=None):
        """x (B,C,H,W), t (B,), y (B,) -> (B,C,H,W)."""
        drop = torch.zeros(len(x), dtype=torch.bool) if drop is None else drop
        z = tokenizer.encode(x.to(dtype)[:, :, None])
        return tokenizer.decode(net(z, t, conditioner({"label": y}, drop)))[:, :, 0]

    return tensors, kwargs, answer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "key", "tolerance"), PRECISIONS)
@torch.no_grad()
def test_forward_as_it_is(name, dtype, key, tolerance):
    tensors, _, answer = load(name, dtype, sit.as_it_is)
    y = answer(tensors["in.x"], tensors["in.t"], tensors["in.y"])
    assert torch.allclose(y, tensors[f"{key}.forward"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_forward_in_our_direction_of_time(name):
    """Our t is 1 - theirs, our velocity points to the noise."""
    tensors, _, answer = load(name, torch.float64, sit.from_official)
    y = answer(tensors["in.x"], 1 - tensors["in.t"].double(), tensors["in.y"])
    assert torch.allclose(-y, tensors["out64.forward"], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("name", "scale"), [("sit_a", 2.5), ("sit_c", 6.0)])
@torch.no_grad()
def test_guidance_of_three_channels(name, scale):
    """The official forward_with_cfg guides three channels of four; ours (zoo/guidance) guides all."""
    tensors, kwargs, answer = load(name, torch.float32, sit.as_it_is)
    x, t, y = (tensors[f"in.cfg_{k}"] for k in "xty")
    half = len(x) // 2
    null = y == kwargs["num_classes"]
    assert null[half:].all()
    cond, uncond = answer(torch.cat([x[:half]] * 2), t, y.clamp(max=kwargs["num_classes"] - 1), null).chunk(2)
    guided = uncond + scale * (cond - uncond)
    first, second = tensors["out.forward_with_cfg"].chunk(2)
    assert torch.allclose(guided[:, :3], first[:, :3], atol=5e-5)
    assert torch.allclose(guided[:, :3], second[:, :3], atol=5e-5)
    assert torch.allclose(cond[:, 3:], first[:, 3:], atol=1e-5)


def test_there_and_back():
    _, state, kwargs = read("models", "sit_a")
    described = sit.describe(state, kwargs["num_heads"], kwargs["num_classes"])
    back = sit.to_official(sit.from_official(state), kwargs["patch_size"], described.grid[2:])
    assert back.keys() == state.keys()
    for key in state.keys() - {"final_layer.linear.weight", "final_layer.linear.bias", "pos_embed"}:
        assert torch.allclose(back[key], state[key], rtol=0, atol=2e-7), key
    # the head's second half, which SiT throws away, is gone; channels come last in its rows
    c = kwargs["in_channels"]
    for key in ("final_layer.linear.weight", "final_layer.linear.bias"):
        pixels = state[key].unflatten(0, (-1, 2 * c))[:, :c].flatten(0, 1)
        assert torch.equal(back[key], pixels)
