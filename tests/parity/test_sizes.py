"""The published sizes of DiT, SiT and Latte: parameters and multiply-adds, exactly."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.parity.networks import network, table
from vidiff.registry import build
from vidiff.types import Cond
from zoo.converters.official import Description

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
SHORT = [f"{size}/{patch}" for size in SIZES for patch in (8, 4, 2)]


def sized(name, backbone, frames=1, side=32, num_classes=0, outputs=2):
    size, patch = name.split("/")
    dim, depth, heads = SIZES[size]
    p = int(patch)
    nodes = {"backbone": dict(name=backbone, dim=dim, depth=depth, num_heads=heads), "positions": "sincos"}
    return Description(nodes, (4 * p * p, frames, side // p, side // p), outputs * 4 * p * p, num_classes)


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def flops(net, described):
    vector = torch.zeros(1, described.nodes["backbone"]["dim"]) if described.num_classes else None
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *described.grid), torch.zeros(1), Cond(vector=vector))
    return counter.get_total_flops()


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("family", ["dit_256", "sit_256"])
def test_dit_and_sit(family, name):
    described, entry = sized(name, "dit_joint", num_classes=1000), table("params_flops")[family][name]
    with torch.device("meta"):
        net = network(described)
        conditioner = build("conditioner", "label", width=described.nodes["backbone"]["dim"], num_classes=1000)
        assert parameters(net, conditioner) == entry["params_without_frozen_pos_embed"]
        assert flops(net, described) == entry["flops_torch_flop_counter(2xMAC)"]


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("classes", [0, 101])
def test_latte(name, classes):
    entry = table("params_flops")["latte_256"][f"{name} extras={2 if classes else 1}"]
    described = sized(name, "dit_factorized", frames=16, num_classes=classes)
    with torch.device("meta"):
        net = network(described)
        count = parameters(net)
        if classes:
            count += parameters(
                build("conditioner", "label", width=described.nodes["backbone"]["dim"], num_classes=classes)
            )
        assert count == entry["params_without_frozen_pos_embeds"]
        # theirs modulates once per frame in spatial blocks, once per place in temporal ones; ours once per clip
        dim, depth = described.nodes["backbone"]["dim"], described.nodes["backbone"]["depth"]
        frames, places = 16, described.grid[2] * described.grid[3]
        one = 2 * dim * dim
        repeated = depth // 2 * 6 * one * (frames - 1 + places - 1) + 2 * one * (frames - 1)
        assert 2e9 * entry["gmacs_torch_1_video"] - flops(net, described) == pytest.approx(repeated, rel=1e-9)
