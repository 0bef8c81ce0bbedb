"""What every registered data set promises: clips that are a function of (seed, split, number) only."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import zoo.datasets  # noqa: F401
from vidiff.registry import DATASETS
from vidiff.video import write_mp4

SPLITS = ("train", "val", "test")


@pytest.fixture(params=DATASETS.names())
def component(request, tmp_path, monkeypatch):
    """A registered data set, with the files that the house's own look for."""
    if request.param == "moving_mnist":
        monkeypatch.chdir(tmp_path)
        Path("moving_mnist").mkdir()
        np.save(
            "moving_mnist/mnist_test_seq.npy", np.random.default_rng(0).integers(0, 256, (9, 40, 8, 10), dtype=np.uint8)
        )
    if request.param == "video_folder":
        monkeypatch.chdir(tmp_path)
        for i in range(12):
            clip = np.random.default_rng(i).integers(0, 256, (3, 11, 16, 18), dtype=np.uint8)
            write_mp4(f"clips/{i}.mp4", torch.from_numpy(clip))
    return DATASETS[request.param]


@pytest.fixture
def make(component):
    return lambda split="train", seed=1: component.build(component.tiny, seed=seed, split=split)


def kind(data):
    """Bytes, or the numbers themselves where their law is known."""
    return torch.float32 if hasattr(data, "law") else torch.uint8


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) if k == "video" else a[k] == b[k] for k in a)


@pytest.mark.parametrize("split", SPLITS)
def test_items_are_what_the_attributes_say(make, split):
    data = make(split)
    c, t, h, w = data.shape
    assert len(data) >= 1 and c in (1, 3) and isinstance(data.num_classes, int)
    for i in (0, len(data) - 1, len(data), 5 * len(data) + 1):
        item = data[i]
        assert item["video"].shape == (c, t, h, w) and item["video"].dtype == kind(data)
        assert item["fps"] > 0 and isinstance(item.get("text", ""), str)
        assert ("label" in item) == (data.num_classes > 0)
        assert 0 <= item.get("label", 0) < max(1, data.num_classes)


@pytest.mark.parametrize("split", SPLITS)
def test_an_item_depends_on_seed_split_and_number_only(make, split):
    first, second = make(split), make(split)
    numbers = [0, 3, 1, 2 * len(first) + 1]
    forwards = [first[i] for i in numbers]
    backwards = [second[i] for i in reversed(numbers)][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards))
    assert all(same(a, first[i]) for a, i in zip(forwards, numbers))


def test_training_differs_by_seed_and_by_visit(make):
    ours, theirs = make(seed=1), make(seed=2)
    count = len(ours)
    assert any(not torch.equal(ours[i]["video"], theirs[i]["video"]) for i in range(6))
    assert any(not torch.equal(ours[i]["video"], ours[i + count]["video"]) for i in range(6))


def test_splits_show_different_things(make):
    train, val = make("train"), make("val")
    seen = {train[i]["video"].numpy().tobytes() for i in range(len(train))}
    assert not any(val[i]["video"].numpy().tobytes() in seen for i in range(len(val)))


def test_a_pickled_copy_reads_the_same(make):
    data = make()
    data[0]
    assert same(pickle.loads(pickle.dumps(data))[2], data[2])


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
        assert data[i]["video"].shape == data.shape_of(i) == data.shape_of(i % len(data)) and data.shape_of(i) in data.shapes
    assert len({data.shape_of(i) for i in range(len(data))}) > 1 or len(data) < 3


def test_items_can_be_collated(make):
    data = make()
    batch = default_collate([data[i] for i in range(3)])
    assert batch["video"].shape == (3, *data.shape) and batch["video"].dtype == kind(data)
    assert len(batch["fps"]) == 3


def test_no_global_randomness_is_touched(make):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    data = make()
    data[0], data[len(data)]
    assert torch.equal(torch.get_rng_state(), torch_before) and (np.random.get_state()[1] == numpy_before).all()


def test_an_unknown_split_is_refused(make):
    with pytest.raises(ValueError, match="split 'validation' is not known"):
        make("validation")
