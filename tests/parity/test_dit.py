"""DiT: the official network's answers from the official weights."""

import pytest
import torch

from tests.parity.networks import PRECISIONS, frequencies_of_the_fixtures, ours, read  # noqa: F401
from zoo.converters import dit

NAMES = ["dit_a", "dit_b", "dit_d"]


def load(name, dtype):
    tensors, state, kwargs = read("models", name)
    described = dit.describe(state, kwargs["num_heads"], kwargs["num_classes"])
    parts = dit.from_official(state, kwargs["num_classes"])
    tokenizer, conditioner, net = ours(described, parts, dtype)

    def answer(x, t, y, drop=None):
        """x (B,C,H,W), t steps (B,), y (B,) -> (B,C_out,H,W) as the official forward gives it."""
        drop = torch.zeros(len(x), dtype=torch.bool) if drop is None else drop
        z = tokenizer.encode(x.to(dtype)[:, :, None])
        return tokenizer.decode(net(z, t.double() / 1000, conditioner({"label": y}, drop)))[:, :, 0]

    return tensors, kwargs, answer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "key", "tolerance"), PRECISIONS)
@torch.no_grad()
def test_forward(name, dtype, key, tolerance, frequencies_of_the_fixtures):  # noqa: F811
    tensors, _, answer = load(name, dtype)
    y = answer(tensors["in.x"], tensors["in.t"], tensors["in.y"])
    assert torch.allclose(y, tensors[f"{key}.forward"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_forward_with_our_own_frequencies(name):
    tensors, _, answer = load(name, torch.float32)
    y = answer(tensors["in.x"], tensors["in.t"], tensors["in.y"])
    assert torch.allclose(y, tensors["out.forward"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "scale"), [("dit_a", 4.0), ("dit_d", 1.0)])
@torch.no_grad()
def test_guidance_of_three_channels(name, scale):
    """The official forward_with_cfg guides the noise of the first three channels; ours (zoo/guidance) guides all.

    The fixtures fix the order: conditional half first, the null label is the last row, and the first half
    of x is used twice.
    """
    tensors, kwargs, answer = load(name, torch.float32)
    x, t, y = (tensors[f"in.cfg_{k}"] for k in "xty")
    half = len(x) // 2
    null = y == kwargs["num_classes"]
    assert null[half:].all()
    cond, uncond = answer(torch.cat([x[:half]] * 2), t, y.clamp(max=kwargs["num_classes"] - 1), null).chunk(2)
    guided = uncond + scale * (cond - uncond)
    expected_cond, expected_uncond = tensors["out.forward_with_cfg"].chunk(2)
    assert torch.allclose(guided[:, :3], expected_cond[:, :3], atol=5e-5)
    assert torch.allclose(guided[:, :3], expected_uncond[:, :3], atol=5e-5)
    assert torch.allclose(cond[:, 3:], expected_cond[:, 3:], atol=1e-5)
    assert torch.allclose(uncond[:, 3:], expected_uncond[:, 3:], atol=1e-5)


def test_embeddings_on_the_way():
    tensors, state, kwargs = read("models", "dit_a")
    described = dit.describe(state, kwargs["num_heads"], kwargs["num_classes"])
    tokenizer, conditioner, net = ours(described, dit.from_official(state), torch.float32)
    z = tokenizer.encode(tensors["in.x"][:, :, None])
    assert torch.allclose(net.time(tensors["in.t"].double() / 1000), tensors["aux.t_embedder"], atol=2e-5)
    keep = torch.zeros(len(z), dtype=torch.bool)
    assert torch.equal(conditioner({"label": tensors["in.y"]}, keep).vector, tensors["aux.y_embedder"])
    assert torch.allclose(net.embed(z.flatten(2).mT), tensors["aux.x_embedder"], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name):
    _, state, kwargs = read("models", name)
    described = dit.describe(state, kwargs["num_heads"], kwargs["num_classes"])
    parts = dit.from_official(state, kwargs["num_classes"])
    back = dit.to_official(parts, kwargs["patch_size"], described.grid[2:])
    assert back.keys() == state.keys()
    for key, value in state.items():
        if key == dit.LABELS:
            assert torch.equal(back[key][: len(value)], value)
            assert (back[key][len(value) :] == 0).all()
        elif key == "pos_embed":
            assert torch.allclose(back[key], value, atol=1e-6)
        else:
            assert torch.equal(back[key], value)
