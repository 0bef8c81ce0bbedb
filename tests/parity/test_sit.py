"""SiT: the official network's answers from the official weights, in its direction of time and in ours."""

from functools import partial

import pytest
import torch

from tests.parity.networks import PRECISIONS, frequencies_of_the_fixtures, ours, read  # noqa: F401
from zoo.converters import sit

NAMES = ["sit_a", "sit_c"]


def load(name, dtype, convert, time_from="data"):
    tensors, state, kwargs = read("models", name)
    described = sit.describe(state, kwargs["num_heads"], kwargs["num_classes"], time_from)
    parts = convert(state, kwargs["num_classes"])
    tokenizer, conditioner, net = ours(described, parts, dtype)

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
@pytest.mark.parametrize(("time_from", "tolerance"), [("noise", 5e-8), ("data", 2e-6)])
@torch.no_grad()
def test_forward_in_our_direction_of_time(name, time_from, tolerance, frequencies_of_the_fixtures):  # noqa: F811
    """Our t is 1 - theirs, our velocity points to the noise. A first Linear that was turned is rounded."""
    turned = partial(sit.from_official, time_from=time_from)
    tensors, _, answer = load(name, torch.float64, turned, time_from)
    y = answer(tensors["in.x"], 1 - tensors["in.t"].double(), tensors["in.y"])
    assert torch.allclose(-y, tensors["out64.forward"], rtol=0, atol=tolerance)


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
    parts = sit.from_official(state)
    back = sit.to_official(parts, kwargs["patch_size"], described.grid[2:])
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    # without what lies aside the head's second half, which SiT throws away, is gone; channels come last in its rows
    del parts["aside"]
    back, c = sit.to_official(parts, kwargs["patch_size"], described.grid[2:]), kwargs["in_channels"]
    for key in ("final_layer.linear.weight", "final_layer.linear.bias"):
        pixels = state[key].unflatten(0, (-1, 2 * c))[:, :c].flatten(0, 1)
        assert torch.equal(back[key], pixels)


def test_there_and_back_with_the_time_turned():
    _, state, kwargs = read("models", "sit_a")
    described = sit.describe(state, kwargs["num_heads"], kwargs["num_classes"], "data")
    parts = sit.from_official(state, time_from="data")
    back = sit.to_official(parts, kwargs["patch_size"], described.grid[2:], "data")
    for key, value in state.items():
        assert torch.allclose(back[key], value, rtol=0, atol=2e-7 if key == "t_embedder.mlp.0.weight" else 0), key
