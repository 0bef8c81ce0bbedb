"""Reading: the frame asked for, in its true colours, or a BadSample. Writing: what was given, whole or not at all."""

import dataclasses
import itertools
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.barcode import HEIGHT, WIDTH, make_clip, mutant, numbers, picture
from vidiff.types import BadSample
from vidiff.video import (
    Limits,
    fit,
    gif_bytes,
    printable,
    probe,
    read_frames,
    tile,
    to_float,
    to_uint8,
    write,
    write_gif,
    write_grid,
    write_mp4,
    write_npy,
    write_png_strip,
)
from vidiff.video.decord_process import decord_process, read_decord
from vidiff.video.reading import read_pyav

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
DECORD = ["h264_b_frames.mp4", "h264_long_gop.mkv", "vp9.webm"]
FRAMES = 40


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """name -> path of a bar-code clip; encoded when first asked for. Skips where the encoder is missing."""
    folder = tmp_path_factory.mktemp("clips")

    def clip(name):
        path = folder / name
        if not path.exists():
            try:
                make_clip(path, **{"frames": FRAMES, **CLIPS[name]})
            except av.codec.codec.UnknownCodecError:
                pytest.skip(f"this PyAV has no encoder {CLIPS[name]['codec']}")
        return path

    return clip


def refused(path, reader="pyav", **limits):
    """The reason of a refusal, which is one line and names the file."""
    with pytest.raises(BadSample) as caught:
        read_frames(path, reader=reader, limits=Limits(**limits))
    assert "\n" not in str(caught.value) and caught.value.reason
    assert printable(os.path.basename(os.fspath(path))) in str(caught.value)
    return caught.value.reason


def gray(t, h, w, seed=0, n=None):
    shape = (1, t, h, w) if n is None else (n, 1, t, h, w)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth(t, h, w):
    """A colour video without sharp edges, (3,T,H,W)."""
    rows, columns, when = torch.meshgrid(torch.arange(h), torch.arange(w), torch.arange(t), indexing="ij")
    rgb = torch.stack([40 + 150 * rows / h, 220 - 160 * columns / w, 30 + 20 * when])
    return rgb.permute(0, 3, 1, 2).round().to(torch.uint8)


# ---- the one normalisation ----


def test_every_byte_survives_the_way_to_floats_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    there = to_float(every)
    assert there.dtype == torch.float32 and there[0] == -1 and there[255] == 1 and (there.diff() > 0).all()
    assert torch.equal(to_uint8(there), every)
    assert torch.equal(to_uint8(to_float(every, torch.float64)), every)
    assert (to_float(every, torch.bfloat16) - there).abs().max() <= 2**-8 / 2


def test_bytes_are_rounded_and_clamped_and_never_undefined():
    values = torch.tensor([-7.0, 1.004 / 127.5 - 1, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1, 1.5, float("inf"), float("nan")])
    assert to_uint8(values).tolist() == [0, 1, 1, 0, 255, 255, 0]
    assert to_uint8(torch.tensor([0.5], dtype=torch.bfloat16)).tolist() == [191]


def test_fit_takes_the_middle_in_the_right_shape():
    frame = torch.zeros(30, 80, 3, dtype=torch.uint8)
    frame[:, 25:55] = torch.tensor([200, 100, 50], dtype=torch.uint8)  # the middle square
    small = fit(frame, 6, 6)
    assert small.shape == (6, 6, 3) and small.dtype == torch.uint8
    assert (small.int() - torch.tensor([200, 100, 50])).abs().max() <= 1
    assert fit(frame, 5, 7).shape == (5, 7, 3) and fit(frame, 90, 40).shape == (90, 40, 3)
    assert torch.equal(fit(frame, 30, 80), frame)


def test_fit_averages_what_it_shrinks():
    stripes = torch.zeros(64, 64, 3, dtype=torch.uint8)
    stripes[:, ::4] = 252
    assert (fit(stripes, 8, 8).int()[2:-2, 2:-2] - 63).abs().max() <= 2


# ---- the right frames ----


