"""Text from the command line to the video."""

import json

import numpy as np
import pytest

import zoo  # noqa: F401
from vidiff.commands import sample, train

TEXT = """\
name: text
data: {name: moving_digits, size: 16, frames: 4, digits: 2, digit_size: 7, length: 40}
tokenizer: {name: tubelet, size: [2, 4, 8]}
backbone: {name: dit_cross, dim: 32, depth: 2, num_heads: 2}
conditioner: {name: text_bytes, dim: 16, depth: 1, num_heads: 2, length: 12}
guidance: {name: cfg, scale: 2.0}
sampler: {name: euler, steps: 2}
train: {steps: 4, batch_size: 5}
optimizer: {lr: 1.0e-2}
schedule: {warmup_steps: 1}
checkpoint: {every: 4}
log: {every: 2, tensorboard: false}
callbacks: {samples: {every: 4, num: 2}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.yaml").write_text(TEXT)
    assert train.main([str(folder / "text.yaml"), "--out", str(folder / "run"), "--device", "cpu", "--quiet"]) == 0
    return folder / "run"


def draw(run, out, *words):
    argv = [str(run), "--format", "npy", "--quiet", "--device", "cpu", "--out", str(out), "--weights", "raw", *words]
    assert sample.main(argv) == 0
    record = json.loads((out / "samples.json").read_text())
    return [np.load(out / f) for f in record["files"]], record["conditions"]


def test_prompts_take_turns_and_are_recorded(run, tmp_path):
    videos, conditions = draw(run, tmp_path / "a", "--num", "3", "--prompt", "1 and 7", "--prompt", "0 and 0")
    assert [c["text"] for c in conditions] == ["1 and 7", "0 and 0", "1 and 7"]
    others, _ = draw(run, tmp_path / "b", "--num", "3", "--prompt", "5 and 5")
    assert not any((a == b).all() for a, b in zip(videos, others, strict=True)), "the text changes the video"
    again, _ = draw(run, tmp_path / "c", "--num", "1", "--prompt", "1 and 7")
    assert (again[0] == videos[0]).all(), "and nothing else does"


def test_without_a_prompt_held_out_texts_are_taken(run, tmp_path):
    _, conditions = draw(run, tmp_path / "a", "--num", "2")
    assert all(" and " in c["text"] for c in conditions)
    assert (run / "samples/step_00000004.gif").stat().st_size > 0


def test_a_prompt_that_nothing_reads_is_refused(tmp_path, capsys):
    (tmp_path / "label.yaml").write_text(TEXT.split("callbacks")[0])
    words = ["conditioner=label", "train.steps=1", "schedule.warmup_steps=0", "--out", str(tmp_path / "run"), "--quiet"]
    assert train.main([str(tmp_path / "label.yaml"), *words, "--device", "cpu"]) == 0
    assert sample.main([str(tmp_path / "run"), "--prompt", "3", "--device", "cpu"]) == 2
    assert "conditioner label reads no text" in capsys.readouterr().err
    assert not (tmp_path / "run/samples").exists()


def test_a_network_that_reads_no_text_is_refused(tmp_path, capsys):
    (tmp_path / "t.yaml").write_text(TEXT)
    assert train.main([str(tmp_path / "t.yaml"), "backbone=unet3d_basic", "backbone.dim=32"]) == 2
    err = capsys.readouterr().err
    assert "backbone unet3d_basic" in err and "conditioner text_bytes gives" in err and "dit_cross" in err
