"""Bar-code clips of every codec, stored upright or turned, whole or damaged, and what is asked of all of them."""

import itertools
import os
import random
import struct
import time

import numpy as np
import pytest

from tests.barcode import mutant, numbers
from vidiff.types import BadSample
from vidiff.video import (
    Limits,
    printable,
    probe,
    read_frames,
)

CLIPS = {
    "h264_b_frames.mp4": dict(codec="libx264", g="12", bf="3"),
    "h264_open_gop.mp4": dict(codec="libx264", **{"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}),
    "h264_intra_refresh.mp4": dict(codec="libx264", **{"x264-params": "intra-refresh=1:keyint=10:bframes=0"}),
    "h264_long_gop.mkv": dict(codec="libx264", g="250", bf="3"),
    "h264.ts": dict(codec="libx264", g="12", bf="2"),
    "h264.avi": dict(codec="libx264", g="12", bf="2"),
    "hevc.mp4": dict(codec="libx265", **{"x265-params": "keyint=10:open-gop=1:bframes=3:log-level=none"}),
    "mpeg4.avi": dict(codec="mpeg4", g="12", bf="2", q="3"),
    "mpeg2.ts": dict(codec="mpeg2video", g="12", bf="2"),
    "vp9.webm": dict(codec="libvpx-vp9", g="12"),
    "prores.mov": dict(codec="prores_ks", pixels="yuv422p10le"),
    "ffv1.mkv": dict(codec="ffv1", pixels="yuv444p"),
    "mjpeg.avi": dict(codec="mjpeg", pixels="yuvj420p"),
    "palette.gif": dict(codec="gif", pixels="rgb8"),
}


FRAMES = 40


def refused(path, reader="pyav", **limits):
    """The reason of a refusal, which is one line and names the file."""
    with pytest.raises(BadSample) as caught:
        read_frames(path, reader=reader, limits=Limits(**limits))
    assert "\n" not in str(caught.value) and caught.value.reason
    assert printable(os.path.basename(os.fspath(path))) in str(caught.value)
    return caught.value.reason


def ask_at_random(path, requests, seed, reader="pyav"):
    """How many requests brought other frames than the ones asked for."""
    rng, count, wrong = random.Random(seed), probe(path).num_frames, 0
    for _ in range(requests):
        indices = [rng.randrange(count) for _ in range(rng.choice([1, 1, 3]))]
        wrong += numbers(read_frames(path, indices, reader=reader)) != indices
    return wrong


def patch_matrix(path, matrix):
    """Write a display matrix into the track header of an mp4 (16.16 fixed point, a b u c d v x y w)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = matrix
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


ORIENTATIONS = {
    "as stored": ((1, 0, 0, 1), lambda f: f),
    "clockwise": ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    "half": ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
    "counter-clockwise": ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda f: f[::-1]),
    "transposed": ((0, 1, 1, 0), lambda f: f.transpose(1, 0, 2)),
}


def survive(clips, names, count, folder, reader="pyav"):
    """Read `count` damaged copies of each; whatever is not a BadSample is raised -> (read, refused)."""
    read = bad = 0
    for name, k in itertools.product(names, range(count)):
        path = folder / f"{k} {name}"
        path.write_bytes(mutant(clips(name).read_bytes(), random.Random(f"{name} {k}")))
        begin = time.monotonic()
        try:
            read_frames(path, [probe(path).num_frames - 1, 0], reader=reader)
            read += 1
        except BadSample as error:
            assert "\n" not in str(error)
            bad += 1
        assert time.monotonic() - begin < 10
        path.unlink()
    return read, bad