@pytest.mark.parametrize("name", CLIPS)
def test_all_frames_in_order_in_their_colours(clips, name):
    info, video = probe(clips(name)), read_frames(clips(name))
    assert info.num_frames == FRAMES and (info.height, info.width) == (HEIGHT, WIDTH)
    assert video.shape == (3, FRAMES, HEIGHT, WIDTH) and video.dtype == torch.uint8
    assert numbers(video) == list(range(FRAMES))
    assert info.fps == pytest.approx(25, rel=1e-3) and info.duration == pytest.approx(FRAMES / 25, rel=1e-3)
    truth = np.stack([picture(i) for i in range(FRAMES)]).transpose(3, 0, 1, 2).astype(int)
    error = np.abs(video.numpy() - truth)[..., 16:, :].mean(axis=(1, 2, 3))
    assert (error < (35 if name.endswith("gif") else 14)).all(), error  # another order of channels: above 50


def ask_at_random(path, requests, seed, reader="pyav"):
    """How many requests brought other frames than the ones asked for."""
    rng, count, wrong = random.Random(seed), probe(path).num_frames, 0
    for _ in range(requests):
        indices = [rng.randrange(count) for _ in range(rng.choice([1, 1, 3]))]
        wrong += numbers(read_frames(path, indices, reader=reader)) != indices
    return wrong


@pytest.mark.parametrize("name", CLIPS)
def test_the_frame_asked_for(clips, name):
    assert ask_at_random(clips(name), 20, seed=name) == 0


