"""Drawing videos from a model: one seed per sample, so sample 7 is the same in any company."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vidiff.building import Plan, build_dataset
from vidiff.caching import Cache, Tally
from vidiff.diffuser import Diffuser
from vidiff.diffusion.guidance import Guidance
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Task
from vidiff.engine.buckets import sort_clips
from vidiff.engine.data import collate, to_device
from vidiff.engine.parallel import autocast
from vidiff.errors import Refused
from vidiff.random import Random
from vidiff.types import Grid, shapes_of
from vidiff.video import to_uint8

WITH_A_SHAPE = frozenset({"latent", "known", "camera"})
"""Entries of a clip with something for every frame or cell: of no use to a video of another shape."""


@dataclass
class Drawing:
    """Videos with what it took to draw them."""

    video: Tensor
    """uint8 (N,C,T,H,W) on the CPU."""
    conditions: list[dict[str, Any]]
    seconds: float
    evaluations: int
    """Network evaluations per video; guidance with a null branch counts as one batched evaluation."""
    notes: dict[str, Any]
    """What the task had to report."""
    cache: dict[str, Any]
    """What a cache saved and how wrong it was (`Tally.record`); empty without one."""
    broken: list[int]
    """Rows whose video holds a NaN or an infinity, which no file would show."""


def draw(
    diffuser: Diffuser,
    grid: Grid,
    sampler: Sampler,
    guidance: Guidance,
    *,
    seed: int,
    rows: Sequence[int],
    conditions: Sequence[dict[str, Any]] = (),
    batch_size: int = 8,
    precision: str = "fp32",
    watch: Callable[[int], None] = lambda done: None,
    task: Task | None = None,
    cache: Cache | None = None,
) -> Drawing:
    """Draw one video per row number; noise is a function of (seed, row) alone.

    `conditions` are batch entries per row ({"label": 3}), empty without conditions; a `task` that takes given videos
    finds them there. `watch(k)` is called
    before the k-th network evaluation (for progress and interruption).
    """
    device = diffuser.device
    began, videos, evaluations, notes = time.perf_counter(), [], 0, {}
    tally = Tally()
    caching = partial((cache or Cache()).start, tally)
    was_training = diffuser.training
    diffuser.eval()

    broken: list[int] = []

    def count() -> None:
        nonlocal evaluations
        watch(evaluations)
        evaluations += 1

    for start in range(0, len(rows), batch_size):
        part = list(rows[start : start + batch_size])
        batch = to_device(collate(conditions[start : start + batch_size]), device) if conditions else {}
        with autocast(device, precision):
            dice = Random(seed, "sample", rows=part)
            video = diffuser.sample(grid, sampler, guidance, dice, batch, count, task, notes, caching)
        finite = video.isfinite().flatten(1).all(1).tolist()
        broken += [row for row, whole in zip(part, finite, strict=True) if not whole]
        videos.append(to_uint8(video).cpu())
    diffuser.train(was_training)
    chunks = max(1, len(videos))
    seconds, kept = time.perf_counter() - began, tally.record() if tally.asked else {}
    return Drawing(torch.cat(videos), list(conditions), seconds, evaluations // chunks, notes, kept, broken)


def conditions_of(
    plan: Plan,
    rows: Sequence[int],
    label: int | None = None,
    prompts: Sequence[str] = (),
    videos: Sequence[Tensor] = (),
    negative: str | None = None,
) -> list[dict[str, Any]]:
    """What each row is conditioned on: its class, one of the prompts in turn and, where the conditioner reads more
    than that, or the task takes given videos, held-out clip number `row`; `videos` stand in for those of the clips.

    `negative` is the text of the branch that guidance compares with. Raises Refused for a label that is no class, and
    for prompts, videos or a negative text that nothing reads.
    """
    classes = class_conditions(rows, plan.dataset.num_classes, label)
    reads, name = plan.diffuser.reads, plan.config.components["conditioner"]["name"]
    if label is not None and "label" not in reads:
        raise Refused(f"conditioner {name} reads no label, so --label would change nothing; train with label.")
    if prompts and "text" not in reads:
        raise Refused(f"conditioner {name} reads no text, so a prompt would change nothing; train with text_bytes.")
    texts = [{"text": prompts[row % len(prompts)]} for row in rows] if prompts else []
    wanted = reads | {"video"} if "latent" in reads or plan.task.pixels is not None else reads
    if videos and "video" not in wanted:
        raise Refused("nothing takes a video from a file here; choose another task: task.name=sdedit, replacement, …")
    wanted = wanted - {"video", "latent"} if videos else wanted
    if wanted <= ({"label", "text"} if texts else {"label"}):
        clips = classes or [{} for _ in rows if texts or videos]
    else:
        clips = held_out_clips(plan, rows, wanted)
    files = [{"video": videos[row % len(videos)]} for row in rows] if videos else []
    against = [{"negative": negative} for _ in rows] if negative is not None else []
    if against and not ("text" in reads and plan.guidance.needs_uncond):
        why = "guidance compares with nothing" if "text" in reads else "the conditioner reads no text"
        raise Refused(f"--negative would change nothing: {why}. Use guidance.name=cfg on a model that reads text.")
    for chosen in (classes if label is not None else [], texts, files, against):
        clips = [{**clip, **entry} for clip, entry in zip(clips, chosen, strict=True)] if chosen else clips
    return clips


def held_out_clips(plan: Plan, rows: Sequence[int], wanted: frozenset[str]) -> list[dict[str, Any]]:
    """What is wanted of held-out clip number `row` among those of the plan's shape.

    A shape that no clip has takes what has no shape from clips of any. Raises Refused for what has one.
    """
    dataset = build_dataset(plan.config, "val")
    shapes, name = shapes_of(dataset), "x".join(map(str, plan.shape[1:]))
    foreign = plan.shape not in shapes
    shaped = wanted & (WITH_A_SHAPE if plan.task.pixels is None else WITH_A_SHAPE | {"video"})
    if foreign and shaped:
        others = ", ".join("x".join(map(str, shape[1:])) for shape in shapes)
        raise Refused(f"no clip of the data is {name}, and {', '.join(sorted(shaped))} of one is read. Draw {others}.")
    buckets = sort_clips(plan, dataset)
    tolerant, number = buckets.tolerant(dataset), None if foreign else shapes.index(plan.shape)
    clips = [tolerant[buckets.clip(row, number)] for row in rows]
    wanted = wanted | plan.diffuser.also
    clips = [{k: v for k, v in clip.items() if k in wanted} for clip in clips]
    if foreign and "video" in wanted:  # for its size only
        size = torch.tensor(plan.shape[2:])
        clips = [{**{k: v for k, v in clip.items() if k != "video"}, "size": size} for clip in clips]
    return clips


def class_conditions(rows: Sequence[int], num_classes: int, label: int | None = None) -> list[dict[str, Any]]:
    """The class of each row: the one asked for, or all classes in turn; empty without classes. Raises Refused."""
    if not num_classes:
        return []
    if label is not None and not 0 <= label < num_classes:
        raise Refused(f"label {label} is not a class: there are {num_classes}, 0 to {num_classes - 1}.")
    return [{"label": row % num_classes if label is None else label} for row in rows]
