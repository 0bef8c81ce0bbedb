"""Files that are no videos, cost too much, bear any name or are damaged: read, or refused with a reason."""

import os
import random
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from tests.barcode import HEIGHT, WIDTH, make_clip, numbers
from tests.video.clips import FRAMES, refused, survive
from vidiff.video import (
    Limits,
    printable,
    probe,
    read_frames,
)


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


MUTATED = ["h264_b_frames.mp4", "h264_long_gop.mkv", "hevc.mp4", "vp9.webm", "mpeg4.avi", "palette.gif"]


def test_damaged_files_are_read_or_refused(clips, tmp_path):
    read, bad = survive(clips, MUTATED, 60, tmp_path)
    assert read + bad == 60 * len(MUTATED) and bad > 60


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in MUTATED if n != "palette.gif"])
def test_two_thousand_damaged_files(clips, name, tmp_path):
    """In a process of its own: no crash, no file slower than 10 s, no error but BadSample, below 1 GB."""
    code = (
        "import resource, sys; from pathlib import Path; from tests.video.clips import survive\n"
        "clip, folder = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "print(*survive(lambda name: clip, [clip.name], 2000, folder))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, str(clips(name)), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (read, bad), (peak,) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert read + bad == 2000 and peak < 1_000_000
