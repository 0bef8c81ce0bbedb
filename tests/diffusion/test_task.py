"""What is known of pixels and of latents, and times that descend like a staircase."""

import pytest
import torch

import zoo  # noqa: F401
from tests.frames import F64
from vidiff.diffusion.task import Canvas, known_pixels, staircase
from vidiff.registry import build
from vidiff.types import Grid


def test_a_staircase_lets_frames_follow_one_another():
    times = torch.tensor([1.0, 0.6, 0.2, 0.0], dtype=F64)
    assert torch.equal(staircase(times, 0, 3), times[:, None].expand(4, 3))
    assert staircase(times, 2, 3).T.tolist() == [
        [1.0, 0.6, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 1.0, 1.0, 0.6, 0.2, 0.0, 0.0, 0.0],
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.6, 0.2, 0.0],
    ]
    assert staircase(times, 1, 4, wait=2).T.tolist() == [[1.0, 0.6, 0.2, 0.0, 0.0]] * 3 + [[1.0, 1.0, 0.6, 0.2, 0.0]]


SHAPE = (2, 8, 12, 8)  # C T H W


TOKENIZERS = {
    "pixels": "pixels",
    "tubelet": {"name": "tubelet", "size": [2, 4, 4]},
    "frame_patch": {"name": "frame_patch", "size": 4},
    "dct3d": {"name": "dct3d", "size": [2, 4, 4]},
    "haar3d": {"name": "haar3d", "levels": [1, 2, 1]},
}


def on(tokenizer, shape=SHAPE):
    made = build("tokenizer", TOKENIZERS[tokenizer])
    return Canvas(shape, Grid(*made.latent_shape(shape)), made)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_latent_is_known_only_if_all_its_pixels_are(tokenizer):
    """By brute force: an element is known if no change of an unknown pixel can move it."""
    place = on(tokenizer)
    pixels = known_pixels(SHAPE, "first", 5)
    cells = place.cells(pixels)
    g = torch.Generator().manual_seed(1)
    a, b = (torch.randn(1, *SHAPE, generator=g, dtype=F64) for _ in range(2))
    b = torch.where(pixels, a, b)
    same = (place.tokenizer.encode(a) - place.tokenizer.encode(b))[0].abs() < 1e-12
    moves = tokenizer in ("pixels", "tubelet", "frame_patch")
    assert place.moves_pixels() == moves
    assert torch.equal(cells, same) if moves else (same[cells].all() and torch.equal(cells.all(0), same.all(0)))
    whole = 5 if tokenizer in ("pixels", "frame_patch") else 4
    shown = place.pixels(cells).flatten(1).all(1)
    assert shown.sum() == (5 if moves else whole) and shown[: shown.sum()].all()


@pytest.mark.parametrize("tokenizer", ["dct3d", "haar3d"])
def test_a_part_of_a_frame_needs_a_tokenizer_that_moves_pixels(tokenizer):
    with pytest.raises(ValueError, match="mixes its pixels"):
        on(tokenizer).cells(known_pixels(SHAPE, "none", 1, (0.0, 0.0, 0.5, 0.5)))


def test_frames_of_a_causal_tokenizer():
    """1 + 4 k frames: the first latent frame is one frame, the others are four."""

    class Causal(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def latent_shape(self, shape):
            return Grid(3, 1 + (shape[1] - 1) // 4, 2, 2)

    place = Canvas((1, 9, 4, 4), Grid(3, 3, 2, 2), Causal())
    assert place.spans() == [(0, 1), (1, 5), (5, 9)]
    assert [place.known_frames(k) for k in (1, 4, 5, 9)] == [1, 1, 2, 3]
    cells = place.cells(known_pixels((1, 9, 4, 4), "first", 6))
    assert cells.shape == (3, 3, 2, 2) and cells[:, :2].all() and not cells[:, 2].any()
    assert place.pixels(cells).flatten(1).all(1).tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize(
    ("frames", "count", "box", "words"),
    [
        ("first", 8, None, r"every pixel .* Choose fewer frames\.$"),
        ("none", 3, None, r"nothing of the video .* Choose some frames\.$"),
        ("every", 1, None, "every pixel"),
        ("none", 1, (0.0, 0.0, 1.0, 1.0), r"nothing of the video .* some frames or a smaller box\.$"),
        ("first", 1, (0.0, 0.0, 0.0, 0.0), r"every pixel .* fewer frames or a larger box\.$"),
    ],
)
def test_nothing_or_everything_known_is_refused(frames, count, box, words):
    with pytest.raises(ValueError, match=words):
        known_pixels(SHAPE, frames, count, box)


def test_too_few_frames_to_fill_a_latent_one_are_refused():
    with pytest.raises(ValueError, match="one of them holds 2 frames"):
        on("dct3d").cells(known_pixels(SHAPE, "first", 1))


def test_conditioning_knows_whole_latent_frames_and_replacement_every_pixel():
    """5 frames in tubelets of 2: two latent frames and, for replacement, half the elements of a third."""
    whole = build("task", {"name": "conditioning", "count": 5}, canvas=on("tubelet"))
    each = build("task", {"name": "replacement", "count": 5}, canvas=on("tubelet"))
    assert whole.pixels.flatten(1).all(1).sum() == 4 and each.pixels.flatten(1).all(1).sum() == 5
    assert whole.cells.float().mean() == 0.5 and each.cells.float().mean() == 5 / 8
    with pytest.raises(ValueError, match="one of them holds 2 frames"):
        build("task", {"name": "conditioning", "count": 1}, canvas=on("tubelet"))
