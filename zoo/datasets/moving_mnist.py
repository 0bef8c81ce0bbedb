"""The canonical Moving MNIST sequences, read from their one file.

Srivastava et al., "Unsupervised Learning of Video Representations using LSTMs" (arXiv 1502.04681): 10,000 sequences
of 20 frames with two bouncing MNIST digits, `mnist_test_seq.npy`, uint8 (20, 10000, 64, 64), time first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidiff.random import generator
from vidiff.registry import DATASETS
from vidiff.types import BadSample, Count, Fraction, Outline, Positive
from vidiff.video import printable

URL = "https://www.cs.toronto.edu/~nitish/unsupervised_video/mnist_test_seq.npy"
LARGEST = 20 * 10_000 * 64 * 64 + 1024  # bytes: the pixels and room for a header
MD5 = "be083ec986bfe91a449d63653c411eb2"  # published by torchvision beside the same address
SPLITS = ("train", "val", "test")


@DATASETS.register("moving_mnist", tiny=dict(root="moving_mnist", frames=5))
class MovingMNIST:
    """Windows of `frames` frames out of Moving MNIST's sequences; no labels.

    `root` is the folder of mnist_test_seq.npy, or such a file: uint8 (time, sequences, height, width), mapped into
    memory. `splits` are the shares of train, val and test, cut by sequence number. Training starts its window at a
    random frame at every visit, the others at the first. `horizontal_flip` mirrors a training clip with this
    probability (it makes digits unreal). With `download` a missing file is fetched over https and checked: its MD5 is
    the published one, its SHA-256 is `sha256` when given.
    Raises ValueError for a missing or foreign file, naming the path and the offline data set.
    """

    def __init__(
        self,
        root: str = "data/moving_mnist",
        frames: Count = 16,
        splits: tuple[Fraction, Fraction, Fraction] = (0.9, 0.05, 0.05),
        horizontal_flip: Fraction = 0.0,
        fps: Positive = 8.0,
        download: bool = False,
        sha256: str = "",
        *,
        seed: int,
        split: str,
    ):
        self.path = place(root)
        self.frames, self.horizontal_flip, self.fps = frames, horizontal_flip, fps
        self.seed, self.split, self.num_classes = seed, split, 0
        if download and not self.path.exists():
            fetch(self.path, sha256)
        length, count, height, width = check(self.path).shape
        if frames > length:
            raise ValueError(f"frames={frames}, but the sequences of {printable(self.path)} have {length}.")
        self.shape = (1, frames, height, width)
        self._latest = length - frames
        self._sequences = portion(count, splits, split)

    @staticmethod
    def outline(root: str, frames: int, fps: float, **_: Any) -> Outline | None:
        """Its clips where the file is missing, which is 64x64."""
        return None if place(root).exists() else Outline((1, frames, 64, 64), fps)

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """{"video": uint8 (1,T,H,W), "fps": float}. Raises BadSample when the file has gone."""
        sequence, start, flip = self._sequences[i % len(self)], 0, False
        if self.split == "train":
            draws = torch.rand(2, generator=generator(self.seed, "moving_mnist", i))
            start, flip = int(draws[0] * (self._latest + 1)), bool(draws[1] < self.horizontal_flip)
        try:
            # Mapped anew each time: nothing to carry into workers, and a lost file is noticed.
            pixels = np.load(self.path, mmap_mode="r", allow_pickle=False)[start : start + self.frames, sequence]
        except (OSError, ValueError, IndexError) as error:
            raise BadSample(printable(self.path), str(error).splitlines()[0]) from None
        video = torch.from_numpy(np.array(pixels))[None]  # (1,T,H,W)
        return {"video": video.flip(-1) if flip else video, "fps": self.fps}


def place(root: str) -> Path:
    """The file that `root` means."""
    path = Path(root).expanduser()
    return path if path.suffix == ".npy" else path / "mnist_test_seq.npy"


def portion(count: int, splits: tuple[float, float, float], split: str) -> range:
    """The sequence numbers of a split. Raises ValueError when there are none."""
    if split not in SPLITS:
        raise ValueError(f"split '{split}' is not known. Known: {', '.join(SPLITS)}.")
    if abs(sum(splits) - 1) > 1e-6:
        raise ValueError(
            f"splits {list(splits)} are the shares of train, val and test: they add up to {sum(splits):g}."
        )
    k = SPLITS.index(split)
    mine = range(round(sum(splits[:k]) * count), round(sum(splits[: k + 1]) * count))
    if not mine:
        raise ValueError(f"splits {list(splits)} leave no {split} sequence out of {count}.")
    return mine


def check(path: Path) -> np.ndarray:
    """The mapped file, when it is what it should be. Raises ValueError otherwise; loads no pixels and no pickles."""
    name = printable(path)
    if not path.is_file():
        raise ValueError(
            f"moving_mnist looked for {name} and did not find it. Put {URL} there, or set download=true, "
            "or use the data set that needs no file: moving_digits."
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name} is not a readable .npy file: {reason}") from None
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 4 or 0 in array.shape:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise ValueError(f"{name} holds {found}; Moving MNIST is uint8 (20, 10000, 64, 64), time first.")
    return array


def fetch(path: Path, sha256: str) -> None:
    """Download to a temporary name, check size and sums, rename. Raises ValueError with the remedy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    md5, sha, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    log = logging.getLogger("vidiff")
    log.info("downloading %s (0.8 GB) to %s", URL, path)
    try:
        with urllib.request.urlopen(URL, timeout=30) as source, open(part, "wb") as target:
            while block := source.read(1 << 20):
                size += len(block)
                if size > LARGEST:
                    raise ValueError(f"{URL} sends more than {LARGEST:,} bytes: not the file it was.")
                for total in (md5, sha):
                    total.update(block)
                target.write(block)
        log.info("%s: %s bytes, sha256 %s", path, f"{size:,}", sha.hexdigest())
        if md5.hexdigest() != MD5:
            raise ValueError(f"{URL} has MD5 {md5.hexdigest()}, published was {MD5} (the download is dropped).")
        if sha256 and sha.hexdigest() != sha256.lower():
            raise ValueError(f"{URL} has SHA-256 {sha.hexdigest()}, sha256={sha256} was expected.")
        os.replace(part, path)
    except OSError as error:
        raise ValueError(
            f"moving_mnist: {URL} could not be had ({error}). Put the file at {printable(path)}, "
            "or use the data set that needs no file: moving_digits."
        ) from None
    finally:
        part.unlink(missing_ok=True)
