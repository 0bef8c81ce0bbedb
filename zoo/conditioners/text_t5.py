"""Text by T5's encoder, through transformers: tokens with a mask, no pooled vector.

Raffel et al. 2019 (1910.10683); as a condition in Imagen (2205.11487), PixArt, Latte, LTX and CogVideoX (T5 1.1 XXL)
and, in many languages (UMT5, 2304.09151), in Wan.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidiff.lazy import prepare_torchvision
from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Count, Fraction
from zoo.conditioners.pretrained import TOY, PretrainedText


@CONDITIONERS.register("text_t5", tiny=dict(model="toy", length=9))
class TextT5(PretrainedText):
    """A frozen T5 or UMT5 encoder.

    `model`: a folder that save_pretrained wrote (encoder and tokenizer), or a name on the hub.
    """

    name = "text_t5"

    def __init__(
        self,
        model: str = "google/t5-v1_1-xxl",
        length: Count = 128,
        drop: Fraction = 0.1,
    ):
        """Raises ValueError when transformers or the model cannot be had."""
        super().__init__(model, length, drop)
        self.spec = CondSpec(tokens=self.hidden, length=length)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["text"] B strings, drop (B,) bool -> tokens (B,L,K), mask (B,L)."""
        if drop.device.type == "meta":
            tokens = torch.empty(len(drop), self.length, self.hidden, device="meta")
            return Cond(tokens=tokens, mask=torch.ones(tokens.shape[:2], dtype=torch.bool, device="meta"))
        tokens, mask, _ = self.encode(self.prompts(batch, drop), drop.device)
        return Cond(tokens=tokens, mask=mask)

    def config(self, model: str) -> Any:
        """A T5 or UMT5 configuration."""
        prepare_torchvision()
        import transformers

        if model == TOY:
            return transformers.T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
        return transformers.AutoConfig.from_pretrained(model)

    def width_of(self, config: Any) -> int:
        """The width of its hidden states. Raises ValueError for another family."""
        self.encoder_class(config)
        return config.d_model

    def encoder_class(self, config: Any) -> Any:
        """The encoder of this family. Raises ValueError for one that is no T5."""
        import transformers

        known = {"t5": transformers.T5EncoderModel, "umt5": transformers.UMT5EncoderModel}
        if config.model_type not in known:
            raise ValueError(f"it is of the family {config.model_type}; text_t5 reads {' and '.join(known)}.")
        return known[config.model_type]
