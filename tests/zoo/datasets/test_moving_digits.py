"""Moving digits: the law of motion, unseen handwriting, labels, and what can be asked for."""

import sys
import time
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch

from zoo.datasets.moving_digits import MovingDigits, bounce, combination, handwriting, mitchell, render, spline


def dataset(split="train", seed=3, **settings):
    return MovingDigits(**{"size": 20, "frames": 5, **settings}, seed=seed, split=split)


def test_splits_show_different_handwriting_of_every_digit():
    shown = {split: handwriting(split) for split in ("train", "val", "test")}
    assert sum(len(classes) for _, classes in shown.values()) == 1797
    pixels = {split: {p.tobytes() for p in pictures} for split, (pictures, _) in shown.items()}
    assert (
        not pixels["train"] & pixels["val"]
        and not pixels["train"] & pixels["test"]
        and not pixels["val"] & pixels["test"]
    )
    for digit in range(10):
        counts = [int((classes == digit).sum()) for _, classes in shown.values()]
        assert counts[0] / sum(counts) == pytest.approx(0.8, abs=0.01) and min(counts) >= 16


def test_pictures_and_classes_belong_together():
    from sklearn.datasets import load_digits

    truth = {(p / 16).astype(np.float32).tobytes(): c for p, c in zip(load_digits().images, load_digits().target)}
    pictures, classes = handwriting("val")
    assert all(truth[p.tobytes()] == c for p, c in zip(pictures, classes))


def test_reflection_is_elastic():
    start, velocity, room = np.array([[1.0, 8.0], [0.0, 4.0]]), np.array([[3.0, -2.5], [0.0, 11.0]]), 10.0
    position, step = start.copy(), velocity.copy()
    for t, there in enumerate(bounce(start, velocity, 30, room).swapaxes(0, 1)):
        assert np.allclose(there, position), t
        position += step  # one step at a time, turned round at each wall
        while ((position < 0) | (position > room)).any():
            below, above = position < 0, position > room
            position = np.where(below, -position, np.where(above, 2 * room - position, position))
            step = np.where(below | above, -step, step)


def test_a_digit_as_large_as_the_frame_stands_still():
    video = dataset(size=12, digit_size=12)[4]["video"]
    assert (video == video[:, :1]).all() and video.max() == 255
    assert not bounce(np.zeros((1, 2)), np.ones((1, 2)), 4, 0).any()


def test_weights_add_up_to_one_inside_and_vanish_outside():
    x = np.linspace(-0.5, 0.5, 11)
    assert np.allclose(sum(mitchell(np.abs(x + k)) for k in range(-3, 4)), 1)
    weights = spline(np.array([3.3, -2.0]), 30, 16)
    assert weights.shape == (2, 30, 8)
    assert np.allclose(weights[0, 7:15].sum(-1), 1, atol=1e-6) and not weights[0, 24:].any()


def test_a_whole_step_moves_the_picture_by_whole_pixels():
    pictures = handwriting("test")[0][5:6]
    at = np.array([[[2.25, 3.5], [5.25, 8.5]]])
    first, second = render(pictures, at, (40, 40), 18)
    assert first.max() == 255 and np.array_equal(first[:-3, :-5], second[3:, 5:])


def test_between_pixels_the_picture_glides():
    """The centre of mass follows the position to a small part of a pixel."""
    pictures = handwriting("train")[0][7:8]
    at = np.stack([np.linspace(4, 6, 9), np.linspace(9, 7, 9)], axis=1)[None]
    video = render(pictures, at, (48, 48), 22).astype(float)
    grid = np.arange(48)
    centre = np.stack([(video.sum(2) * grid).sum(1), (video.sum(1) * grid).sum(1)], 1) / video.sum((1, 2))[:, None]
    moved = centre - centre[0] - (at[0] - at[0, 0])
    assert np.abs(moved).max() < 0.06


def test_where_digits_overlap_the_brighter_one_shows():
    pictures = handwriting("train")[0][[10, 900]]
    at = np.array([[[5.0, 4.0]], [[7.0, 9.0]]])
    both = render(pictures, at, (32, 32), 15)
    apart = [render(pictures[i : i + 1], at[i : i + 1], (32, 32), 15) for i in range(2)]
    assert np.array_equal(both, np.maximum(*apart)) and (np.minimum(*apart) > 100).any()


