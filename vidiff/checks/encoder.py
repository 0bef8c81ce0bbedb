"""What every encoder promises: vidiff.types.Encoder, a frozen view of a clean video, a grid of features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidiff.checks.parts import apart, require, watched_dice
from vidiff.registry import Component

SHAPE = (3, 4, 16, 24)


def make(component: Component) -> Any:
    """A tiny one."""
    return component.build(component.tiny, shape=SHAPE)


def video(num: int = 2, seed: int = 1) -> Tensor:
    """Random pixels in [-1,1]."""
    return torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def gives_a_grid_of_its_width(component: Component) -> None:
    """Features (B,dim,t,h,w) in float32 with `dim` as it says, as many frames as the video or half as many, finite and
    without a gradient: the encoder is not trained."""
    encoder = make(component)
    features = encoder(video())
    fits = features.ndim == 5 and features.shape[:2] == (2, encoder.dim)
    require(fits, f"it gives {tuple(features.shape)}, its dim is {encoder.dim}.")
    fits = features.shape[2] in (2, 4) and min(features.shape[3:]) >= 1
    require(fits, f"{tuple(features.shape[2:])} cells for 4 frames.")
    require(features.dtype == torch.float32, f"it gives {features.dtype}.")
    require(features.isfinite().all(), "numbers that are not finite.")
    require(not features.requires_grad, "a gradient would reach its weights: use requires_grad_(False) or no_grad.")


def videos_keep_apart(component: Component) -> None:
    """A video's features are its own whatever the batch, come again, and take no global generator: no normalization
    over the batch, no dropout."""
    encoder, clips = make(component), video(3)
    encoder(video())  # what is loaded late is loaded now
    with watched_dice():
        whole, alone, again = encoder(clips), encoder(clips[1:2]), encoder(clips)
    off = apart(alone, whole[1:2])
    require(off <= 0, f"they differ by {off + 1e-5:.3g} alone and in a batch of three.")
    require(torch.equal(again, whole), "two calls give two answers.")


def sees_every_frame(component: Component) -> None:
    """Every frame of the video changes the features."""
    encoder, clips, other = make(component), video(), video(seed=2)
    whole = encoder(clips)
    for frame in range(SHAPE[1]):
        changed = clips.clone()
        changed[:, :, frame] = other[:, :, frame]
        move = (encoder(changed) - whole).abs().max().item()
        require(move > 1e-4, f"another frame {frame} of {SHAPE[1]} moves them by {move:.1g}.")


def tells_videos_apart(component: Component) -> None:
    """The features of two videos point elsewhere: aligning with features that are nearly constant teaches nothing.
    Centre them over a clip's cells."""
    unit = torch.nn.functional.normalize(make(component)(video()).flatten(2), dim=1)
    cosine = (unit[0] * unit[1]).sum(0).mean().item()
    require(cosine < 0.99, f"their mean cosine is {cosine:.3f}.")


def a_video_of_one_grey_is_finite(component: Component) -> None:
    """A clip without any contrast has finite features: divide by a deviation that is clamped."""
    require(make(component)(torch.zeros(1, *SHAPE)).isfinite().all(), "numbers that are not finite.")


def is_built_anew_alike(component: Component) -> None:
    """Built twice it is the same: random weights are a function of settings alone, or a resumed run aligns with other
    features."""
    require(torch.equal(make(component)(video()), make(component)(video())), "two of them answer differently.")


CHECKS = (gives_a_grid_of_its_width, videos_keep_apart, sees_every_frame, tells_videos_apart,
          a_video_of_one_grey_is_finite, is_built_anew_alike)  # fmt: skip
