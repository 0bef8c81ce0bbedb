"""tools/train.py and tools/sample.py with clips of several shapes and rates."""

import json

import numpy as np
import pytest

from vidiff.commands import sample, train

YAML = """\
name: shapes
data: {name: moving_digits, size: 16, frames: 4, digits: 1, digit_size: 8, length: 40, more_shapes: [[2, 8, 24]]}
tokenizer: {name: tubelet, size: [2, 4, 8]}
backbone: {name: dit_joint, dim: 24, depth: 1, num_heads: 3}
positions: {name: rotary, base_fps: 8.0}
sampler: {name: euler, steps: 2}
train: {steps: 2, batch_size: 4}
schedule: {warmup_steps: 1}
log: {tensorboard: false}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "shapes.yaml").write_text(YAML)
    assert train.main([str(folder / "shapes.yaml"), "--out", str(folder / "run"), "--device", "cpu", "--quiet"]) == 0
    return folder / "run"


def drawn(run, out, *words):
    code = sample.main(
        [str(run), "--num", "2", "--format", "npy", "--quiet", "--device", "cpu", "--out", str(out), *words]
    )
    return code, [np.load(file) for file in sorted(out.glob("sample_*.npy"))]


def test_what_is_trained_is_said(run, capsys):
    assert train.main([str(run.parent / "shapes.yaml"), "--dry-run", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "1x4x16x16 -> latent 64x2x4x2 = 16 tokens, and 1 more shapes" in said
    assert (
        "40 of 40 clips are used" in said and "2x8x24 -> latent 64x1x2x3 = 6 tokens: 20 clips (50%), at most 10" in said
    )


@pytest.mark.parametrize("shape", ["4x16x16", "2x8x24", "6x12x32"])
def test_any_shape_is_drawn(run, tmp_path, shape):
    code, videos = drawn(run, tmp_path, "--shape", shape)
    assert code == 0 and [v.shape[-3:] for v in videos] == [tuple(map(int, shape.split("x")))] * 2
    assert json.loads((tmp_path / "samples.json").read_text())["shape"][2:] == list(map(int, shape.split("x")))


def test_the_shape_names_the_folder_and_the_rate_is_told_to_the_model(run, tmp_path):
    assert sample.main([str(run), "--num", "1", "--shape", "2x8x24", "--quiet", "--device", "cpu"]) == 0
    assert (run / "samples" / "step_00000002_euler2_2x8x24" / "samples.json").is_file()
    assert drawn(run, tmp_path / "r", "--fps", "12")[0] == 0
    told = json.loads((tmp_path / "r/samples.json").read_text())["conditions"]
    assert [c["fps"] for c in told] == [12.0, 12.0]


def test_real_clips_of_the_shape_stand_above(run, tmp_path):
    words = ["--compare", "--format", "gif,npy", "--shape", "2x8x24"]
    assert drawn(run, tmp_path, *words)[0] == 0 and (tmp_path / "compare.gif").is_file()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--shape", "3x16x16"], "--shape 3x16x16: clips of 3x16x16: 3 frames"),
        (["--shape", "4x16"], "write frames, height and width"),
        (["--shape", "4x16x0"], "write frames, height and width"),
        (["--shape", "8x16x16", "--compare"], "no clip of the data is 8x16x16"),
    ],
)
def test_refusals(run, tmp_path, capsys, words, text):
    assert drawn(run, tmp_path, *words)[0] == 2
    assert text in capsys.readouterr().err
