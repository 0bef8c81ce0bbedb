"""Text by CLIP: the tokens before and the pooled vector after its last layer, through transformers.

Radford et al. 2021 (2103.00020), sec. 2.4; as a condition of latent diffusion in 2112.10752 and 2403.03206.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidiff.lazy import prepare_torchvision
from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Count, Fraction
from zoo.conditioners.pretrained import TOY, PretrainedText

Gives = Literal["both", "tokens", "vector"]


@CONDITIONERS.register("text_clip", tiny=dict(model="toy", length=9))
class TextCLIP(PretrainedText):
    """A frozen CLIP text encoder; its pooled vector is taken to the network's width by a Linear that is trained.

    `model`: a folder that save_pretrained wrote (encoder and tokenizer), or a name on the hub. `gives`: which routes
    are used.
    """

    name = "text_clip"

    def __init__(
        self,
        model: str = "openai/clip-vit-large-patch14",
        length: Count = 77,
        gives: Gives = "both",
        drop: Fraction = 0.1,
        *,
        width: int,
    ):
        """Raises ValueError when transformers or the model cannot be had."""
        super().__init__(model, length, drop)
        self.pooled = nn.Linear(self.hidden, width) if gives != "tokens" else None
        tokens = self.hidden if gives != "vector" else 0
        self.spec = CondSpec(vector=width if self.pooled else 0, tokens=tokens, length=length if tokens else 0)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["text"] B strings, drop (B,) bool -> tokens (B,L,K), mask (B,L), vector (B,width)."""
        if drop.device.type == "meta":
            tokens = torch.empty(len(drop), self.length, self.hidden, device="meta")
            mask, pooled = torch.ones(tokens.shape[:2], dtype=torch.bool, device="meta"), tokens[:, 0]
        else:
            tokens, mask, answer = self.encode(self.prompts(batch, drop), drop.device)
            pooled = answer.pooler_output.float()
        return Cond(
            vector=self.pooled(pooled.to(self.pooled.weight.dtype)) if self.pooled else None,
            tokens=tokens if self.spec.tokens else None,
            mask=mask if self.spec.tokens else None,
        )

    def config(self, model: str) -> Any:
        """The text half of a CLIP configuration."""
        prepare_torchvision()
        import transformers

        if model == TOY:
            return transformers.CLIPTextConfig(
                vocab_size=384, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                projection_dim=16, pad_token_id=0, bos_token_id=2, eos_token_id=1,
            )  # fmt: skip
        return transformers.CLIPTextConfig.from_pretrained(model)

    def width_of(self, config: Any) -> int:
        """The width of its hidden states."""
        return config.hidden_size

    def encoder_class(self, config: Any) -> Any:
        """CLIPTextModel."""
        import transformers

        return transformers.CLIPTextModel
