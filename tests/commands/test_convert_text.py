"""Checkpoints with text through the command line: the official answers come out, the official bits go back."""

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

import zoo  # noqa: F401
from tests.parity.networks import read
from vidiff.building import build_diffuser, plan
from vidiff.commands import convert, sample
from vidiff.config import load
from vidiff.engine.runs import find_checkpoint, load_weights
from vidiff.types import Cond

# fixture -> family, its words, video axes of the fixture -> ours
CASES = {
    "diffusers_ltx_c": ("ltx", ["num_heads=2", "sizes=[2,3,3]", "length=4", "cell=[1.0,32.0,32.0]"]),
    "diffusers_wan_c": ("wan", ["num_heads=3", "sizes=[2,2,2]", "length=6"]),
    "diffusers_latte_a": ("diffusers_latte", ["num_heads=4", "sizes=[4,4,4]", "length=5"]),
    "diffusers_cogvideox_rope": ("cogvideox", ["num_heads=4", "sizes=[3,4,6]", "length=5"]),
    "diffusers_cogvideox15_rope": ("cogvideox", ["num_heads=4", "sizes=[2,4,2]", "length=5"]),
    "diffusers_cogvideox_sincos_b": ("cogvideox", ["num_heads=3", "sizes=[2,4,6]", "length=3", "rotary=false"]),
}
BACK = [name for name in CASES if "sincos" not in name]


def converted(tmp_path, name):
    family, words = CASES[name]
    tensors, state, _ = read("models", name)
    file = tmp_path / f"{name}.safetensors"
    save_file(state, str(file))
    assert convert.main([str(file), *words, "--out", str(tmp_path / "run")]) == 0, f"{family} is told by its keys"
    return tensors, state, tmp_path / "run"


def to_ours(x, family):
    if family == "ltx":
        return rearrange(x, "b (t h w) c -> b c t h w", t=2, h=3)
    return x.transpose(1, 2) if family == "cogvideox" else x


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_official_answers(tmp_path, name):
    tensors, _, run = converted(tmp_path, name)
    made = plan(load(run / "config.yaml"))
    diffuser = build_diffuser(made.config, made.dataset).eval()
    load_weights(diffuser, find_checkpoint(run)[1], "ema")
    family, mask = CASES[name][0], tensors.get("in.encoder_attention_mask")
    cond = Cond(tokens=tensors["in.encoder_hidden_states"], mask=None if mask is None else mask.bool())
    z = diffuser.tokenizer.encode(to_ours(tensors["in.hidden_states"], family))
    y = diffuser.tokenizer.decode(diffuser.backbone(z, tensors["in.timestep"].double() / 1000, cond))
    assert torch.allclose(y, to_ours(tensors["out.forward"], family), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BACK)
def test_there_and_back_to_the_same_bits(tmp_path, name):
    _, state, run = converted(tmp_path, name)
    back = tmp_path / "back.safetensors"
    assert convert.main([str(run), "--to-official", str(back)]) == 0
    found = load_file(back)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value) for key, value in state.items())


@torch.no_grad()
def test_image_to_video(tmp_path):
    """Text, the tokens of a picture and channels beside the latent, each a conditioner; the official answer; back."""
    tensors, state, _ = read("models", "diffusers_wan_i2v")
    file, back = tmp_path / "wan.safetensors", tmp_path / "back.safetensors"
    save_file(state, str(file))
    length, places = (tensors[f"in.encoder_hidden_states{x}"].shape[1] for x in ("", "_image"))
    words = ["num_heads=2", "sizes=[2,2,2]", f"length={length}", f"places={places}"]
    run = tmp_path / "run"
    assert convert.main([str(file), *words, "--out", str(run)]) == 0
    made = plan(load(run / "config.yaml"))
    diffuser = build_diffuser(made.config, made.dataset).eval()
    load_weights(diffuser, find_checkpoint(run)[1], "ema")
    latent, beside = (diffuser.tokenizer.encode(x) for x in tensors["in.hidden_states"].split(3, dim=1))
    batch = {
        "text_tokens": tensors["in.encoder_hidden_states"],
        "image_tokens": tensors["in.encoder_hidden_states_image"],
        "latent_beside": beside,
    }
    cond = diffuser.conditioner(batch, torch.zeros(len(latent), dtype=torch.bool))
    y = diffuser.backbone(latent, tensors["in.timestep"].double() / 1000, cond)
    assert torch.allclose(diffuser.tokenizer.decode(y), tensors["out.forward"], rtol=0, atol=1e-5)
    words = ["--num", "2", "--steps", "2", "--format", "npy", "--quiet", "--device", "cpu"]
    assert sample.main([str(run), *words, "guidance={name: cfg, scale: 3.0}", "--out", str(tmp_path / "s")]) == 0
    assert convert.main([str(run), "--to-official", str(back)]) == 0
    found = load_file(back)
    assert found.keys() == state.keys() and all(torch.equal(found[key], value) for key, value in state.items())


def test_a_converted_run_is_sampled_with_held_out_texts(tmp_path):
    _, _, run = converted(tmp_path, "diffusers_wan_c")
    words = ["--num", "2", "--steps", "2", "--format", "npy", "--quiet", "--device", "cpu"]
    assert sample.main([str(run), *words, "--out", str(tmp_path / "s")]) == 0
    assert (tmp_path / "s" / "sample_0001.npy").is_file()