@pytest.mark.slow
def test_ten_thousand_requests_and_no_wrong_frame(clips):
    assert sum(ask_at_random(clips(name), 10_000 // len(CLIPS) + 1, seed=f"many {name}") for name in CLIPS) == 0


def test_order_and_repeats_are_kept(clips):
    assert numbers(read_frames(clips("h264_b_frames.mp4"), [31, 2, 31, 30])) == [31, 2, 31, 30]


def test_each_frame_can_be_shrunk_on_the_way(clips):
    video = read_frames(clips("vp9.webm"), [5, 7], each=lambda frame: fit(frame, 6, 10))
    assert video.shape == (3, 2, 6, 10)


@pytest.mark.parametrize("indices", [[0, FRAMES], [-1], []])
def test_a_frame_that_is_not_there_is_the_callers_error(clips, indices):
    with pytest.raises(ValueError, match=r"has frames 0\.\.39; asked for"):
        read_frames(clips("h264_b_frames.mp4"), indices)


@pytest.mark.parametrize("first_ms", [0, 700])
def test_variable_frame_rate_and_a_late_start(tmp_path, first_ms):
    gaps = [20, 60, 10, 200, 35]
    stamps = [first_ms + s for s in itertools.accumulate([gaps[i % 5] for i in range(29)], initial=0)]
    path = make_clip(tmp_path / "vfr.mkv", frames=30, stamps_ms=stamps, g="7", bf="2")
    info = probe(path)
    assert np.abs(info.times - (np.array(stamps) - first_ms) / 1000).max() < 1e-6
    assert numbers(read_frames(path, [29, 4, 17])) == [29, 4, 17]
    asked = np.arange(0, info.times[-1], 1 / 30)
    for frame, when in zip(info.at(asked), asked):
        assert abs(info.times[frame] - when) == pytest.approx(np.abs(info.times - when).min())


def test_the_length_is_what_decodes_not_what_the_header_says(tmp_path):
    whole = make_clip(tmp_path / "whole.mp4", frames=60, g="12", bf="2", container={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    with av.open(str(cut)) as container:
        assert container.streams.video[0].frames == 60  # the claim
    count = probe(cut).num_frames
    assert 15 < count < 45
    assert numbers(read_frames(cut)) == list(range(count)) and numbers(read_frames(cut, [count - 1])) == [count - 1]


def test_damage_before_the_end_refuses_the_file(tmp_path):
    path = make_clip(tmp_path / "damaged.mp4", g="10", bf="0")
    with av.open(str(path)) as container:
        packet = next(itertools.islice(container.demux(video=0), 17, None))
        start, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[start + 4 : start + size] = bytes(size - 4)
    path.write_bytes(data)
    assert "damaged after frame 17" in refused(path)


def test_a_changed_file_is_noticed(tmp_path):
    path = make_clip(tmp_path / "changing.mp4", frames=20)
    assert probe(path).num_frames == 20
    make_clip(path, frames=11)
    assert probe(path).num_frames == 11
    path.unlink()
    assert "No such file" in refused(path)


def test_frames_that_decode_differently_the_second_time_are_refused(clips):
    info = probe(clips("h264_b_frames.mp4"))
    forged = dataclasses.replace(info, marks=info.marks + np.uint32(1))
    with pytest.raises(BadSample, match="same frames twice"):
        read_pyav(forged, [30], Limits(), lambda frame: frame)


def test_a_seek_that_lands_wrong_is_made_good_from_the_start(clips):
    info = probe(clips("h264_b_frames.mp4"))
    # A start point beyond the frame: what comes after the seek cannot contain it.
    forged = dataclasses.replace(info, stamps=np.roll(info.stamps, 20), keys=np.arange(FRAMES) == 3)
    frames = read_pyav(forged, [5], Limits(), lambda frame: frame)
    assert numbers(frames[5].permute(2, 0, 1)[:, None]) == [5]


# ---- the right picture ----


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


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_stored_orientation_is_applied(tmp_path, orientation):
    path = make_clip(tmp_path / "turned.mp4", frames=3)
    stored = read_frames(path, [2])[:, 0].permute(1, 2, 0).numpy()
    matrix, turn = ORIENTATIONS[orientation]
    patch_matrix(path, matrix)
    os.utime(path, (1, 1))  # the same size within the same clock tick: make it another file
    upright = read_frames(path, [2])[:, 0].permute(1, 2, 0).numpy()
    assert np.array_equal(upright, turn(stored))
    assert (probe(path).height, probe(path).width) == upright.shape[:2]


MATRICES = {"bt709": (1, 0.2126, 0.0722), "bt601": (6, 0.299, 0.114), "unstated": (2, 0.299, 0.114)}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", MATRICES)
def test_the_rgb_rule(tmp_path, name, full):
    tag, kr, kb = MATRICES[name]
    y, u, v = 120, 90, 170
    path = tmp_path / "colour.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt, stream.options = 16, 32, "yuv444p", {"qp": "0"}
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, 2 if full else 1
        frame = av.VideoFrame(32, 16, "yuv444p")
        frame.colorspace, frame.color_range = tag, 2 if full else 1
        for plane, value in zip(frame.planes, (y, u, v)):
            plane.update(bytes([value]) * plane.buffer_size)
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    luma, blue, red = (
        (y / 255, (u - 128) / 255, (v - 128) / 255) if full else ((y - 16) / 219, (u - 128) / 224, (v - 128) / 224)
    )
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    assert (read_frames(path)[:, 0, 3, 5].double() - 255 * torch.tensor([r, g, b])).abs().max() <= 2


def test_alpha_lies_over_black(tmp_path):
    path, pixels = tmp_path / "alpha.mkv", np.zeros((16, 32, 4), np.uint8)
    pixels[:, :, :] = (40, 120, 200, 102)  # b g r a
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=5)
        stream.height, stream.width, stream.pix_fmt = 16, 32, "bgra"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "bgra")))
        out.mux(stream.encode())
    assert read_frames(path)[:, 0, 3, 5].tolist() == [80, 48, 16]


def test_ten_bits_are_rounded_to_eight(clips):
    assert probe(clips("prores.mov")).pixels == "yuv422p10le"
    assert read_frames(clips("prores.mov"), [3]).dtype == torch.uint8


# ---- bad files ----


def gif_header(width, height):
    """A GIF of 89 bytes that claims any size."""
    head = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff"
    loop = b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    frame = b"!\xf9\x04\0\x0a\0\0\0," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02D\x01\0"
    return head + loop + 2 * frame + b";"


