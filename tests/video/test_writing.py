"""Writing: what was given, whole or not at all."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vidiff.video import (
    gif_bytes,
    probe,
    read_frames,
    tile,
    write,
    write_gif,
    write_grid,
    write_mp4,
    write_npy,
    write_png_strip,
)


def gray(t, h, w, seed=0, n=None):
    shape = (1, t, h, w) if n is None else (n, 1, t, h, w)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth(t, h, w):
    """A colour video without sharp edges, (3,T,H,W)."""
    rows, columns, when = torch.meshgrid(torch.arange(h), torch.arange(w), torch.arange(t), indexing="ij")
    rgb = torch.stack([40 + 150 * rows / h, 220 - 160 * columns / w, 30 + 20 * when])
    return rgb.permute(0, 3, 1, 2).round().to(torch.uint8)


def test_a_gray_gif_is_exact(tmp_path):
    video = gray(5, 24, 17)
    write_gif(tmp_path / "a.gif", video, fps=8)
    assert torch.equal(read_frames(tmp_path / "a.gif"), video.expand(3, -1, -1, -1))
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["loop"] == 0 and image.n_frames == 5
    assert probe(tmp_path / "a.gif").fps == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("fps", [3, 8, 24, 50])
def test_a_gif_lasts_as_long_as_it_should(fps):
    with Image.open(__import__("io").BytesIO(gif_bytes(gray(26, 4, 6), fps))) as image:
        total = sum((image.seek(k), image.info["duration"])[1] for k in range(26))
    assert total == pytest.approx(1000 * 26 / fps, abs=10)


def test_a_colour_gif_is_close(tmp_path):
    video = smooth(4, 32, 48)
    write_gif(tmp_path / "a.gif", video)
    assert (read_frames(tmp_path / "a.gif").int() - video.int()).abs().float().mean() < 4


def test_enlarging_is_by_whole_pixels(tmp_path):
    video = gray(2, 20, 33)
    write_gif(tmp_path / "a.gif", video, scale=3)
    assert torch.equal(read_frames(tmp_path / "a.gif")[:1, :, ::3, ::3], video)
    write_gif(tmp_path / "b.gif", video, scale=None)
    assert probe(tmp_path / "b.gif").height == 140 and probe(tmp_path / "b.gif").width == 231


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height, width", [(32, 48), (33, 47)])
def test_an_mp4_keeps_its_pictures_and_its_pace(tmp_path, channels, height, width):
    video = smooth(7, height, width)[:channels]
    write_mp4(tmp_path / "a.mp4", video, fps=6)
    info, back = probe(tmp_path / "a.mp4"), read_frames(tmp_path / "a.mp4")
    assert (info.num_frames, info.pixels, info.fps) == (7, "yuv420p", pytest.approx(6))
    assert (info.height, info.width) == (height + height % 2, width + width % 2)
    error = (back[..., :height, :width].int() - video.expand(3, -1, -1, -1).int()).abs().float()
    assert error.mean() < 3 and error.max() < 24
    assert (
        torch.equal(back[..., -1, :], back[..., -1, :]) and (back[..., -1].int() - back[..., -2].int()).abs().max() < 24
    )


def test_the_same_frames_give_the_same_mp4(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, smooth(9, 32, 48))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_strip_has_frames_across_and_samples_down(tmp_path):
    videos = gray(4, 6, 7, n=3)
    write_png_strip(tmp_path / "a.png", videos)
    with Image.open(tmp_path / "a.png") as image:
        pixels = torch.from_numpy(np.array(image))
    assert pixels.shape == (3 * (6 + 2) - 2, 4 * (7 + 2) - 2)
    for n, t in itertools.product(range(3), range(4)):
        assert torch.equal(pixels[8 * n : 8 * n + 6, 9 * t : 9 * t + 7], videos[n, 0, t])
    write_png_strip(tmp_path / "b.png", smooth(4, 6, 7))
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode == "RGB" and image.size == (4 * 9 - 2, 6)


def test_a_grid_is_filled_row_by_row(tmp_path):
    videos = gray(2, 5, 6, n=7)
    grid = tile(videos)
    assert grid.shape == (1, 2, 3 * 7 - 2, 3 * 8 - 2)
    for n in range(7):
        row, column = divmod(n, 3)
        assert torch.equal(grid[..., 7 * row : 7 * row + 5, 8 * column : 8 * column + 6], videos[n])
    assert tile(videos, columns=7).shape == (1, 2, 5, 7 * 8 - 2)
    write_grid(tmp_path / "a.gif", videos, columns=4)
    assert torch.equal(read_frames(tmp_path / "a.gif")[:1], tile(videos, columns=4))


def test_bare_numbers_are_exact(tmp_path):
    videos = gray(2, 5, 6, n=3)
    write_npy(tmp_path / "a.npy", videos)
    assert np.array_equal(np.load(tmp_path / "a.npy"), videos.numpy())


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".png", ".npy", ".GIF"])
@pytest.mark.parametrize("n", [None, 3])
def test_write_goes_by_the_ending_and_makes_folders(tmp_path, suffix, n):
    path = tmp_path / "new" / f"a{suffix}"
    write(path, gray(3, 10, 12, n=n))
    assert path.stat().st_size > 0 and os.listdir(path.parent) == [path.name]


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"cannot write '\.webp'.*Known: \.gif, \.mp4, \.png, \.npy"):
        write(tmp_path / "a.webp", gray(2, 4, 5))
    with pytest.raises(ValueError, match=r"1 or 3 channels.*\(2, 3, 4, 5\)"):
        write_gif(tmp_path / "a.gif", torch.zeros(2, 3, 4, 5, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"uint8 \(to_uint8 makes it.*float32"):
        write_mp4(tmp_path / "a.mp4", torch.zeros(1, 3, 4, 5))
    with pytest.raises(ValueError, match="fps is 0: it must be above 0"):
        write_gif(tmp_path / "a.gif", gray(2, 4, 5), fps=0)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write(tmp_path / "a.png", gray(2, 4, 5))
    before = (tmp_path / "a.png").read_bytes()

    def half(self, file, *args, **kwargs):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "a.png", gray(2, 4, 5, seed=1))
    assert os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == before
