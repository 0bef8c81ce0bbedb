"""What a configuration comes to: everything built on the meta device, every problem found, before anything heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vidiff.building.builder import Builder, Read, build_dataset, outlined
from vidiff.building.meeting import (
    check_attention,
    check_batch,
    check_cache,
    check_guidance,
    check_reads,
    check_sampler,
    try_shape,
)
from vidiff.caching import Cache
from vidiff.config import Config, ConfigError
from vidiff.diffuser import Diffuser
from vidiff.diffusion.guidance import Guidance
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Canvas, Task
from vidiff.registry import build
from vidiff.types import Dataset, Grid, shapes_of


@dataclass
class Plan:
    """What a configuration comes to: built for real where that is cheap, on the meta device where it is not.

    `shape` (C,T,H,W) and its latent `grid` are those of the videos to draw, the data set's first.
    """

    config: Config
    dataset: Dataset
    grid: Grid
    diffuser: Diffuser
    sampler: Sampler
    guidance: Guidance
    shape: tuple[int, int, int, int]
    runs: dict[str, Any] = field(default_factory=dict)
    """The other runs whose models components asked for, with what `read` said of them."""
    task: Task = field(default_factory=Task)
    cache: Cache = field(default_factory=Cache)
    notes: tuple[str, ...] = ()
    """What was not looked at, in a plan of the configuration alone."""


def plan(
    config: Config, device: str = "cpu", read: Read | None = None, training: bool = True, alone: bool = False
) -> Plan:
    """Build everything on the meta device. Raises ConfigError with every problem found.

    `read` opens the runs that components name; without it only their configurations are looked at. A model that is
    sampled only (`training` False) does not need the run it learned from. `alone`: to count what a network costs, the
    configuration is enough; files of data and other runs that are not there are noted in `notes` and not refused.
    """
    builder = Builder(config, None, read, training, alone)
    data = (lambda: outlined(config, builder.notes.append)) if alone else (lambda: build_dataset(config, "train"))
    builder.dataset = builder.attempt("data", data)
    sampler = builder.attempt("sampler", lambda: build("sampler", config.components["sampler"]))
    guidance = builder.attempt("guidance", lambda: build("guidance", config.components["guidance"], load=builder.load))
    cache = builder.attempt("cache", lambda: build("cache", config.components["cache"]))
    if builder.dataset is not None:
        builder.attempt("data", lambda: check_batch(config, builder.dataset))
    with torch.device("meta"):
        diffuser = builder.diffuser() if builder.dataset is not None else None
    if diffuser is not None:
        for shape in shapes_of(builder.dataset) if not builder.problems else []:
            builder.attempt("backbone", lambda shape=shape: try_shape(config, diffuser, builder.dataset, shape))
        builder.attempt("attention", lambda: check_attention(config, diffuser, device))
        builder.attempt("guidance", lambda: check_guidance(guidance, diffuser))
        if cache is not None and not builder.problems:
            builder.attempt("cache", lambda: check_cache(cache, diffuser, builder.grid))
        builder.attempt("sampler", lambda: check_sampler(sampler, diffuser, guidance))
        builder.attempt("conditioner", lambda: check_reads(config, diffuser, builder.dataset))
        task = builder.attempt("task", lambda: build_task(config, diffuser, tuple(builder.dataset.shape)))
        if None not in (task, sampler):
            builder.attempt("task", lambda: task.check(sampler, diffuser.objective, diffuser.reads))
    if builder.problems:
        raise ConfigError(builder.problems)
    shape = tuple(builder.dataset.shape)
    grid = Grid(*diffuser.tokenizer.latent_shape(shape))
    return Plan(config, builder.dataset, grid, diffuser, sampler, guidance, shape, builder.runs, task, cache,
                tuple(dict.fromkeys(builder.notes)))  # fmt: skip


def build_task(config: Config, diffuser: Diffuser, shape: tuple[int, int, int, int]) -> Task:
    """The task of a configuration, for videos of this shape (C,T,H,W). Raises ValueError when it does not fit them."""
    tokenizer = diffuser.tokenizer
    return build(
        "task", config.components["task"], canvas=Canvas(shape, Grid(*tokenizer.latent_shape(shape)), tokenizer)
    )


def grid_of(plan: Plan, shape: tuple[int, int, int, int]) -> Grid:
    """The latent of a video (C,T,H,W). Raises ValueError when the tokenizer cannot take it."""
    return Grid(*plan.diffuser.tokenizer.latent_shape(shape))


def reshaped(plan: Plan, shape: tuple[int, int, int, int]) -> Plan:
    """The same plan for videos of another shape (C,T,H,W). Raises ValueError when a part cannot take it."""
    try_shape(plan.config, plan.diffuser, plan.dataset, shape)
    task = build_task(plan.config, plan.diffuser, shape)
    return replace(plan, grid=grid_of(plan, shape), shape=shape, task=task)
