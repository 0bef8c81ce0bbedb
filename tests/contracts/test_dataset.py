"""What the house's data sets promise beside vidiff.checks.dataset, which test_checks.py runs on them all."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo.datasets  # noqa: F401
from vidiff.registry import DATASETS
from vidiff.video import write_mp4

SPLITS = ("train", "val", "test")


def moving_mnist():
    Path("moving_mnist").mkdir()
    clips = np.random.default_rng(0).integers(0, 256, (9, 40, 8, 10), dtype=np.uint8)
    np.save("moving_mnist/mnist_test_seq.npy", clips)


def video_folder():
    for i in range(12):
        clip = np.random.default_rng(i).integers(0, 256, (3, 11, 16, 18), dtype=np.uint8)
        write_mp4(f"clips/{i}.mp4", torch.from_numpy(clip))


NEED_FILES = {"moving_mnist": moving_mnist, "video_folder": video_folder}
"""The files that the house's own look for in the working directory."""


@pytest.mark.parametrize("name", DATASETS.names())
def test_a_pickled_copy_reads_the_same(name, tmp_path, monkeypatch):
    """As workers have; vidiff itself unpickles nothing, so no check can."""
    if name in NEED_FILES:
        monkeypatch.chdir(tmp_path)
        NEED_FILES[name]()
    data = DATASETS[name].build(DATASETS[name].tiny, seed=1, split="train")
    data[0]
    copy = pickle.loads(pickle.dumps(data))[2]
    assert copy.keys() == data[2].keys() and torch.equal(copy["video"], data[2]["video"])
    assert all(copy[key] == data[2][key] for key in copy if key != "video")


@pytest.mark.parametrize("name", DATASETS.names())
def test_an_unknown_split_is_refused(name, tmp_path, monkeypatch):
    if name in NEED_FILES:
        monkeypatch.chdir(tmp_path)
        NEED_FILES[name]()
    with pytest.raises(ValueError, match="split 'validation' is not known"):
        DATASETS[name].build(DATASETS[name].tiny, seed=1, split="validation")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", [c.name for c in DATASETS if "more_shapes" in c.settings])
def test_clips_of_several_shapes_have_those_that_it_says(name, split, tmp_path, monkeypatch):
    """Known from the item alone, the same at every visit, all of them in use and none that is not listed."""
    monkeypatch.chdir(tmp_path)
    for i in range(24):
        frames, size = (11, (16, 18)) if i % 3 else (4, (18, 40))
        clip = np.random.default_rng(i).integers(0, 256, (3, frames, *size), dtype=np.uint8)
        write_mp4(f"clips/{i}.mp4", torch.from_numpy(clip))
    settings = {**DATASETS[name].tiny, "more_shapes": [[3, 8, 18], [2, 10, 6]]}
    data = DATASETS[name].build(settings, seed=1, split=split)
    assert data.shapes == (data.shape, (data.shape[0], 3, 8, 18), (data.shape[0], 2, 10, 6))
    for i in range(2 * len(data)):
        assert (
            data[i]["video"].shape == data.shape_of(i) == data.shape_of(i % len(data))
            and data.shape_of(i) in data.shapes
        )
    assert len({data.shape_of(i) for i in range(len(data))}) > 1 or len(data) < 3
