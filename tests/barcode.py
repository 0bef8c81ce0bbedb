"""Clips whose every frame carries its own number as a bar code that survives lossy compression."""

from fractions import Fraction

import av
import numpy as np

BITS, CELL, HEIGHT = 9, 16, 48
WIDTH = BITS * CELL


def picture(i: int) -> np.ndarray:
    """Frame i, uint8 (HEIGHT, WIDTH, 3): a moving background below, the bits of i as blocks on top."""
    x, y = np.arange(WIDTH)[None], np.arange(HEIGHT)[:, None]
    rgb = np.stack(np.broadcast_arrays((x + 5 * i) % 200, (3 * y + 2 * i) % 220, 40 + (x + y) // 2), axis=-1)
    for bit in range(BITS):
        rgb[:CELL, bit * CELL : (bit + 1) * CELL] = 255 * (i >> bit & 1)
    return rgb.astype(np.uint8)


def number(frame: np.ndarray) -> int:
    """The number in a frame (HEIGHT, WIDTH, 3)."""
    bars = np.asarray(frame)[4 : CELL - 4].mean(axis=(0, 2)).reshape(BITS, CELL)[:, 4:-4].mean(axis=1)
    return int(sum(1 << bit for bit in range(BITS) if bars[bit] > 127))


def numbers(video) -> list[int]:
    """The numbers in a video (3,T,H,W)."""
    return [number(frame) for frame in video.permute(1, 2, 3, 0).numpy()]


def make_clip(path, codec="libx264", frames=40, rate=25, pixels="yuv420p", stamps_ms=None, container=None, **options):
    """Encode frames 0..frames-1; `stamps_ms` sets a time for each (variable frame rate)."""
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.options = HEIGHT, WIDTH, pixels, options
        base = Fraction(1, 1000) if stamps_ms else Fraction(1, rate)
        stream.codec_context.time_base = base
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i), "rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = (stamps_ms[i] if stamps_ms else i), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def mutant(data: bytes, random) -> bytes:
    """The bytes of a file after one kind of accident."""
    b, at, size = bytearray(data), random.randrange(len(data)), random.randrange(1, 500)
    kind = random.choice(["bits", "bytes", "cut", "zero", "lost", "doubled", "swapped"])
    if kind == "bits":
        for _ in range(random.choice([1, 4, 64])):
            b[random.randrange(len(b))] ^= 1 << random.randrange(8)
    elif kind == "bytes":
        for _ in range(random.choice([1, 8, 200])):
            b[random.randrange(len(b))] = random.randrange(256)
    elif kind == "cut":
        del b[at:]
    elif kind == "zero":
        b[at : at + size] = bytes(len(b[at : at + size]))
    elif kind == "lost":
        del b[at : at + size]
    elif kind == "doubled":
        b[at:at] = b[at : at + size]
    else:
        other = random.randrange(len(b))
        b[at : at + size], b[other : other + size] = b[other : other + size], b[at : at + size]
    return bytes(b)
