"""Official networks' weights, inputs and outputs, and our network with those weights.

The fixtures were made on a machine whose float32 exponential rounds 2 of the 128 time frequencies
(numbers 13 and 44) one unit up; ours are rounded correctly. At t ~ 1000 that alone moves outputs by
1e-6, so the float64 comparisons use the fixtures' frequencies: then 5e-8 remain, from sines and
cosines in float32, where a LayerNorm eps of 1e-5 for 1e-6 would show as 1e-5.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo.attention
import zoo.backbones
import zoo.conditioners
import zoo.positions
import zoo.tokenizers  # noqa: F401
from vidiff.registry import build
from vidiff.types import CondSpec
from zoo.layers import embeddings

DATA = Path(__file__).parent / "data"

PRECISIONS = [
    pytest.param(torch.float32, "out", 1e-5, id="float32"),
    pytest.param(torch.float64, "out64", 5e-8, id="float64"),
]


def read(group, name):
    """tensors, official state dict, constructor arguments."""
    tensors = load_file(DATA / group / f"{name}.safetensors")
    state = {k[2:]: v for k, v in tensors.items() if k.startswith("w.")}
    state |= {k[3:]: v.float() / 256 for k, v in tensors.items() if k.startswith("w8.")}
    description = json.loads((DATA / group / f"{name}.json").read_text())
    return tensors, state, description.get("constructor", {}).get("kwargs")


def table(name):
    return json.loads((DATA / "tables" / f"{name}.json").read_text())["data"]


def ours(description, parts, dtype):
    """tokenizer, conditioner, backbone with the weights of `parts`."""
    nodes = description.nodes
    width = nodes["backbone"]["dim"]
    wiring = dict(width=width, num_classes=description.num_classes, grid=description.grid)
    conditioner = build("conditioner", nodes["conditioner"], **wiring)
    conditioner.load_state_dict(parts["conditioner"])
    net = network(description, conditioner.spec)
    net.load_state_dict(parts["backbone"])
    return build("tokenizer", nodes["tokenizer"]), conditioner.to(dtype), net.to(dtype).eval()


def network(description, spec=None):
    if spec is None:
        spec = CondSpec(vector=description.nodes["backbone"]["dim"] if description.num_classes else 0)
    return build(
        "backbone",
        description.nodes["backbone"],
        grid=description.grid,
        out_channels=description.out_channels,
        cond=spec,
        attention=build("attention", "sdpa"),
        positions=partial(build, "positions", description.nodes.get("positions", "sincos")),
    )


@pytest.fixture
def frequencies_of_the_fixtures(monkeypatch):
    correctly_rounded = embeddings.time_frequencies

    def as_there(num, device):
        w = correctly_rounded(num, device)
        w[[13, 44]] = torch.nextafter(w[[13, 44]], torch.ones(2))
        return w

    monkeypatch.setattr(embeddings, "time_frequencies", as_there)
