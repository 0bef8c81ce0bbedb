"""Frames out of files with PyAV: every frame is the one asked for, or an error."""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vidiff.video.decord_process import read_decord
from vidiff.video.files import (
    CONTAINERS,
    LIMITS,
    READERS,
    Limits,
    VideoInfo,
    bad,
    brief,
    late,
    naming,
    one_line,
    printable,
    regular_file,
)


def check_reader(reader: str) -> None:
    """Raises ValueError when this reader is unknown or not installed."""
    if reader not in READERS:
        raise ValueError(f"reader '{reader}' is not known. Known: {', '.join(READERS)}.")
    if reader == "decord" and find_spec("decord") is None:
        raise ValueError('reader=decord: decord is not installed. pip install -e ".[decord]", or reader=pyav.')


def probe(path: str | os.PathLike, limits: Limits = LIMITS) -> VideoInfo:
    """Decode a file once and say what it holds; remembered until its size or time of change differ.

    Raises BadSample for anything that is not a readable video within the limits.
    """
    path = os.path.abspath(os.fsdecode(path))
    status = regular_file(path)
    return _probe(path, status.st_size, status.st_mtime_ns, limits)


def read_frames(
    path: str | os.PathLike,
    indices: Sequence[int] | None = None,
    *,
    reader: str = "pyav",
    limits: Limits = LIMITS,
    each: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The frames of these numbers (all by default), in this order, repeats allowed -> uint8 RGB (3,T,H,W).

    `each` is applied to every frame (H,W,3) as it is decoded, so that a long or large clip is scaled down
    before it is gathered. Raises BadSample for the file, ValueError for a frame number it does not have.
    """
    check_reader(reader)
    info = probe(path, limits)
    order = list(range(info.num_frames)) if indices is None else [int(i) for i in indices]
    if not order or min(order) < 0 or max(order) >= info.num_frames:
        raise ValueError(f"{printable(path)} has frames 0..{info.num_frames - 1}; asked for {brief(order)}.")
    wanted = sorted(set(order))
    need = 3 * info.height * info.width * len(wanted)
    if each is None and need > limits.bytes:
        raise bad(
            path, f"{len(wanted)} frames of {info.height}x{info.width} are {need:,} bytes; limit {limits.bytes:,}"
        )
    read = read_decord if reader == "decord" else read_pyav
    frames = read(info, wanted, limits, each or (lambda frame: frame))
    return rearrange(torch.stack([frames[i] for i in order]), "t h w c -> c t h w").contiguous()


@lru_cache(maxsize=16_384)
def _probe(path: str, size: int, mtime_ns: int, limits: Limits) -> VideoInfo:
    """`size` and `mtime_ns` are here to make a changed file another key."""
    shrink, stamps, keys, marks, packets = _Reformatter(), [], [], [], []
    with naming(path, limits), _opened(path, limits) as (container, stream):
        for frame in _decoded(path, container, stream, limits, packets):
            if not marks:
                height, width = _upright(np.empty((frame.height, frame.width, 0)), frame).shape[:2]
            stamps.append(frame.pts)
            keys.append(bool(frame.key_frame))
            marks.append(shrink.fingerprint(frame))
        if not marks:
            raise bad(path, "no frame could be decoded")
        times, fps = _times(stamps, stream)
        return VideoInfo(
            path=path, container=container.format.name,
            codec=stream.codec_context.name, pixels=stream.codec_context.pix_fmt,
            height=height, width=width, fps=fps, times=times,
            stamps=np.array(stamps, np.int64) if _ascending(stamps) else None,
            keys=np.array(keys), marks=np.array(marks, np.uint32), closed=_closed(packets, sum(keys)),
        )  # fmt: skip


def read_pyav(info: VideoInfo, wanted: list[int], limits: Limits, each: Callable) -> dict[int, Tensor]:
    """Frame number -> picture, from the nearest point where decoding can start, else from the beginning."""
    for start in dict.fromkeys((_start(info, wanted[0]), 0)):
        kept: dict[int, Tensor] = {}
        with naming(info.path, limits), _opened(info.path, limits) as (container, stream):
            if start:
                container.seek(int(info.stamps[start]), stream=stream)
            for i, rgb in _matched(info, wanted, _decoded(info.path, container, stream, limits), by_time=start > 0):
                kept[i] = each(torch.from_numpy(rgb))
                if i == wanted[-1]:
                    break
        if len(kept) == len(wanted):
            return kept
    raise bad(info.path, "it does not decode to the same frames twice, or it changed while it was read")


def _matched(info: VideoInfo, wanted: list[int], frames: Iterator, by_time: bool) -> Iterator[tuple[int, np.ndarray]]:
    """The wanted ones among decoded frames that are truly them: same time, same fingerprint."""
    reformatter, missing = _Reformatter(), set(wanted)
    number = {int(s): i for i, s in enumerate(info.stamps)} if by_time else None
    for count, frame in enumerate(frames):
        i = number.get(frame.pts) if number else count
        if i in missing and reformatter.fingerprint(frame) == info.marks[i]:
            missing.discard(i)
            yield i, np.ascontiguousarray(_upright(reformatter.rgb(frame), frame))


def _start(info: VideoInfo, first: int) -> int:
    """The last frame up to `first` at which decoding can start; 0 when timestamps cannot tell frames apart."""
    return 0 if info.stamps is None else int(np.flatnonzero(info.keys[: first + 1])[-1:].sum())


def _decoded(
    path: str, container: Any, stream: Any, limits: Limits, seen: list[tuple[bool, int | None]] | None = None
) -> Iterator[Any]:
    """Frames in order of display, whole ones only; the last packet may be damaged (a file cut short), no other.

    `seen` gathers (key, time) of every packet.
    """
    import av

    deadline, shape, count, damage = time.monotonic() + limits.seconds, None, 0, None
    for packet in _packets(container, stream):
        if time.monotonic() > deadline:
            raise late(path, limits)
        if damage and packet is not None:
            raise bad(path, f"damaged after frame {count}: {damage}")
        if damage:
            return
        if seen is not None and packet is not None:
            seen.append((packet.is_keyframe, packet.pts))
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            damage = one_line(error)
            continue
        for frame in frames:
            if frame.is_corrupt:
                if count:  # before the first whole frame: a recording that starts mid-stream
                    damage = "a frame is incomplete"
                continue
            shape = shape or (frame.height, frame.width)
            if frame.height * frame.width > limits.pixels:
                raise bad(path, f"{frame.height}x{frame.width} pixels a frame; limit {limits.pixels:,}")
            if shape != (frame.height, frame.width):
                raise bad(path, f"changes size from {shape[0]}x{shape[1]} to {frame.height}x{frame.width}")
            count += 1
            if count > limits.frames:
                raise bad(path, f"more than {limits.frames:,} frames")
            yield frame


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets that hold something, then None, which asks the decoder for what it holds back."""
    import av

    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.FFmpegError:  # the container ends in the middle of a packet
        pass
    yield None


@contextmanager
def _opened(path: str, limits: Limits) -> Iterator[tuple[Any, Any]]:
    """An open container and its video stream; limits are checked before anything is allocated."""
    import av

    most = str(2 * limits.pixels + 2**14)  # decoders count padding too; the exact limit is checked below
    options = {"max_pixels": most, "protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    # Tags are text in any encoding and nothing to us; PyAV 19 always reads them without complaint.
    lenient = {"metadata_errors": "replace"} if _pyav_major() < 19 else {}
    with av.open(path, options=options, timeout=limits.seconds, **lenient) as container:
        stream = container.streams.best("video")  # of several, FFmpeg's choice, as every player
        if stream is None or stream.disposition & _COVER_PICTURE:
            raise bad(path, "no video stream")
        context = stream.codec_context
        if context is None:
            raise bad(path, "no decoder for its video stream")
        if not 0 < context.width * context.height <= limits.pixels:  # 0: FFmpeg found it too large itself
            size = f"{context.height}x{context.width}" if context.width else "no or too many"
            raise bad(path, f"{size} pixels a frame; limit {limits.pixels:,}")
        context.options = {"max_pixels": most}  # frames may be larger than the header says
        context.thread_count = 1  # workers are the parallelism; and frame threads delay errors
        yield container, stream


_COVER_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC


class _Reformatter:
    """Pixel formats to RGB and to fingerprints; keeps swscale's context, which is dear to set up per frame."""

    def __init__(self):
        from av.video.reformatter import VideoReformatter

        self._small, self._full = VideoReformatter(), VideoReformatter()
        self._one_thread = {"threads": 1} if _pyav_major() >= 17 else {}

    def rgb(self, frame: Any) -> np.ndarray:
        """uint8 (H,W,3) by the RGB rule, not yet upright."""
        if any(component.is_alpha for component in frame.format.components):
            rgba = self._full.reformat(frame, format="rgba", **self._one_thread).to_ndarray().astype(np.uint16)
            return ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)
        return self._full.reformat(frame, format="rgb24", **self._one_thread).to_ndarray()

    def fingerprint(self, frame: Any) -> int:
        """A checksum of the picture shrunk to 32x32 gray."""
        small = self._small.reformat(frame, 32, 32, "gray", interpolation="AREA", **self._one_thread)
        return zlib.crc32(bytes(small.planes[0]))


def _upright(rgb: np.ndarray, frame: Any) -> np.ndarray:
    """Turned and mirrored as the display matrix (a b u, c d v, x y w) of the file says."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return rgb
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) > abs(a):  # rows become columns
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _times(stamps: list[int | None], stream: Any) -> tuple[np.ndarray, float]:
    """Seconds from the first frame, and the mean rate; by the stated rate where timestamps are unusable."""
    if len(stamps) > 1 and _ascending(stamps):
        times = (np.array(stamps, np.float64) - stamps[0]) * float(stream.time_base)
        if times[-1] > 0:
            return times, (len(stamps) - 1) / float(times[-1])
    rate = float(stream.average_rate or 0) or 25.0
    return np.arange(len(stamps)) / rate, rate


def _ascending(stamps: list[int | None]) -> bool:
    return None not in stamps and all(a < b for a, b in pairwise(stamps))


def _closed(packets: list[tuple[bool, int | None]], keys: int) -> bool:
    """Whether nothing after a key packet is shown before it, and the decoder agrees which packets are keys."""
    latest = -math.inf
    for key, when in packets:
        if when is None or when < latest:
            return False
        latest = when if key else latest
    return sum(key for key, _ in packets) == keys


@lru_cache(maxsize=1)
def _pyav_major() -> int:
    import av

    return int(av.__version__.split(".", 1)[0])
