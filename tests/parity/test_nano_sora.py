"""Nano-Sora: the official network's answers from the official weights; its time runs from noise to data."""

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.parity.networks import PRECISIONS, frequencies_of_the_fixtures, network, ours, read, table  # noqa: F401
from vidiff.types import Cond
from zoo.converters import nano_sora
from zoo.converters.official import Description

NAMES = ["nanosora_a", "nanosora_c", "nanosora_d"]


def load(name, dtype, convert, time_from="data"):
    tensors, state, kwargs = read("models", name)
    sizes = tuple(n // p for n, p in zip(kwargs["input_size"], kwargs["patch_size"], strict=True))
    described = nano_sora.describe(state, sizes, kwargs["num_heads"], time_from)
    tokenizer, _, net = ours(described, convert(state, sizes), dtype)
    return tensors, tokenizer, net


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "key", "tolerance"), PRECISIONS)
@torch.no_grad()
def test_forward_as_it_is(name, dtype, key, tolerance):
    tensors, tokenizer, net = load(name, dtype, nano_sora.as_it_is)
    z = tokenizer.encode(tensors["in.x"].to(dtype))
    assert torch.equal(z.flatten(2).mT.float(), tensors["aux.patchify_x"])
    y = net(z, tensors["in.t"], Cond())
    assert torch.allclose(y.flatten(2).mT, tensors[f"{key}.tokens"], rtol=0, atol=tolerance)
    assert torch.allclose(tokenizer.decode(y).float(), tensors["out.video"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("time_from", "tolerance"), [("noise", 5e-8), ("data", 2e-6)])
@torch.no_grad()
def test_forward_in_our_direction_of_time(name, time_from, tolerance, frequencies_of_the_fixtures):  # noqa: F811
    """Our t is 1 - theirs, our velocity points to the noise. A first Linear that was turned is rounded."""
    turned = partial(nano_sora.from_official, time_from=time_from)
    tensors, tokenizer, net = load(name, torch.float64, turned, time_from)
    y = net(tokenizer.encode(tensors["in.x"].double()), 1 - tensors["in.t"].double(), Cond())
    assert torch.allclose(-y.flatten(2).mT, tensors["out64.tokens"], rtol=0, atol=tolerance)


@torch.no_grad()
def test_eight_euler_steps_from_noise_to_video():
    _, tokenizer, net = load("nanosora_a", torch.float64, nano_sora.from_official, "noise")
    run, _, _ = read("e2e", "nanosora_euler")
    x = tokenizer.encode(run["in.z"].double())
    for step in range(8):
        t = torch.full((len(x),), 1 - step / 8, dtype=torch.float64)
        x = x - net(x, t, Cond()) / 8
    assert torch.allclose(tokenizer.decode(x), run["out64.final"], rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name):
    _, state, kwargs = read("models", name)
    sizes = tuple(n // p for n, p in zip(kwargs["input_size"], kwargs["patch_size"], strict=True))
    back = nano_sora.to_official(nano_sora.from_official(state, sizes), tuple(kwargs["patch_size"]))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    turned = nano_sora.from_official(state, sizes, "data")
    back = nano_sora.to_official(turned, tuple(kwargs["patch_size"]), "data")
    for key, value in state.items():
        assert torch.allclose(back[key], value, rtol=0, atol=2e-7 if key == "t_embedder.mlp.0.weight" else 0), key


@pytest.mark.parametrize(("config", "heads"), [("Nano-Sora default.yaml", 6), ("Nano-Sora l4_high_quality.yaml", 8)])
def test_parameters_and_flops(config, heads):
    """Every parameter is accounted for: the networks are the same size, none added, none left out."""
    entry = table("params_flops_other")[config]
    kwargs = entry["kwargs"]
    nodes = {
        "backbone": dict(name="dit_joint", dim=kwargs["hidden_size"], depth=kwargs["depth"], num_heads=heads),
        "positions": "learned",
    }
    with torch.device("meta"):
        net = network(Description(nodes, (128, 8, 8, 8), 128))
        with FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, 128, 8, 8, 8), torch.zeros(1), Cond())
    assert sum(p.numel() for p in net.parameters()) == entry["params"]
    assert counter.get_total_flops() == entry["flops_torch_flop_counter(2xMAC)"]
