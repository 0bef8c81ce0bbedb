"""Tasks on exact denoisers: videos of Gaussians, whose conditional distributions are known in closed form.

A deterministic sampler is then a linear map of its noise and of what is known. Every pixel is a column of that map: the
scripted dice throw unit vectors, so means and covariances come out exactly, without sampling.
"""

import torch

import zoo  # noqa: F401
from tests.frames import F64, FrameGaussian, autoregressive
from vidiff.diffusion.task import Canvas, Known, Sampling
from vidiff.random import generator
from vidiff.registry import build
from vidiff.types import Grid

FRAMES = 5
K = autoregressive(FRAMES)


class Columns:
    """Dice whose d-th throw of (1,1,t,1,P) is the d-th block of the identity, and zero in one last column."""

    def __init__(self, throws, frames=FRAMES):
        self.columns, self.frames, self.thrown, self.random = throws * frames + 1, frames, 0, self
        self.rows = [0]

    def normal(self, shape, dtype=None):
        block = torch.zeros(self.frames, self.columns, dtype=F64)
        block[:, self.thrown * self.frames : (self.thrown + 1) * self.frames] = torch.eye(self.frames, dtype=F64)
        self.thrown += 1
        return block[None, None, :, None]


class Many:
    """Dice for many independent pixels at once."""

    def __init__(self, seed=1):
        self.g, self.random, self.rows = generator(seed, "many"), self, [0]

    def normal(self, shape, dtype=None):
        return torch.randn(shape, generator=self.g, dtype=F64)


def grid_of(pixels, frames=FRAMES):
    return Grid(1, frames, 1, pixels)


def canvas(pixels, frames=FRAMES):
    return Canvas((1, frames, 1, pixels), grid_of(pixels, frames), build("tokenizer", "pixels"))


def sampling(dice, sampler="heun", steps=64, path="linear", pixels=None, covariance=K, **more):
    """A `Sampling` of clips of covariance K with an exact denoiser."""
    node = {"name": sampler} if isinstance(sampler, str) else sampler
    made, path = build("sampler", {**node, "steps": steps}), build("path", path)
    pixels = dice.columns if pixels is None else pixels
    exact = FrameGaussian(covariance).estimate(path)
    times = made.spacing(steps, path, (0.0, 1.0))
    settings = dict(believe=lambda known: exact, framewise=True) | more
    return Sampling(made, path, times, dice, grid_of(pixels, len(covariance)), torch.device("cpu"), **settings)


def take(task, at, latent):
    """Give the task these latents (t,) in every pixel."""
    mask = task.cells[..., :1].expand(at.grid)
    at.known = Known(latent[None, None, :, None, None].expand(1, *at.grid).contiguous(), mask)
    return at


def watch(at, seen):
    """Note every (x, t) that is asked."""
    exact = at.believe(None)
    at.believe = lambda known: lambda x, t: seen.append((x.clone(), t)) or exact(x, t)


def moments(out):
    """The mean (t,) and the covariance (t,t) of a linear map read off its columns."""
    columns = out[0, 0, :, 0]
    mean = columns[:, -1:]
    return mean[:, 0], (columns[:, :-1] - mean) @ (columns[:, :-1] - mean).T


def truth(known, z):
    """The mean and covariance of all frames given those of z that are known."""
    gain, left = FrameGaussian(K).conditional(known)
    mean, covariance = z.clone(), torch.zeros_like(K)
    mean[~known] = gain @ z[known]
    covariance[~known[:, None] & ~known] = left.flatten()
    return mean, covariance


Z = torch.tensor([1.3, 0.4, -0.8, -1.1, 0.6], dtype=F64)


def errors(task, steps, z=Z, **settings):
    """How far mean and covariance are from the truth, at the most."""
    at = take(task, sampling(Columns(1), steps=steps, **settings), z)
    mean, covariance = moments(task(at))
    true_mean, true_covariance = truth(task.cells[0, :, 0, 0], z)
    return (mean - true_mean).abs().max().item(), (covariance - true_covariance).abs().max().item()