def test_speed_is_in_pixels_a_frame():
    """A single slow digit: the centre of mass moves by the speed between bounces."""
    data = dataset(size=64, frames=4, digits=1, digit_size=14, speed=1.5)
    grid, steps = np.arange(64), []
    for i in range(40):
        video = data[i]["video"][0].double().numpy()
        centre = np.stack([(video.sum(2) * grid).sum(1), (video.sum(1) * grid).sum(1)], 1) / video.sum((1, 2))[:, None]
        steps.append(np.linalg.norm(np.diff(centre, axis=0), axis=1))
    assert np.median(steps) == pytest.approx(1.5, abs=0.05) and np.max(steps) < 1.7


@pytest.mark.parametrize("digits, classes", [(1, 10), (2, 55), (3, 220)])
def test_labels_number_unordered_combinations(digits, classes):
    data = dataset(digits=digits)
    assert data.num_classes == classes
    seen = {}
    for i in range(400):
        item = data[i]
        assert 0 <= item["label"] < classes
        assert seen.setdefault(item["text"], item["label"]) == item["label"]
        words = [int(w) for w in item["text"].split(" and ")]
        assert words == sorted(words) and len(words) == digits
        if digits == 1:
            assert item["label"] == words[0]
    assert len(set(seen.values())) == len(seen) > min(classes, 9)


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_every_combination_has_its_own_number(digits):
    numbers = [combination(list(c)) for c in combinations_with_replacement(range(10), digits)]
    assert sorted(numbers) == list(range(len(numbers)))


def test_labels_can_be_left_away():
    plain, bare = dataset(), dataset(labels="none")
    assert bare.num_classes == 0 and bare[2].keys() == {"video", "fps"}
    assert torch.equal(bare[2]["video"], plain[2]["video"])


def test_many_digits_are_no_trouble():
    assert dataset(digits=40)[0]["label"] < dataset(digits=40).num_classes


def test_size_and_speed_follow_the_frame():
    small, large = dataset(size=32), dataset(size=64)
    assert (small.digit_size, large.digit_size) == (14, 28)
    assert (small.slowest, small.fastest, large.slowest, large.fastest) == (1, 2, 2, 4)


def test_the_text_says_what_is_drawn():
    """A single digit, compared with every training picture drawn at every whole position."""
    data = dataset(size=16, frames=2, digits=1, digit_size=16)
    pictures, classes = handwriting("train")
    drawn = np.concatenate([render(p[None], np.zeros((1, 1, 2)), (16, 16), 16) for p in pictures]).reshape(
        len(classes), -1
    )
    for i in range(20):
        item = data[i]
        distance = np.abs(drawn.astype(int) - item["video"][0, 0].numpy().reshape(-1).astype(int)).sum(1)
        assert distance.min() == 0 and classes[distance.argmin()] == item["label"]


def test_three_channels_are_three_times_the_same():
    one, three = dataset(channels=1)[6]["video"], dataset(channels=3)[6]["video"]
    assert three.shape == (3, 5, 20, 20) and torch.equal(three, one.expand(3, -1, -1, -1))


def test_the_other_splits_are_a_tenth_as_long_and_draw_otherwise():
    lengths = {split: len(dataset(split, length=70)) for split in ("train", "val", "test")}
    assert lengths == {"train": 70, "val": 7, "test": 7} and len(dataset("val", length=3)) == 1
    places = [[dataset(split)[i]["video"].double().mean((0, 1)).argmax().item() for i in range(9)] for split in lengths]
    assert places[0] != places[1] != places[2] != places[0]


def test_what_cannot_be_drawn_is_said(monkeypatch):
    with pytest.raises(ValueError, match="digits of 21 pixels do not fit a frame of 20x20"):
        dataset(digit_size=21)
    with pytest.raises(ValueError, match=r"speed \[3, 2\] is \[min, max\]: swap them"):
        dataset(speed=(3.0, 2.0))
    with pytest.raises(ValueError, match=r"split 'training' is not known\. Known: train, val, test"):
        dataset("training")
    handwriting.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[digits\]"'):
        dataset()
    handwriting.cache_clear()


def test_two_cores_can_train_on_it():
    data = dataset(size=32, frames=16)
    data[0]
    begin = time.process_time()
    for i in range(100):
        data[i]
    assert (time.process_time() - begin) / 100 < 0.002  # measured: 0.16 ms
