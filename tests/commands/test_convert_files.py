"""Checkpoints as people have them: what training codes store, wrappers put before names, files cut into several."""

import json
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo  # noqa: F401
from tests.parity.networks import read
from vidiff.commands import convert
from vidiff.engine.convert import network_in, read_state
from vidiff.errors import Refused
from vidiff.registry import CONVERTERS


def dit():
    return read("models", "dit_a")[1]


def same(found, state):
    return found.keys() == state.keys() and all(torch.equal(found[k], v) for k, v in state.items())


def test_what_the_official_training_codes_save(tmp_path, capsys):
    """Their arguments stand beside the weights as a Namespace; the averaged weights are taken."""
    file, state = tmp_path / "0050000.pt", dit()
    zeros = {k: torch.zeros_like(v) for k, v in state.items()}
    torch.save({"model": zeros, "ema": state, "opt": {"state": {}}, "args": Namespace(lr=1e-4, name="x")}, file)
    found, group = read_state(file)
    assert group == "ema" and same(found, state)
    words = ["num_heads=4", "num_classes=10", "--family", "dit", "--out", str(tmp_path / "run")]
    assert convert.main([str(file), *words]) == 0
    assert "its 'ema' weights" in (said := capsys.readouterr().out) and "10 classes" in said


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.net."])
def test_what_wrappers_put_before_names(tmp_path, wrapper):
    state, file = dit(), tmp_path / "wrapped.pt"
    torch.save({"state_dict": {wrapper + k: v for k, v in state.items()}}, file)
    found, _ = network_in(read_state(file)[0])
    assert same(found, state)


def test_a_network_inside_a_diffusion(tmp_path, capsys):
    """lucidrains' Trainer: the U-Net is denoise_fn of a GaussianDiffusion, whose tables lie beside it."""
    _, state, _ = read("models", "unet3d_b")
    inside = {f"denoise_fn.{k}": v for k, v in state.items()} | {
        "betas": torch.ones(9),
        "alphas_cumprod": torch.ones(9),
    }
    file, back = tmp_path / "model-1.pt", tmp_path / "back.safetensors"
    torch.save({"step": 3, "model": inside, "ema": inside, "scaler": {"scale": 1.0}}, file)
    assert convert.main([str(file), "sizes=[5,8,8]", "--out", str(tmp_path / "run")]) == 0
    assert "its 'ema.denoise_fn' weights (2 tensors beside them left out)" in capsys.readouterr().out
    assert convert.main([str(tmp_path / "run"), "--to-official", str(back), "--quiet"]) == 0
    assert same(load_file(back), state)


def test_the_averaged_one_of_two_networks():
    state = dit()
    two = {f"model.{k}": torch.zeros_like(v) for k, v in state.items()} | {
        f"model_ema.{k}": v for k, v in state.items()
    }
    found, start = network_in(two)
    assert start == "model_ema" and same(found, state)
    other = {f"student.{k}": v for k, v in state.items()} | {f"teacher.{k}": v for k, v in state.items()}
    with pytest.raises(Refused, match=r"several networks in it: under student\. and under teacher\."):
        network_in(other)


@pytest.fixture
def cut(tmp_path):
    """A folder with a checkpoint in two files and their index."""
    state, folder = dit(), tmp_path / "model"
    folder.mkdir()
    names = sorted(state)
    files = {"a-00001-of-00002.safetensors": names[::2], "a-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({k: state[k] for k in part}, str(folder / file))
    index = folder / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {k: file for file, part in files.items() for k in part}}))
    return state, folder, index


def test_a_checkpoint_in_several_files(cut):
    state, folder, index = cut
    assert same(read_state(folder)[0], state) and same(read_state(index)[0], state)
    save_file(
        state, str(folder / "a.fp16.safetensors")
    )  # another form of the same weights, which the index does not name
    assert same(read_state(folder)[0], state)
    index.unlink()
    with pytest.raises(Refused, match=r"stands in a-00001-of-00002.safetensors and in a.fp16.safetensors"):
        read_state(folder)


def test_an_index_that_does_not_hold(cut):
    _, folder, index = cut
    (folder / "a-00002-of-00002.safetensors").unlink()
    with pytest.raises(Refused, match=r"names a-00002-of-00002.safetensors, which is not there \(1 of 2"):
        read_state(folder)
    for text in ("{", "[]", '{"weight_map": {"a": 3}}', '{"weight_map": ["a"]}'):
        index.write_text(text)
        with pytest.raises(Refused, match="is not a readable index"):
            read_state(index)
    index.with_name("b.safetensors.index.json").write_text("{}")
    with pytest.raises(Refused, match=r"several checkpoints: name one of a\.safe"):
        read_state(folder)


BROKEN = {
    "dit": ("dit_a", "x_embedder.proj.weight", dict(num_heads=4)),
    "sit": ("sit_a", "final_layer.linear.bias", dict(num_heads=4)),
    "nano_sora": ("nanosora_a", "pos_embed", dict(num_heads=4, sizes=(2, 4, 4))),
    "unet3d": ("unet3d_b", "init_conv.weight", {}),
    "diffusers_latte": ("diffusers_latte_a", "proj_out.bias", dict(num_heads=4)),
    "ltx": ("diffusers_ltx_c", "proj_in.weight", dict(num_heads=2)),
    "wan": ("diffusers_wan_a", "patch_embedding.weight", dict(num_heads=4)),
    "cogvideox": ("diffusers_cogvideox_rope", "patch_embed.text_proj.weight", dict(num_heads=4)),
}


@pytest.mark.parametrize("family", BROKEN)
def test_a_weight_of_other_axes_is_named_with_its_shape(family):
    name, key, told = BROKEN[family]
    _, state, _ = read("models", name)
    with pytest.raises(ValueError, match=rf"'{key}' is \(1, .*expected {state[key].ndim} axes"):
        CONVERTERS[family].build(told).describe({**state, key: state[key][None]})


def test_rows_that_do_not_fit_are_named():
    _, state, _ = read("models", "diffusers_wan_a")
    key, converter = "blocks.0.attn1.to_k.weight", CONVERTERS["wan"].build({"num_heads": 4})
    with pytest.raises(ValueError, match=r"'blocks.0.attn1.qkv.weight' are of different shapes: attn1.to_q \(64, 64\)"):
        converter.from_official({**state, key: state[key][:-1]})
    cut = {k: state[k][:-1] for k in ("proj_out.weight", "proj_out.bias")}
    with pytest.raises(ValueError, match=r"'proj_out.weight' is \(15, 64\), no multiple of the 4 cells of a patch"):
        converter.describe({**state, **cut})


def test_a_head_count_that_does_not_divide_the_width(tmp_path, capsys):
    file = tmp_path / "dit.safetensors"
    save_file(dit(), str(file))
    words = ["num_heads=5", "num_classes=10", "--family", "dit", "--out", str(tmp_path / "run")]
    assert convert.main([str(file), *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "dim=64 is not divisible by num_heads=5" in line and not (tmp_path / "run").exists()
