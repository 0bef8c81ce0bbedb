"""fps, motion, size: what number each tells, and that the null is one vector."""

import pytest
import torch

import zoo.conditioners  # noqa: F401
from vidiff.registry import build

KEEP = torch.tensor([False, False])


def made(name, **settings):
    torch.manual_seed(0)
    conditioner = build("conditioner", {"name": name, **settings}, width=6)
    seen = []
    conditioner.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return conditioner, seen


def test_fps_as_it_is_and_neighbours_are_told_apart():
    fps, seen = made("fps")
    a, b = fps({"fps": torch.tensor([8.0, 9.0])}, KEEP).vector
    assert seen[0].tolist() == [[8.0], [9.0]] and (a - b).norm() > 0.02


def test_the_null_is_one_learned_vector():
    fps, _ = made("fps")
    vector = fps({"fps": torch.tensor([8.0, 30.0])}, torch.tensor([True, True])).vector
    assert torch.equal(vector, fps.embedding.null.expand(2, -1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_motion_is_the_mean_change_of_grey_levels(dtype):
    """Pixels that go 0, 10, 0, 10 change by 10 levels a frame: bucket floor(50 * 10 / 40); a still clip has 0."""
    motion, seen = made("motion", buckets=50, levels=40.0)
    video = torch.zeros(2, 3, 4, 5, 6, dtype=torch.uint8)
    video[0, :, 1::2] = 10
    video = video if dtype == torch.uint8 else video.float() / 127.5 - 1
    motion({"video": video}, KEEP)
    assert seen[0].tolist() == [[12], [0]]


def test_motion_beyond_the_levels_is_the_last_bucket_and_a_picture_does_not_move():
    motion, _ = made("motion", buckets=50, levels=40.0)
    video = torch.zeros(1, 1, 4, 5, 6, dtype=torch.uint8)
    video[:, :, ::2] = 255
    assert motion.measure(video).tolist() == [49] and motion.measure(video[:, :, :1]).tolist() == [0]


def test_motion_that_is_asked_for_goes_before_what_is_measured():
    motion, seen = made("motion")
    motion({"motion": torch.tensor([3, 77]), "video": torch.zeros(2, 1, 2, 3, 4)}, KEEP)
    assert seen[0].tolist() == [[3], [77]]


def test_size_given_and_taken_from_the_video():
    size, seen = made("size")
    size({"size": torch.tensor([[40, 60], [720, 1280]])}, KEEP)
    size({"video": torch.zeros(2, 3, 4, 30, 48)}, KEEP)
    assert torch.allclose(seen[0], torch.tensor([[40.0, 60, 150], [720, 1280, 1280 / 7.2]]))
    assert torch.allclose(seen[1], torch.tensor([[30.0, 48, 160]]).expand(2, -1))
