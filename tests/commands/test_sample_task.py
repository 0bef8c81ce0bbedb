"""Drawing with a task from the command line: given clips, files, marks and the record."""

import json

import numpy as np
import pytest
import torch

import zoo  # noqa: F401
from vidiff.building import build_dataset
from vidiff.commands import sample, train
from vidiff.config import load
from vidiff.engine.compared import outline
from vidiff.video import gray, write_mp4

TINY = """\
name: tiny
data: {name: moving_digits, size: 16, frames: 8, digits: 1, digit_size: 8, length: 40}
tokenizer: {name: tubelet, size: [2, 8, 8]}
backbone: {name: dit_joint, dim: 32, depth: 2, num_heads: 2}
objective: {name: masked_video, prediction: x0}
sampler: {name: euler, steps: 3}
task: {name: conditioning, frames: first, count: 3}
train: {steps: 2, batch_size: 4}
schedule: {warmup_steps: 1}
log: {every: 1, tensorboard: false}
callbacks: {samples: {every: 2, num: 2}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run that was trained for prediction, and drew with its task on the way."""
    folder = tmp_path_factory.mktemp("predicts")
    (folder / "tiny.yaml").write_text(TINY)
    assert train.main([str(folder / "tiny.yaml"), "--out", str(folder / "run"), "--device", "cpu", "--quiet"]) == 0
    assert list((folder / "run/samples").glob("*.gif"))
    return folder / "run"


def run(trained, out, *more):
    return sample.main([str(trained), "--num", "2", "--format", "npy", "--out", str(out), "--device", "cpu", *more])


def test_known_frames_of_held_out_clips_come_back_and_the_record_says_so(trained, tmp_path, capsys):
    assert run(trained, tmp_path / "a", "--compare") == 0
    clips = build_dataset(load(trained / "config.yaml"), "val")
    for i in range(2):
        drawn = np.load(tmp_path / f"a/sample_{i:04d}.npy", allow_pickle=False)
        given = clips[i]["video"].numpy()
        assert drawn.shape == given.shape
        assert (drawn[:, :2] == given[:, :2]).all()  # 3 frames fill one latent frame of 2
        assert (drawn[:, 2:] != given[:, 2:]).mean() > 0.05
    record = json.loads((tmp_path / "a/samples.json").read_text())
    assert record["task"] == {"name": "conditioning", "frames": "first", "count": 3} and record["input"] == []
    assert (tmp_path / "a/compare.gif").exists()


def test_another_task_may_be_asked_for_and_a_video_file_given(trained, tmp_path):
    frames = torch.arange(3 * 9 * 20 * 24, dtype=torch.int64).reshape(3, 9, 20, 24) % 251
    write_mp4(tmp_path / "clip.mp4", frames.to(torch.uint8), 8.0)
    file = str(tmp_path / "clip.mp4")
    assert run(trained, tmp_path / "b", "task={name: inversion}", "--input", file, "--steps", "4", "--quiet") == 0
    record = json.loads((tmp_path / "b/samples.json").read_text())
    assert record["task"]["name"] == "inversion" and record["input"] == [file]
    assert len(record["task"]["round_trip_rmse"]) == 2 and record["evaluations"] == 6
    assert record["task"]["round_trip_rmse"][0] == record["task"]["round_trip_rmse"][0]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("guidence.scale=4", "there is no key 'guidence'. Did you mean 'guidance.scale'?"),
        ("tasks.name=sdedit", "there is no key 'tasks'. Did you mean 'task.name'?"),
        ("backbone.dim=64", "would change the trained model"),
        ("num=4", "write --num 4."),
        ("batch_size=4", "write --batch-size 4."),
        ("seed=4", "write --seed 4."),
        ("grid=true", "write --grid."),
    ],
)
def test_a_word_is_refused_for_what_it_is(trained, tmp_path, capsys, word, told):
    capsys.readouterr()
    assert run(trained, tmp_path / "no", word) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert not (tmp_path / "no").exists()


def test_a_roll_out_is_longer_than_training(trained, tmp_path):
    more = ["task={name: rollout, num_frames: 18, context: 2}", "--compare", "--quiet"]
    assert run(trained, tmp_path / "c", *more) == 0
    assert np.load(tmp_path / "c/sample_0000.npy", allow_pickle=False).shape == (1, 18, 16, 16)
    assert json.loads((tmp_path / "c/samples.json").read_text())["evaluations"] == 3 * 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["task={name: pyramid}"], "objective: diffusion_forcing"),
        (["task.count=1"], "one of them holds 2 frames"),
        (["task.count=8"], "every pixel of the video is known"),
        (["task.name=replacment"], "Did you mean 'replacement'"),
        (["task={name: inversion}", "sampler.name=ancestral"], "adds noise"),
        (["task=generate", "--input", "LONG"], "nothing takes a video"),
        (["--input", "SHORT"], "it has 5 frames, and the model draws 8"),
        (["--input", "nowhere.mp4"], "nowhere.mp4"),
        (["task={name: rollout, num_frames: 18, context: 8}"], "leave one at least to draw"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(trained, tmp_path, capsys, more, words):
    write_mp4(tmp_path / "short.mp4", torch.zeros(3, 5, 16, 16, dtype=torch.uint8), 8.0)
    write_mp4(tmp_path / "long.mp4", torch.zeros(3, 8, 16, 16, dtype=torch.uint8), 8.0)
    more = [str(tmp_path / f"{word.lower()}.mp4") if word in ("SHORT", "LONG") else word for word in more]
    assert run(trained, tmp_path / "d", *more) == 2
    told = capsys.readouterr().err
    assert words in told and len(told.splitlines()) == 1, told
    assert not (tmp_path / "d/samples.json").exists()


def test_an_outline_is_the_edge_of_what_is_known():
    known = torch.zeros(2, 5, 6, dtype=torch.bool)
    known[0] = True
    edge = outline(known)
    assert edge[0].sum() == 2 * 6 + 2 * 3 and not edge[0, 1:-1, 1:-1].any() and not edge[1].any()
    known[0, 1:4, 2:4] = False  # a box in the middle is outlined from outside
    assert outline(known)[0, 2, 1] and outline(known)[0, 0, 0] and not outline(known)[0, 2, 2]


def test_gray_is_the_luma():
    video = torch.tensor([255, 0, 0, 0, 255, 0, 0, 0, 255], dtype=torch.uint8).reshape(3, 3, 1, 1)
    assert gray(video.transpose(0, 1).contiguous()).flatten().tolist() == [76, 150, 29]
