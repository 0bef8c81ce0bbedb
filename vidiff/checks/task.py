"""What every task promises, on a tiny model with a real tokenizer: vidiff.diffusion.task.Task."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from vidiff.building import Plan, build_diffuser, plan
from vidiff.checks.parts import Beside, apart, require, watched_dice
from vidiff.config import load
from vidiff.diffuser import Diffuser
from vidiff.diffusion.task import Canvas, Task
from vidiff.random import Random
from vidiff.registry import Component, build
from vidiff.types import Grid

CONFIG = """\
data: {name: stand_in, shape: [1, 8, 8, 12], num_classes: 5, clips: 9}
tokenizer: {name: tubelet, size: [2, 4, 4]}
backbone: {name: dit_joint, dim: 32, depth: 2, num_heads: 2}
conditioner: label
objective: diffusion_forcing
sampler: {name: euler, steps: 4}
"""


@cache
def model() -> tuple[Plan, Diffuser]:
    """A plan, and its model with weights that answer something."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        file = Path(folder) / "tiny.yaml"
        file.write_text(CONFIG)
        planned = plan(load(file))
        diffuser = build_diffuser(planned.config, planned.dataset).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in diffuser.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=g))
    return planned, diffuser


def make(component: Component) -> Task:
    """A tiny one. Raises Beside for one that this model or its sampler does not go with."""
    planned, diffuser = model()
    tokenizer = diffuser.tokenizer
    task = component.build(
        component.tiny, canvas=Canvas(planned.shape, Grid(*tokenizer.latent_shape(planned.shape)), tokenizer)
    )
    try:
        task.check(planned.sampler, diffuser.objective, diffuser.reads)
    except ValueError as why:
        raise Beside(str(why)) from None
    return task


def batch(rows: list[int]) -> dict[str, Any]:
    """The clips of these numbers and their labels."""
    items = [model()[0].dataset[i] for i in rows]
    return default_collate([{k: item[k] for k in ("video", "label")} for item in items])


def sampled(task: Task, rows: list[int], given: dict[str, Any] | None = None, calls: Any = None, **more: Any) -> Tensor:
    """Videos (B,1,T,8,12) in [-1,1]."""
    planned, diffuser = model()
    dice = Random(0, "sample", rows=rows)
    asked = (planned.grid, planned.sampler, build("guidance", "none"), dice, given or batch(rows))
    return diffuser.sample(*asked, calls, task, **more) if calls else diffuser.sample(*asked, task=task, **more)


def draws_finite_videos(component: Component) -> None:
    """It draws videos (B,C,T,H,W) of the given height and width, finite and not of one colour, and what it notes are
    numbers or lists of them."""
    notes: dict[str, Any] = {}
    out = sampled(make(component), [3, 1], notes=notes)
    fits = out.ndim == 5 and (*out.shape[:2], *out.shape[3:]) == (2, 1, 8, 12)
    require(fits, f"it gives {tuple(out.shape)} for two videos (1,8,8,12).")
    require(out.isfinite().all() and out.std() > 0, "they are not finite, or of one colour.")
    plain = [key for key, v in notes.items() if not isinstance(v, (list, float, int))]
    require(not plain, f"the notes {', '.join(plain)} are no numbers.")


def videos_keep_apart(component: Component) -> None:
    """A video is the same in any company, comes again, and throws its own dice only (`sampling.random`)."""
    task = make(component)
    with watched_dice():
        many, again, alone = sampled(task, [3, 1, 4]), sampled(task, [3, 1, 4]), sampled(task, [1])
    off = apart(alone[0], many[1], 1e-5)
    require(off <= 0, f"video 1 differs by {off + 1e-5:.3g} alone and among three.")
    require(torch.equal(many, again), "the same run comes out otherwise a second time.")


def part_of(task: Task) -> Tensor:
    """The pixels (T,H,W) that it takes. Raises Beside when it takes no part of given videos."""
    if task.pixels is None or task.pixels.all():
        raise Beside("it takes no part of given videos")
    return task.pixels


def what_is_known_comes_back(component: Component) -> None:
    """The pixels that are given are in the video as they were, and the others are not the given ones."""
    task = make(component)
    known, given = part_of(task), batch([2, 5])
    out, clips = sampled(task, [2, 5])[:, :, :8], given["video"].float() / 127.5 - 1
    known = known.expand(out.shape)
    require(torch.equal(out[known], clips[known]), "known pixels come back otherwise.")
    apart_by = (out[~known] - clips[~known]).abs().mean().item()
    require(apart_by > 0.05, f"unknown pixels are those of the given video, to {apart_by:.2g}.")


def what_is_unknown_is_not_looked_at(component: Component) -> None:
    """Other pixels where nothing is known give the same video: blank them before the tokenizer mixes neighbours, or
    what is to be found has been seen."""
    task = make(component)
    known, given = part_of(task), batch([2, 5])
    other = {**given, "video": torch.where(known, given["video"], 255 - given["video"])}
    one, two = sampled(task, [2, 5], given), sampled(task, [2, 5], other)
    require(torch.equal(one, two), f"the videos differ by {(one - two).abs().max().item():.3g}.")


def counts_its_evaluations(component: Component) -> None:
    """`evaluations(sampler)` is how often the network is asked for a video: costs are compared by it."""
    task, calls = make(component), []
    promised = task.evaluations(model()[0].sampler)
    if promised is None:
        raise Beside("only the run itself can tell")
    sampled(task, [0], calls=lambda: calls.append(1))
    require(len(calls) == promised, f"{len(calls)} calls, `evaluations` says {promised}.")


CHECKS = (draws_finite_videos, videos_keep_apart, what_is_known_comes_back, what_is_unknown_is_not_looked_at,
          counts_its_evaluations)  # fmt: skip
