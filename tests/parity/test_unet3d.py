"""The U-Net of Video Diffusion Models: the official network's answers from the official weights."""

import pytest
import torch

from tests.parity.networks import network, ours, read, table
from vidiff.registry import CONVERTERS
from vidiff.types import Cond, CondSpec
from zoo.converters.official import Description

NAMES = ["unet3d_a", "unet3d_b", "unet3d_c"]


def load(name, dtype=torch.float32):
    tensors, state, kwargs = read("models", name)
    converter = CONVERTERS["unet3d"].build({"sizes": tuple(tensors["in.x"].shape[2:])})
    described = converter.describe(state)
    return tensors, state, kwargs, converter, described, ours(described, converter.from_official(state), dtype)[2]


def answer(net, tensors, **more):
    x = tensors["in.x"].to(net.stem.weight.dtype)
    return net(x, tensors["in.t"].double() / 1000, Cond(), **more)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_forward(name):
    tensors, *_, net = load(name)
    expected = tensors["out.forward"]
    assert (answer(net, tensors) - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_forward_in_float64(name):
    """Frequencies of rotary positions are rounded to float32, as theirs."""
    tensors, *_, net = load(name, torch.float64)
    expected = tensors["out64.forward"]
    assert (answer(net, tensors) - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize(("present", "key"), [([True, False], "mixed"), ([True, True], "all"), ([False, False], None)])
@torch.no_grad()
def test_frames_that_see_themselves_only(present, key):
    tensors, *_, net = load("unet3d_b")
    if key == "mixed":
        present = tensors["in.focus_present_mask"].tolist()
        assert len(set(present)) == 2
    expected = tensors[f"out.focus_{key}" if key else "out.forward"]
    assert (answer(net, tensors, present=torch.tensor(present)) - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_biases_of_distances(name):
    tensors, *_, net = load(name)
    assert torch.equal(net.distances(tensors["in.x"].shape[2]), tensors["aux.time_rel_pos_bias"])


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name):
    _, state, _, converter, described, net = load(name)
    back = converter.to_official({"backbone": net.state_dict(), "conditioner": {}}, described)
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(back[key], value), key


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_read_from_the_weights(name):
    _, _, kwargs, _, described, _ = load(name)
    node = described.nodes["backbone"]
    assert node["multipliers"] == kwargs["dim_mults"] and node["dim"] == kwargs["dim"]
    assert (node["num_heads"], node["head_dim"]) == (kwargs["attn_heads"], kwargs["attn_dim_head"])
    assert node["kernel"] == kwargs.get("init_kernel_size", 7)
    assert node["linear_attention"] == kwargs.get("use_sparse_linear_attn", True)
    assert described.out_channels == kwargs.get("out_dim", kwargs["channels"])


def test_foreign_weights_are_refused():
    _, state, _, converter, *_ = load("unet3d_a")
    with pytest.raises(ValueError, match="'downs.0.7.weight' is not a weight of"):
        converter.from_official({**state, "downs.0.7.weight": torch.zeros(1, 3)})
    freqs = "mid_temporal_attn.fn.fn.fn.rotary_emb.freqs"
    with pytest.raises(ValueError, match=f"{freqs} are not 10000"):
        converter.from_official({**state, freqs: 2 * state[freqs]})


def test_parameters_of_the_published_example():
    """Theirs count the 16 frequencies of rotary positions, which are not trained."""
    entry = table("params_flops_other")["lucidrains Unet3D dim 64, 5x32x32 (README example)"]
    node = dict(name="unet3d", dim=64, multipliers=entry["kwargs"]["dim_mults"])
    with torch.device("meta"):
        net = network(Description({"backbone": node, "positions": "none"}, (3, 5, 32, 32), 3), CondSpec())
    assert sum(p.numel() for p in net.parameters()) == entry["params"] - 16
