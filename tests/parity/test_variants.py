"""Official networks with arguments that few use: one frame, other patches, known frames, texts and classes of pictures.

data/variants has their weights, inputs in our axes and times, and answers; make_networks.py made those of diffusers.
"""

import json
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.networks import DATA, ours
from vidiff.building import build_diffuser, plan
from vidiff.commands import convert
from vidiff.config import load
from vidiff.engine.runs import find_checkpoint, load_weights
from vidiff.registry import CONVERTERS

CASES = {
    "ltx_one_frame": dict(num_heads=2, sizes=(1, 2, 3), length=4),
    "latte_one_frame": dict(num_heads=2, sizes=(1, 3, 3), length=4),
    "latte_other_grid": dict(num_heads=2, sizes=(2, 2, 5), length=4, sample_size=6),
    "wan_one_frame": dict(num_heads=2, sizes=(1, 2, 3), length=4),
    "wan_tubelets": dict(num_heads=2, sizes=(2, 3, 1), length=4),
    "wan_two_frames": dict(num_heads=2, sizes=(2, 1, 3), length=512),
    "cogvideox_one_frame": dict(num_heads=2, sizes=(1, 2, 3), length=3, rotary=False),
    "cogvideox_i2v": dict(num_heads=2, sizes=(2, 2, 3)),
    "cogvideox15_i2v": dict(num_heads=2, sizes=(2, 4, 3), length=3, patch=(3, 1, 1)),
    "unet3d_text": dict(sizes=(5, 4, 6)),
    "latte_img_classes": dict(num_heads=2, num_classes=5),
    "nano_sora_one_frame": dict(num_heads=3, sizes=(1, 2, 2)),
}
ENTRIES = ("text_tokens", "text_mask", "image_tokens", "text_vector", "label")


class Official(NamedTuple):
    """The family, the state dict, what is asked and answered, and what the walk is told."""

    family: str
    state: dict
    tensors: dict
    walk: dict


def read(name):
    tensors = load_file(DATA / "variants" / f"{name}.safetensors")
    state = {k[2:]: v for k, v in tensors.items() if k.startswith("w.")}
    state |= {k[3:]: v.float() / 256 for k, v in tensors.items() if k.startswith("w8.")}
    about = json.loads((DATA / "variants" / f"{name}.json").read_text())
    return Official(about["family"], state, tensors, about.get("walk", {}))


def answer(official, tokenizer, conditioner, net):
    """Our network's answer to what the official one was asked, (B,C,T,H,W)."""
    x, time = official.tensors["in.x"], official.tensors["in.time"]
    channels = official.tensors["out.y"].shape[1] if "latent_beside" in getattr(conditioner, "reads", ()) else None
    batch = {k: official.tensors[f"in.{k}"] for k in ENTRIES if f"in.{k}" in official.tensors}
    if channels:
        batch["latent_beside"] = tokenizer.encode(x[:, channels:])
    drop = official.tensors.get("in.drop", torch.zeros(len(x), dtype=torch.bool))
    y = net(tokenizer.encode(x[:, :channels]), time, conditioner(batch, drop), **official.walk)
    return tokenizer.decode(y)


def near(found, official):
    expected = official.tensors["out.y"]
    return found.shape == expected.shape and (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_official_answer_and_the_same_bits_back(name):
    official = read(name)
    converter = CONVERTERS[official.family].build(CASES[name])
    described, parts = converter.describe(official.state), converter.from_official(official.state)
    assert near(answer(official, *ours(described, parts, torch.float32)), official)
    back = converter.to_official(parts, described)
    assert back.keys() == official.state.keys()
    # tables that both sides compute are rounded to float32 once here and twice there
    tables = {"pos_embed": 1e-6, "temp_embed": 1e-6}
    for key, value in official.state.items():
        assert back[key].shape == value.shape, key
        assert torch.allclose(back[key], value, rtol=0, atol=tables.get(key, 0.0)), key


@pytest.mark.parametrize("name", ["cogvideox_i2v", "wan_two_frames", "unet3d_text"])
@torch.no_grad()
def test_through_the_command(name, tmp_path):
    """Clips that stand in for what conditions read, the official answer of the run, and the same bits."""
    official, file, back = read(name), tmp_path / "official.safetensors", tmp_path / "back.safetensors"
    save_file(official.state, str(file))
    words = [f"{k}={list(v) if isinstance(v, tuple) else v}".replace("True", "true") for k, v in CASES[name].items()]
    assert convert.main([str(file), *words, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    made = plan(load(tmp_path / "run" / "config.yaml"), training=False)
    diffuser = build_diffuser(made.config, made.dataset).eval()
    load_weights(diffuser, find_checkpoint(tmp_path / "run")[1], "ema")
    assert near(answer(official, diffuser.tokenizer, diffuser.conditioner, diffuser.backbone), official)
    assert diffuser.reads - {"text_mask"} <= made.dataset[0].keys()
    assert convert.main([str(tmp_path / "run"), "--to-official", str(back), "--quiet"]) == 0
    found = load_file(back)
    assert found.keys() == official.state.keys()
    assert all(torch.equal(found[key], value) for key, value in official.state.items())


def test_a_patch_that_does_not_fit_is_one_line(tmp_path, capsys):
    official, file = read("cogvideox15_i2v"), tmp_path / "official.safetensors"
    save_file(official.state, str(file))
    assert convert.main([str(file), "num_heads=2", "sizes=[2,4,3]", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "12 is no multiple of the 8 cells of a patch of [2, 2, 2]: give patch=[t,h,w]" in line
