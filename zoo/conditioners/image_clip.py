"""A frame of the clip by CLIP's vision tower, through transformers: a token per patch and one for the whole.

Radford et al. 2021 (2103.00020); beside a text as in IP-Adapter (2308.06721) and Wan's image to video (2503.20314,
sec. 5.1), which take the hidden states before the last layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vidiff.lazy import prepare_torchvision
from vidiff.precision import no_autocast
from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Fraction
from vidiff.video import to_float
from zoo.conditioners.pretrained import TOY, Pretrained

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures CLIP was trained on, in [0,1]."""


@CONDITIONERS.register("image_clip", tiny=dict(model="toy"))
class ImageCLIP(Pretrained):
    """A frozen CLIP vision encoder looks at one frame of the clip, the first unless told; zeros are the null.

    `model`: a folder that save_pretrained wrote, or a name on the hub. `layer`: whose hidden states, -1 is the last.
    The whole frame is scaled to the encoder's square.
    """

    name = "image_clip"
    reads = frozenset({"video"})

    def __init__(
        self,
        model: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        frame: int = 0,
        layer: int = -2,
        drop: Fraction = 0.1,
    ):
        """Raises ValueError when transformers or the model cannot be had, or has no such layer."""
        super().__init__(model, drop)
        config = self.config(model)
        if not -config.num_hidden_layers - 1 <= layer <= config.num_hidden_layers:
            raise ValueError(f"conditioner=image_clip: layer={layer} of {config.num_hidden_layers} layers.")
        self.frame, self.layer, self.size = frame, layer, config.image_size
        self.places = (config.image_size // config.patch_size) ** 2 + 1
        self.spec = CondSpec(image=self.hidden)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["video"] (B,C,T,H,W) of 1 or 3 channels, uint8 or [-1,1] -> image (B,M,K). Raises ValueError."""
        if "video" not in batch:
            raise ValueError("conditioner=image_clip: the batch has no 'video' to take a frame from. Give one.")
        if drop.device.type == "meta":
            return Cond(image=torch.empty(len(drop), self.places, self.hidden, device="meta"))
        encoder, pixels = self.encoder(drop.device), self.pixels(batch["video"]).to(drop.device)
        with torch.no_grad(), no_autocast(drop.device):
            states = encoder(pixel_values=pixels, output_hidden_states=True).hidden_states
        return Cond(image=states[self.layer].float().masked_fill(drop[:, None, None], 0.0))

    def pixels(self, video: Tensor) -> Tensor:
        """video (B,C,T,H,W) -> the frame as CLIP wants it (B,3,size,size). Raises ValueError for other channels."""
        if video.shape[1] not in (1, 3) or not -video.shape[2] <= self.frame < video.shape[2]:
            raise ValueError(
                f"conditioner=image_clip: frame {self.frame} of a video of {video.shape[2]} frames and "
                f"{video.shape[1]} channels: CLIP looks at grey or colour."
            )
        picture = video[:, :, self.frame]
        picture = (to_float(picture) if picture.dtype == torch.uint8 else picture.float()) / 2 + 0.5
        picture = F.interpolate(picture, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (picture.new_tensor(x)[:, None, None] for x in (MEAN, STD))
        return (picture.expand(-1, 3, -1, -1) - mean) / std

    def config(self, model: str) -> Any:
        """The vision half of a CLIP configuration."""
        prepare_torchvision()
        import transformers

        if model == TOY:
            return transformers.CLIPVisionConfig(
                hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=12,
                patch_size=4,
            )  # fmt: skip
        return transformers.CLIPVisionConfig.from_pretrained(model)

    def width_of(self, config: Any) -> int:
        """The width of its hidden states."""
        return config.hidden_size

    def encoder_class(self, config: Any) -> Any:
        """CLIPVisionModel."""
        import transformers

        return transformers.CLIPVisionModel
