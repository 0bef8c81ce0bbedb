"""Guidance, negative texts and caches from the command line to samples.json."""

import json

import numpy as np
import pytest

import zoo  # noqa: F401
from tests.commands.test_prompt import TEXT
from vidiff.commands import sample, train

SMALL = TEXT.split("callbacks")[0]


def trained(folder, *words):
    (folder / "text.yaml").write_text(SMALL)
    argv = [str(folder / "text.yaml"), "--out", str(folder / "run"), "--device", "cpu", "--quiet", *words]
    assert train.main(argv) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("guided"), "optimizer.lr=0.05", "train.steps=6", "checkpoint.every=6")


def draw(run, out, *words):
    argv = [str(run), "--format", "npy", "--device", "cpu", "--weights", "raw", "--num", "2", "--out", str(out), *words]
    assert sample.main(argv) == 0
    record = json.loads((out / "samples.json").read_text())
    return np.stack([np.load(out / file) for file in record["files"]]), record


NODES = ["none", "{name: cfg, scale: 1.0}", "{name: interval, sigma_min: 0.3}", "{name: rescale, amount: 0.5}",
         "{name: cfg_zero, zero_init: 0.0}", "{name: apg, scale: 3}", "dynamic_threshold", "{name: pag, guidance: cfg}",
         "{name: stg, blocks: [1]}"]  # fmt: skip


def test_samples_that_are_no_numbers_are_not_written(run, tmp_path, capsys):
    words = [str(run), "guidance.name=cfg", "guidance.scale=1e38", "sampler.steps=4", "--prompt", "1", "--num", "2"]
    assert sample.main([*words, "--out", str(tmp_path / "out"), "--device", "cpu", "--quiet"]) == 1
    assert "2 of 2 samples hold NaN or infinity" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("sample*"))


def test_every_guidance_from_the_command_line(run, tmp_path):
    words = ["--prompt", "1 and 7", "--quiet"]
    videos = {}
    for i, node in enumerate(NODES):
        videos[node], record = draw(run, tmp_path / str(i), f"guidance={node}", *words)
        assert record["guidance"]["name"] in node
    assert (videos["none"] == videos["{name: cfg, scale: 1.0}"]).all()
    others = [v for node, v in videos.items() if node not in NODES[:2]]
    assert not any((v == videos["none"]).all() for v in others), "each of them does something"


def test_a_negative_text_takes_the_place_of_no_text(run, tmp_path):
    words = ["--prompt", "1 and 7", "--quiet"]
    plain, record = draw(run, tmp_path / "a", *words)
    away, negative = draw(run, tmp_path / "b", "--negative", "5 and 5", *words)
    same, _ = draw(run, tmp_path / "c", "--negative", "1 and 7", *words)
    cond, _ = draw(run, tmp_path / "d", "guidance=none", *words)
    assert not (plain == away).all() and negative["negative"] == "5 and 5" and record["negative"] is None
    assert np.abs(same.astype(int) - cond.astype(int)).max() <= 1, "guided away from itself: not guided"


def test_a_negative_text_that_changes_nothing_is_refused(run, tmp_path, capsys):
    words = [str(run), "--negative", "x", "--device", "cpu", "--out", str(tmp_path / "a")]
    assert sample.main([*words, "guidance=none"]) == 2
    assert "--negative would change nothing: guidance compares with nothing" in capsys.readouterr().err
    label = trained(tmp_path, "conditioner=label", "train.steps=1", "schedule.warmup_steps=0")
    assert sample.main([str(label), "--negative", "x", "--device", "cpu"]) == 2
    assert "the conditioner reads no text" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_guidance_by_another_run(run, tmp_path):
    weak = trained(tmp_path, "backbone.dim=16", "conditioner.dim=8", "train.steps=2", "schedule.warmup_steps=0",
                   "optimizer.lr=0.2", "checkpoint.every=2")  # fmt: skip
    words = ["--prompt", "1 and 7", "--quiet"]
    good, _ = draw(run, tmp_path / "a", "guidance=none", *words)
    node = f"{{name: autoguidance, weak: {weak}, scale: %s}}"
    off, _ = draw(run, tmp_path / "b", f"guidance={node % 1.0}", *words)
    on, record = draw(run, tmp_path / "c", f"guidance={node % 3.0}", *words)
    assert (good == off).all() and not (good == on).all() and record["guidance"]["weak"] == str(weak)


@pytest.mark.parametrize(("off", "on"), [
    ("{name: first_block, threshold: 0}", "{name: first_block, threshold: 9}"),
    ("{name: teacache, threshold: 0}", "{name: teacache, threshold: 99}"),
    ("{name: fora, interval: 1}", "{name: fora, interval: 2}"),
])  # fmt: skip
def test_caches_say_what_they_saved_and_how_wrong_they_were(run, tmp_path, capsys, off, on):
    words = ["--prompt", "1 and 7", "--steps", "5"]
    plain, record = draw(run, tmp_path / "a", *words, "--quiet")
    assert record["cache"] == {"name": "none"}
    same, record = draw(run, tmp_path / "b", f"cache={off}", *words, "--quiet")
    assert (plain == same).all() and record["cache"]["reused"] == 0
    assert record["cache"]["rows"] == 2 * 2 * 5 and record["cache"]["checked"] > 0 and record["cache"]["error_mean"] > 0
    kept, record = draw(run, tmp_path / "c", f"cache={on}", *words)
    assert not (plain == kept).all()
    assert record["cache"]["reused"] == (2 * 2 * 2 if "fora" in on else 2 * 2 * 4) and record["cache"]["saved"] > 0.3
    assert (
        f"cache {record['cache']['name']}: {record['cache']['saved']:.0%} of 20 evaluations" in capsys.readouterr().out
    )


def test_a_cache_that_does_not_fit_is_refused_before_anything_is_made(tmp_path, capsys):
    (tmp_path / "t.yaml").write_text(SMALL)
    words = [str(tmp_path / "t.yaml"), "conditioner=none", "guidance=none", "--out", str(tmp_path / "run")]
    unet = ["backbone=unet3d", "backbone.dim=16", "backbone.multipliers=[1,2]", "cache=first_block"]
    assert train.main([*words, *unet]) == 2
    assert "cache first_block: the blocks of UNet3D change sizes" in capsys.readouterr().err
    split = ["backbone=dit_factorized", "backbone.plan=split_heads", "backbone.dim=16", "backbone.num_heads=2"]
    assert train.main([*words, *split, "cache=fora"]) == 2
    assert "'attn' of a block is not called as a whole" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
