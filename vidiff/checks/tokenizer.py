"""What every tokenizer promises: vidiff.types.Tokenizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.checks.parts import Beside, require, watched_dice
from vidiff.registry import Component
from vidiff.types import Grid

B, C, T, H, W = 2, 3, 12, 24, 36


def make(component: Component) -> nn.Module:
    """A tiny one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return component.build(component.tiny).eval()


def video(b: int = B, t: int = T, h: int = H, w: int = W) -> Tensor:
    """Random pixels in [-1,1]."""
    return torch.rand(b, C, t, h, w, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def latents_have_the_promised_shape(component: Component) -> None:
    """encode gives what latent_shape promises, a Grid of counts, and decode gives the video's shape back."""
    tokenizer = make(component)
    for sizes in ((T, H, W), (24, 12, 36), (12, 48, 24)):
        z, grid = tokenizer.encode(video(B, *sizes)), tokenizer.latent_shape((C, *sizes))
        whole = isinstance(grid, Grid) and all(isinstance(n, int) and n > 0 for n in grid)
        require(whole, f"latent_shape gives {grid!r}, no Grid of counts.")
        promised = (B, *grid)
        require(tuple(z.shape) == promised, f"encode gives {tuple(z.shape)}, latent_shape promises {promised}.")
        require(z.is_floating_point(), f"encode gives {z.dtype}, no numbers to add noise to.")
        shape = tuple(tokenizer.decode(z).shape)
        require(shape == (B, C, *sizes), f"decode gives {shape}, expected {(B, C, *sizes)}.")


@torch.no_grad()
def a_permutation_loses_nothing(component: Component) -> None:
    """Without parameters, decode(encode(x)) is x: if it is not, the two order their axes differently."""
    tokenizer = make(component)
    if any(True for _ in tokenizer.parameters()):
        raise Beside("it has parameters to learn")
    off = (tokenizer.decode(tokenizer.encode(video())) - video()).abs().max().item()
    require(off <= 1e-5, f"pixels come back off by up to {off:.3g}.")


@torch.no_grad()
def frozen_says_the_truth(component: Component) -> None:
    """`frozen` is a bool, and a tokenizer that is not frozen has something to train."""
    tokenizer = make(component)
    require(isinstance(getattr(tokenizer, "frozen", None), bool), "`frozen` is no bool.")
    trains = any(p.requires_grad for p in tokenizer.parameters())
    require(tokenizer.frozen or trains, "it is not frozen and has no parameter that trains.")


@torch.no_grad()
def videos_keep_apart(component: Component) -> None:
    """A video's latent does not depend on the others of its batch, not even when they are no numbers."""
    tokenizer, x = make(component), video()
    alone, together = tokenizer.encode(x[:1])[0], tokenizer.encode(x)[0]
    off = (alone - together).abs().max().item()
    require(off <= 1e-5, f"it differs by {off:.3g} between a batch of one and of two.")
    x[1] = torch.nan
    spoilt = tokenizer.encode(x)[0]
    require(torch.allclose(spoilt, together, atol=1e-5), "a NaN in another video arrives in it.")


@torch.no_grad()
def leaves_the_video_alone(component: Component) -> None:
    """encode does not write into the video, uses no global generator, and says the same twice."""
    tokenizer, x = make(component), video()
    with watched_dice():
        first, second = tokenizer.encode(x), tokenizer.encode(x)
    require(torch.equal(x, video()), "the video was changed.")
    require(torch.equal(first, second), "two calls give two latents.")


CHECKS = (latents_have_the_promised_shape, a_permutation_loses_nothing, frozen_says_the_truth, videos_keep_apart,
          leaves_the_video_alone)  # fmt: skip
