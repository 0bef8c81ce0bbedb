"""decord brings the same frames, in a process that may die, or is refused."""

import dataclasses
import os
import signal

import pytest
import torch

from tests.barcode import make_clip, numbers
from tests.video.clips import ORIENTATIONS, ask_at_random, patch_matrix, refused, survive
from vidiff.types import BadSample
from vidiff.video import (
    Limits,
    probe,
    read_frames,
)
from vidiff.video.decord_process import decord_process, read_decord

DECORD = ["h264_b_frames.mp4", "h264_long_gop.mkv", "vp9.webm"]


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
