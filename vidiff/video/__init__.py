"""Frames out of files, files out of frames, and the one normalisation. The only place that knows codecs.

Axes: N videos, C channels, T frames, H W. A video is uint8 (C,T,H,W).

Reading
    `probe` decodes a file once from end to end, because what a header says about its length is a claim,
    and keeps for every frame its time, whether decoding can start there, and a fingerprint of its picture.
    `read_frames` then goes straight to the frames asked for and checks each against its fingerprint; when
    a seek lands elsewhere it decodes from the start. So a frame is the one asked for or an error.
    A file cut short is as long as what decodes of it. Damage before the end refuses the file. Whatever is
    wrong with a file is a `BadSample` that names it.

The RGB rule
    8-bit RGB by the matrix and range the file states; BT.601 and limited range where it states none.
    More bits are rounded to 8, HDR is not tone-mapped, alpha is laid over black, the stored rotation and
    mirroring are applied, pixels count as square.

The readers
    `pyav` reads everything. `decord` reads H.264 and VP9 with closed GOPs only: elsewhere it returns wrong
    frames without a word. It can hang or abort on a damaged file, so it works in a process of its own.
"""

from __future__ import annotations

from vidiff.video.files import READERS, SUFFIXES, Limits, VideoInfo, printable
from vidiff.video.pixels import fit, gray, to_float, to_uint8
from vidiff.video.reading import check_reader, probe, read_frames
from vidiff.video.writing import gif_bytes, tile, write, write_gif, write_grid, write_mp4, write_npy, write_png_strip

__all__ = [
    "READERS",
    "SUFFIXES",
    "Limits",
    "VideoInfo",
    "check_reader",
    "fit",
    "gif_bytes",
    "gray",
    "printable",
    "probe",
    "read_frames",
    "tile",
    "to_float",
    "to_uint8",
    "write",
    "write_gif",
    "write_grid",
    "write_mp4",
    "write_npy",
    "write_png_strip",
]
