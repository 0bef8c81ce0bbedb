"""Clips of random bytes, of any shape: for profiles, benchmarks and converted checkpoints, where only sizes matter.

A network over the latents of an autoencoder that is not at hand is described by their shape: (4,16,32,32) is
what Latte sees of 16 frames of 256x256.
"""

from __future__ import annotations

from typing import Any

import torch

from vidiff.random import derive, generator
from vidiff.registry import DATASETS
from vidiff.types import Count, Natural, Positive

SPLITS = ("train", "val", "test")


@DATASETS.register("stand_in", tiny=dict(shape=(3, 4, 6, 8), num_classes=5, clips=7))
class StandIn:
    """Independent bytes and labels; nothing can be learned from them."""

    def __init__(
        self,
        shape: tuple[Count, Count, Count, Count] = (3, 16, 32, 32),
        num_classes: Natural = 0,
        clips: Count = 1000,
        fps: Positive = 8.0,
        texts: tuple[Count, Count] | None = None,
        more_shapes: tuple[tuple[Count, Count, Count], ...] = (),
        entries: dict[str, Any] | None = None,
        *,
        seed: int = 0,
        split: str = "train",
    ):
        """`shape` (C,T,H,W), in turn with `more_shapes` (T,H,W); `texts` (L,K) of encoded texts; `entries` what else a
        conditioner reads, {name: shape}, as normal numbers.

        Raises ValueError for an unknown split.
        """
        if split not in SPLITS:
            raise ValueError(f"split '{split}' is not known. There is {', '.join(SPLITS)}.")
        self.shape, self.num_classes, self.clips, self.fps = tuple(shape), num_classes, clips, float(fps)
        self.shapes = (self.shape, *((self.shape[0], *more) for more in more_shapes))
        self.texts, self.entries = tuple(texts) if texts else None, entries or {}
        self.seed = derive(seed, "stand_in", split)

    def __len__(self) -> int:
        return self.clips

    def shape_of(self, i: int) -> tuple[int, int, int, int]:
        """(C,T,H,W) of clip i: all shapes in turn."""
        return self.shapes[i % self.clips % len(self.shapes)]

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Clip i: {"video": uint8 (C,T,H,W), "fps", "text"}; with classes "label"; with texts "text_tokens" float32
        (L,K) and "text_mask" bool (L,)."""
        dice = generator(self.seed, i)
        item = {"video": torch.randint(256, self.shape_of(i), dtype=torch.uint8, generator=dice), "fps": self.fps}
        item["text"] = f"clip {i % self.clips}"
        if self.num_classes:
            item["label"] = int(torch.randint(self.num_classes, (), generator=dice))
        if self.texts:
            words = torch.randint(1, self.texts[0] + 1, (), generator=dice)
            item["text_tokens"] = torch.randn(self.texts, generator=dice)
            item["text_mask"] = torch.arange(self.texts[0]) < words
        return item | {name: torch.randn(*shape, generator=dice) for name, shape in self.entries.items()}
