"""decord, in a process of its own: it can hang or abort on a damaged file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidiff.video.files import (
    Limits,
    VideoInfo,
    bad,
    naming,
    one_line,
)


def read_decord(info: VideoInfo, wanted: list[int], limits: Limits, each: Callable) -> dict[int, Tensor]:
    """Frame number -> picture. The file was decoded from end to end by PyAV before; decord must agree on its times."""
    if info.codec not in ("h264", "vp9", "libvpx-vp9") or "mpegts" in info.container:
        raise bad(info.path, f"decord returns wrong frames for {info.codec} in {info.container}; use reader=pyav")
    if not info.closed:
        raise bad(info.path, "decord returns wrong frames after open GOPs and intra refresh; use reader=pyav")
    if info.pixels not in ("yuv420p", "yuvj420p"):
        raise bad(info.path, f"decord returns other colours for {info.pixels}; use reader=pyav")
    need = 3 * info.height * info.width * len(wanted)
    if need > limits.bytes:
        raise bad(info.path, f"{len(wanted)} frames are {need:,} bytes at once for decord; limit {limits.bytes:,}")
    with naming(info.path, limits):
        frames, times = decord_process().ask(info.path, wanted, limits.seconds)
    if frames.shape[1:] != (info.height, info.width, 3) or info.at(times) != wanted:
        raise bad(info.path, "decord disagrees about its frames; use reader=pyav")
    return {i: each(torch.from_numpy(frame)) for i, frame in zip(wanted, frames)}


class _DecordProcess:
    """A child that reads with decord: it may hang, abort or leak, and is replaced when it does."""

    requests_each = 500  # decord never gives all memory back

    def __init__(self):
        self._child: subprocess.Popen | None = None
        self._line: connection.Connection | None = None
        self._left = 0

    def ask(self, path: str, wanted: list[int], seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Frames uint8 (T,H,W,3) and their times (T,) in seconds. Raises ValueError with the reason."""
        if self._child is None or self._left == 0 or self._child.poll() is not None:
            self._start()
        self._left -= 1
        try:
            answer, pixels = self._exchange(path, wanted, seconds)
        except (EOFError, TimeoutError, ConnectionError) as error:
            self.close()
            raise ValueError(str(error) or "decord crashed on it") from None
        except BaseException:  # interrupted: an answer on its way would be taken for the next one
            self.close()
            raise
        if "reason" in answer:
            raise ValueError(answer["reason"])
        return np.frombuffer(pixels, np.uint8).reshape(answer["shape"]).copy(), np.array(answer["times"])

    def _exchange(self, path: str, wanted: list[int], seconds: float) -> tuple[dict[str, Any], bytes]:
        self._line.send_bytes(json.dumps([os.fsencode(path).hex(), wanted, seconds]).encode())
        if not self._line.poll(seconds):
            raise TimeoutError(f"decord did not answer within {seconds:g} s")
        answer = json.loads(self._line.recv_bytes())
        return answer, b"" if "reason" in answer else self._line.recv_bytes()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._line.close()
            self._child.kill()
            self._child.wait()
            self._child = None

    def _start(self) -> None:
        self.close()
        self._line, other = connection.Pipe()
        root = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        code = f"from vidiff.video.decord_process import serve; serve({other.fileno()})"
        self._child = subprocess.Popen(
            [sys.executable, "-c", code], start_new_session=True,  # a Ctrl-C is not for it
            pass_fds=[other.fileno()], env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        other.close()
        self._left = self.requests_each
        try:
            ready = self._line.poll(60) and self._line.recv_bytes()
        except (EOFError, ConnectionError):
            ready = False
        if not ready:
            self.close()
            raise ValueError("decord did not start")


@lru_cache(maxsize=4)
def _decord_of(process: int) -> _DecordProcess:
    return _DecordProcess()


def decord_process() -> _DecordProcess:
    """One child for each process: a forked worker must not share its parent's."""
    return _decord_of(os.getpid())


def serve(descriptor: int) -> None:
    """The child's loop: a request in, frames out, until the line closes."""
    import decord

    line = connection.Connection(descriptor)
    line.send_bytes(b"ready")
    while True:
        try:
            name, wanted, seconds = json.loads(line.recv_bytes())
        except EOFError:
            return
        # The default action of this signal ends the process even while decord holds the interpreter.
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)
        try:
            video = decord.VideoReader(os.fsdecode(bytes.fromhex(name)), num_threads=1)
            frames = video.get_batch(wanted).asnumpy()
            times = video.get_frame_timestamp([0, *wanted])[:, 0]
            answer = {"shape": frames.shape, "times": (times[1:] - times[0]).tolist()}
        except Exception as error:  # whatever it is, it is the file's: the answer carries it
            answer, frames = {"reason": f"decord: {one_line(error)}"}, None
        line.send_bytes(json.dumps(answer).encode())
        if frames is not None:
            line.send_bytes(np.ascontiguousarray(frames).reshape(-1))
        signal.setitimer(signal.ITIMER_REAL, 0)
