"""Files out of frames: GIF, MP4, PNG strips, NPY; each written beside and renamed."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vidiff.video.files import printable


def write(path: str | os.PathLike, video: Tensor, fps: float = 8.0, scale: int | None = 1) -> None:
    """Write one video or several, as .gif, .mp4, .png (a strip) or .npy by the name's ending."""
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise ValueError(f"cannot write '{suffix}' ({printable(path)}). Known: {', '.join(_WRITERS)}.")
    _WRITERS[suffix](path, video, fps, scale)


def write_gif(path: str | os.PathLike, video: Tensor, fps: float = 8.0, scale: int | None = 1) -> None:
    """uint8 (C,T,H,W), or (N,C,T,H,W) as a grid -> a looping GIF; gray ones lose nothing."""
    with _replacing(path) as new:
        Path(new).write_bytes(gif_bytes(video, fps, scale))


def gif_bytes(video: Tensor, fps: float = 8.0, scale: int | None = 1) -> bytes:
    """The bytes of a GIF (what an image summary of TensorBoard takes); `fps` up to 50 is kept.

    Equal neighbouring frames are stored once and shown longer.
    """
    from PIL import Image

    frames = _pictures(video, scale)
    pictures = [Image.fromarray(f[..., 0] if f.shape[-1] == 1 else f) for f in frames.numpy()]
    if pictures[0].mode == "RGB":
        pictures = [p.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE) for p in pictures]
    # The format counts in hundredths of a second and players refuse fewer than two.
    ends = [round(100 * k / _rate(fps)) for k in range(len(pictures) + 1)]
    milliseconds = [10 * max(2, b - a) for a, b in pairwise(ends)]
    out = io.BytesIO()
    pictures[0].save(
        out, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=False, disposal=1
    )
    return out.getvalue()


def write_mp4(path: str | os.PathLike, video: Tensor, fps: float = 8.0, scale: int | None = 1) -> None:
    """uint8 (C,T,H,W), or (N,C,T,H,W) as a grid -> H.264 that every player shows (4:2:0, BT.601, even sizes)."""
    import av

    frames = _pictures(video, scale)
    height, width = frames.shape[1:3]
    frames = F.pad(rearrange(frames, "t h w c -> t c h w").float(), (0, width % 2, 0, height % 2), "replicate").byte()
    frames = rearrange(frames.expand(-1, 3, -1, -1), "t c h w -> t h w c").contiguous().numpy()
    with _replacing(path) as new, av.open(new, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=_rate(fps))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        # One thread and no macroblock tree: the same frames give the same bytes.
        stream.options = {"crf": "16", "preset": "medium", "x264-params": "mbtree=0:threads=1"}
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = 6, 1, 6, 6
        for rgb in frames:
            picture = av.VideoFrame.from_ndarray(rgb, "rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_png_strip(path: str | os.PathLike, video: Tensor, scale: int | None = 1) -> None:
    """uint8 (C,T,H,W) -> a PNG of its frames side by side; (N,C,T,H,W) -> a row for each."""
    from PIL import Image

    videos = video[None] if video.ndim == 4 else video
    across = tile(rearrange(videos, "n c t h w -> (n t) c 1 h w"), columns=videos.shape[2])
    picture = _pictures(across, scale)[0].numpy()
    with _replacing(path) as new:
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(new, "PNG")


def write_npy(path: str | os.PathLike, video: Tensor) -> None:
    """The bare numbers, in the shape given."""
    with _replacing(path) as new, open(new, "wb") as file:
        np.save(file, _bytes_of(video).numpy(), allow_pickle=False)


def write_grid(
    path: str | os.PathLike, videos: Tensor, columns: int | None = None, fps: float = 8.0, scale: int | None = 1
) -> None:
    """uint8 (N,C,T,H,W) -> one video with all of them playing in rows and columns."""
    write(path, tile(videos, columns), fps, scale)


def tile(videos: Tensor, columns: int | None = None, gap: int = 2) -> Tensor:
    """uint8 (N,C,T,H,W) -> (C,T,rows*(H+gap)-gap,columns*(W+gap)-gap), row by row, about square by default."""
    count = len(videos)
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    empty = videos.new_full((-count % columns, *videos.shape[1:]), _GAP)
    framed = F.pad(torch.cat([_bytes_of(videos), empty]), (0, gap, 0, gap), value=_GAP)
    grid = rearrange(framed, "(rows columns) c t h w -> c t (rows h) (columns w)", columns=columns)
    return grid[..., : grid.shape[-2] - gap, : grid.shape[-1] - gap]


_GAP = 96  # a gray that neither black nor white pictures run into

_WRITERS: dict[str, Callable] = {
    ".gif": write_gif,
    ".mp4": write_mp4,
    ".png": lambda path, video, fps, scale: write_png_strip(path, video, scale),
    ".npy": lambda path, video, fps, scale: write_npy(path, video),
}


def _pictures(video: Tensor, scale: int | None) -> Tensor:
    """uint8 (C,T,H,W) or (N,C,T,H,W) -> (T,H,W,C), enlarged by a whole factor (None: to 128 pixels or more)."""
    video = tile(video) if video.ndim == 5 else _bytes_of(video)
    if video.ndim != 4 or video.shape[0] not in (1, 3) or 0 in video.shape:
        raise ValueError(f"a picture has 1 or 3 channels in (C,T,H,W) or (N,C,T,H,W); this is {tuple(video.shape)}")
    factor = scale or max(1, math.ceil(128 / min(video.shape[-2:])))
    video = video.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return rearrange(video, "c t h w -> t h w c").contiguous()


def _bytes_of(video: Tensor) -> Tensor:
    if video.dtype != torch.uint8:
        raise ValueError(f"videos are written from uint8 (to_uint8 makes it from [-1,1]); this is {video.dtype}")
    return video.detach().cpu()


def _rate(fps: float) -> Fraction:
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}: it must be above 0")
    return Fraction(fps).limit_denominator(1001)


@contextmanager
def _replacing(path: str | os.PathLike) -> Iterator[str]:
    """A temporary name beside `path` that becomes it when all went well and vanishes otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield str(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
