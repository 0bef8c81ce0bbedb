"""An image model of timm, frame by frame (Wightman, github.com/huggingface/pytorch-image-models).

REPA (Yu et al. 2024, 2410.06940) aligns with DINOv2: model vit_base_patch14_dinov2 with its weights in a local file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vidiff.lazy import prepare_torchvision
from vidiff.registry import ENCODERS, did_you_mean
from vidiff.types import Count


@ENCODERS.register("timm", tiny=dict(model="test_vit", weights="random", size=32))
class Timm:
    """The last features of an image model. `weights` is a local file (.safetensors, .pt, .pth); nothing is downloaded.

    Frames are scaled to `size` pixels and normalised as the model's own configuration says. `weights: random` is for
    tests and controls.
    """

    def __init__(
        self, model: str = "vit_base_patch14_dinov2", weights: str = "", size: Count = 224, *, training: bool = True
    ):
        """Raises ValueError for a model timm does not know and, when there is training to do, for a missing file."""
        prepare_torchvision()
        from timm import create_model, list_models

        if model not in list_models():
            raise ValueError(f"timm has no model '{model}'.{did_you_mean(model, list_models())}")
        if training and weights != "random" and not Path(weights).expanduser().is_file():
            raise ValueError(
                f"weights: '{weights}' is no file. Download the weights of {model} yourself and name the file here "
                "(nothing is downloaded), or use encoder: random_conv, or weights: random."
            )
        self.model, self.weights, self.size, self.net = model, weights, size, None
        with torch.device("meta"):
            self.dim = create_model(model, pretrained=False, num_classes=0).num_features

    def __call__(self, video: Tensor) -> Tensor:
        """video (B,C,T,H,W) in [-1,1] -> features (B,dim,T,h,w). Raises ValueError for weights of another model."""
        if self.net is None:
            self.net = self.load()
        net = self.net.to(video.device)
        frames = rearrange(video.float(), "b c t h w -> (b t) c h w")
        frames = F.interpolate(frames, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False)
        frames = frames.expand(-1, 3, -1, -1) if frames.shape[1] == 1 else frames
        mean, std = (torch.tensor(net.pretrained_cfg[k], device=frames.device)[:, None, None] for k in ("mean", "std"))
        maps = as_map(net, net.forward_features(((frames + 1) / 2 - mean) / std))
        return rearrange(maps, "(b t) d h w -> b d t h w", b=len(video))

    def load(self) -> nn.Module:
        """The model with its weights."""
        from timm import create_model

        settings = dict(pretrained=False, num_classes=0)
        if "vit" in self.model:
            settings |= dict(img_size=self.size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = create_model(self.model, **settings)
        if self.weights != "random":
            fill(net, Path(self.weights).expanduser())
        return net.eval().requires_grad_(False)


def fill(net: nn.Module, file: Path) -> None:
    """Weights of a local file into the model, but for a classifier. Raises ValueError when they are another model's."""
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # the file may be anything
        raise ValueError(f"weights: {file} cannot be read: {(str(error) or 'empty').splitlines()[0]}") from None
    adapt = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", lambda state, net: state)
    state = adapt(state, net)  # positions of another size, names of the original code
    wanted = net.state_dict()
    missing = [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]
    strange = [k for k in state if k not in wanted and not k.startswith(("head", "fc", "classifier"))]
    if missing or strange:
        raise ValueError(f"weights: {file} are another model's: {', '.join((missing + strange)[:3])} do not fit.")
    net.load_state_dict({k: state[k] for k in wanted})


def as_map(net: nn.Module, features: Tensor) -> Tensor:
    """(B,prefix+N,D) of a transformer or (B,D,h,w), (B,h,w,D) of others -> (B,D,h,w)."""
    if features.ndim == 3:
        cells = features[:, getattr(net, "num_prefix_tokens", 0) :]
        side = round(cells.shape[1] ** 0.5)
        return rearrange(cells, "b (h w) d -> b d h w", h=side)
    return features if features.shape[1] == net.num_features else rearrange(features, "b h w d -> b d h w")
