"""A video file: what it may cost, what was found in it, and what is wrong with it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from vidiff.types import BadSample

READERS = ("pyav", "decord")
SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".wmv", ".3gp",
)  # fmt: skip
CONTAINERS = "mov,mp4,matroska,webm,avi,gif,mpegts,mpeg,flv,ogg,asf,apng"  # no playlists, no text, no devices


@dataclass(frozen=True)
class Limits:
    """What one file may cost before it is refused: pixels per frame, frames, bytes returned, seconds."""

    pixels: int = 2**24
    frames: int = 36_000
    bytes: int = 2**31
    seconds: float = 60.0


LIMITS = Limits()


@dataclass(frozen=True)
class VideoInfo:
    """What was found by decoding a file; sizes are those of the upright picture.

    `times` (num_frames,) are seconds from the first frame. `stamps` are the frames' own timestamps, or None
    when they cannot tell frames apart; `keys` says where decoding can start, `closed` that from there on no
    picture leans on an earlier one (false for open GOPs and intra refresh).
    """

    path: str
    container: str
    codec: str
    pixels: str
    height: int
    width: int
    fps: float
    times: np.ndarray = field(repr=False)
    stamps: np.ndarray | None = field(repr=False)
    keys: np.ndarray = field(repr=False)
    marks: np.ndarray = field(repr=False)
    closed: bool

    @property
    def num_frames(self) -> int:
        """How many frames the file really decodes to."""
        return len(self.marks)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return float(self.times[-1]) + 1 / self.fps

    def at(self, seconds: Sequence[float]) -> list[int]:
        """The frame nearest to each time."""
        middles = (self.times[1:] + self.times[:-1]) / 2
        return np.searchsorted(middles, np.asarray(seconds)).tolist()


def printable(path: str | os.PathLike) -> str:
    """A file name as one line of valid text, whatever bytes it is made of."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def regular_file(path: str) -> os.stat_result:
    """Only regular files are opened: a FIFO or a device would be waited on for ever."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise bad(path, error.strerror) from None
    except ValueError as error:  # a NUL in the name
        raise bad(path, str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise bad(path, "a folder, not a file" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if status.st_size == 0:
        raise bad(path, "empty file")
    return status


@contextmanager
def naming(path: str, limits: Limits) -> Iterator[None]:
    """Whatever the libraries raise on a file becomes a BadSample that names it."""
    import av

    try:
        yield
    except BadSample:
        raise
    except av.ExitError:  # FFmpeg's own clock, while it waits for bytes
        raise late(path, limits) from None
    except (av.FFmpegError, OSError, ValueError, ArithmeticError, EOFError, LookupError, MemoryError) as error:
        raise bad(path, one_line(error)) from None


def bad(path: str | os.PathLike, reason: str | None) -> BadSample:
    return BadSample(printable(path), reason or "unreadable")


def late(path: str | os.PathLike, limits: Limits) -> BadSample:
    return bad(path, f"not decoded within {limits.seconds:g} s")


def one_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def brief(order: list[int]) -> str:
    return f"{min(order)}..{max(order)}" if order else "none"
