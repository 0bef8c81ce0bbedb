"""Reading: the frame asked for, upright and in its true colours, or a BadSample."""

import dataclasses
import itertools
import os
import subprocess
import sys

import av
import numpy as np
import pytest
import torch

from tests.barcode import HEIGHT, WIDTH, make_clip, numbers, picture
from tests.video.clips import CLIPS, FRAMES, ORIENTATIONS, ask_at_random, patch_matrix, refused
from vidiff.types import BadSample
from vidiff.video import (
    Limits,
    fit,
    probe,
    read_frames,
)
from vidiff.video.reading import read_pyav


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


def test_importing_it_imports_no_codec():
    code = "import sys, vidiff.video; print([m for m in ('av', 'PIL', 'decord', 'torchvision') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