FILES = {
    "empty.mp4": (b"", "empty file"),
    "text.mp4": (b"a cat jumps over a fence\n" * 99, ""),
    "page.mp4": (b"<!DOCTYPE html><html><body>404</body></html>", ""),
    "noise.mp4": (random.Random(0).randbytes(5000), ""),
    "playlist.mp4": (b"#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n", ""),
    "concat.mp4": (b"ffconcat version 1.0\nfile secret.mp4\n", ""),
    "large.gif": (gif_header(16000, 16000), "limit 16,777,216"),
    "largest.gif": (gif_header(65535, 65535), "limit 16,777,216"),
    "name\nwith a line break.mp4": (b"text", ""),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_videos(tmp_path, clips, name):
    (tmp_path / "secret.mp4").write_bytes(clips("h264_b_frames.mp4").read_bytes())
    content, reason = FILES[name]
    (tmp_path / name).write_bytes(content)
    begin = time.perf_counter()
    assert reason in refused(tmp_path / name)
    assert time.perf_counter() - begin < 1


def test_things_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dangling.mp4").symlink_to("nowhere")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    there = socket.socket(socket.AF_UNIX)
    there.bind(str(tmp_path / "socket.mp4"))
    begin = time.perf_counter()
    assert refused(tmp_path / "fifo.mp4") == refused(tmp_path / "zero.mp4") == "not a regular file"
    assert refused(tmp_path / "socket.mp4") == "not a regular file"
    assert "folder" in refused(tmp_path / "folder.mp4")
    assert "No such file" in refused(tmp_path / "dangling.mp4") and "No such file" in refused(tmp_path / "never.mp4")
    assert "symbolic link" in refused(tmp_path / "loop.mp4")
    assert "null" in refused(tmp_path / "nul\0.mp4")
    assert time.perf_counter() - begin < 0.1
    there.close()


def test_a_file_with_sound_only(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.rate, frame.pts = 44100, 0
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert refused(path) == "no video stream"


def test_of_several_streams_the_one_every_player_shows(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("ffv1", rate=5) for _ in range(2)]
        for stream, (height, width) in zip(streams, [(16, 24), (32, 48)]):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv444p"
        for stream, count in zip(streams, [1, 5]):
            for k in range(count):
                frame = av.VideoFrame(stream.width, stream.height, "yuv444p")
                frame.pts = k
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    assert (probe(path).height, probe(path).num_frames) == (32, 5)


def test_limits_on_what_a_file_may_cost(clips):
    path = clips("h264_b_frames.mp4")
    assert "48x144 pixels a frame; limit 6,000" in refused(path, pixels=6000)
    assert refused(path, frames=FRAMES - 1) == "more than 39 frames"
    assert f"{FRAMES} frames of 48x144 are 829,440 bytes; limit 800,000" in refused(path, bytes=800_000)
    assert "not decoded within 0.001 s" in refused(path, seconds=0.001)
    assert len(numbers(read_frames(path, limits=Limits(pixels=HEIGHT * WIDTH, frames=FRAMES, bytes=829_440)))) == FRAMES


def test_a_large_gif_costs_no_memory(tmp_path):
    path = tmp_path / "large.gif"
    path.write_bytes(gif_header(16000, 16000))
    code = (
        "import resource, sys; from vidiff.video import probe; from vidiff.types import BadSample\n"
        "import av, PIL\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: probe(sys.argv[1])\nexcept BadSample: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 200_000  # KiB; one frame would take a million


@pytest.mark.parametrize(
    "name",
    [
        b"two words.mp4",
        b'it\'s "quoted".mp4',
        b"$(touch x) %s %d.mp4",
        b"\xff\xfe not utf-8.mp4",
        b"new\nline.mp4",
        b"-i.mp4",
    ],
)
def test_any_name_works(tmp_path, clips, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = os.fsdecode(name)
    Path(path).write_bytes(clips("h264_b_frames.mp4").read_bytes())
    assert numbers(read_frames(path, [13])) == [13] and numbers(read_frames(name, [3])) == [3]
    assert "\n" not in printable(path) and printable(path).encode() and os.listdir() == [path]


def test_tags_in_another_encoding_do_no_harm(tmp_path):
    path = make_clip(tmp_path / "tagged.mp4", frames=4)
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"L\xe9\xff!"))
    assert probe(path).num_frames == 4


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


MUTATED = ["h264_b_frames.mp4", "h264_long_gop.mkv", "hevc.mp4", "vp9.webm", "mpeg4.avi", "palette.gif"]


def test_damaged_files_are_read_or_refused(clips, tmp_path):
    read, bad = survive(clips, MUTATED, 60, tmp_path)
    assert read + bad == 60 * len(MUTATED) and bad > 60


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in MUTATED if n != "palette.gif"])
def test_two_thousand_damaged_files(clips, name, tmp_path):
    """In a process of its own: no crash, no file slower than 10 s, no error but BadSample, below 1 GB."""
    code = (
        "import resource, sys; from pathlib import Path; from tests.test_video import survive\n"
        "clip, folder = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "print(*survive(lambda name: clip, [clip.name], 2000, folder))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, str(clips(name)), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (read, bad), (peak,) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert read + bad == 2000 and peak < 1_000_000


# ---- decord ----


def needs_decord():
    pytest.importorskip("decord", reason="decord is not installed")


@pytest.mark.parametrize("name", DECORD)
def test_decord_brings_the_same_frames(clips, name):
    needs_decord()
    indices = [33, 2, 2, 18]
    theirs, ours = read_frames(clips(name), indices, reader="decord"), read_frames(clips(name), indices)
    assert numbers(theirs) == indices
    assert (theirs.int() - ours.int()).abs().max() <= 2


def test_decord_turns_frames_the_same_way(tmp_path):
    needs_decord()
    path = make_clip(tmp_path / "turned.mp4", frames=3)
    patch_matrix(path, ORIENTATIONS["half"][0])
    assert torch.equal(read_frames(path, reader="decord"), read_frames(path))


def test_decord_brings_the_frame_asked_for(clips):
    needs_decord()
    assert sum(ask_at_random(clips(name), 40, seed=name, reader="decord") for name in DECORD) == 0


@pytest.mark.parametrize(
    "name",
    ["hevc.mp4", "mpeg4.avi", "h264.ts", "ffv1.mkv", "palette.gif", "h264_open_gop.mp4", "h264_intra_refresh.mp4"],
)
def test_decord_is_refused_where_it_returns_wrong_frames(clips, name):
    needs_decord()
    assert refused(clips(name), reader="decord").endswith("use reader=pyav")


def test_decord_that_is_not_there_and_readers_that_never_were(clips, monkeypatch):
    monkeypatch.setattr("vidiff.video.reading.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'decord is not installed\. pip install -e "\.\[decord\]", or reader=pyav'):
        read_frames(clips("vp9.webm"), [0], reader="decord")
    with pytest.raises(ValueError, match=r"reader 'opencv' is not known\. Known: pyav, decord"):
        read_frames(clips("vp9.webm"), [0], reader="opencv")


def test_decord_must_agree_about_times(clips):
    needs_decord()
    info = probe(clips("h264_b_frames.mp4"))
    forged = dataclasses.replace(info, times=info.times * 1.1)
    with pytest.raises(BadSample, match="decord disagrees about its frames"):
        read_decord(forged, [30], Limits(), lambda frame: frame)


def test_decord_may_die_or_hang_and_comes_back(clips):
    needs_decord()
    path, helper = clips("h264_b_frames.mp4"), decord_process()
    read_frames(path, [1], reader="decord")
    first = helper._child.pid
    assert os.getpgid(first) != os.getpgid(0)  # Ctrl-C goes to a whole process group, and is not for it
    os.kill(first, signal.SIGSTOP)  # as good as hanging
    with pytest.raises(ValueError, match=r"did not answer within 0\.3 s"):
        helper.ask(str(path), [1], 0.3)
    assert numbers(read_frames(path, [7], reader="decord")) == [7]
    helper._child.kill()
    helper._child.wait()
    assert numbers(read_frames(path, [9], reader="decord")) == [9] and helper._child.pid != first


def test_damaged_files_before_decord(clips, tmp_path):
    needs_decord()
    read, bad = survive(clips, ["h264_long_gop.mkv", "vp9.webm"], 40, tmp_path, reader="decord")
    assert read + bad == 80 and read > 10 and bad > 10


# ---- writing ----


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


def test_importing_it_imports_no_codec():
    code = "import sys, vidiff.video; print([m for m in ('av', 'PIL', 'decord', 'torchvision') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
