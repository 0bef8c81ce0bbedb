"""tokenizer + conditioner + backbone + objective: a batch in, losses out; noise in, video out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.caching import CacheRun, Caching
from vidiff.diffusion.estimate import EstimateFn
from vidiff.diffusion.guidance import Branch, Guidance
from vidiff.diffusion.noise import PriorRandom
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Known, Sampling, Task
from vidiff.diffusion.times import times_on
from vidiff.diffusion.transfer import transfer
from vidiff.guided import GuidedRun
from vidiff.random import Random
from vidiff.types import Batch, Cond, Grid, Origin, join
from vidiff.video import to_float


class Diffuser(nn.Module):
    """The four components of a model, wired."""

    def __init__(self, tokenizer: nn.Module, conditioner: nn.Module, backbone: nn.Module, objective: Objective):
        super().__init__()
        self.tokenizer, self.conditioner = tokenizer, conditioner
        self.backbone, self.objective = backbone, objective
        clocks = (getattr(module, "base_fps", None) for module in backbone.modules())
        self.base_fps: float | None = next((fps for fps in clocks if fps), None)

    def forward(self, batch: Batch, random: Random) -> dict[str, Tensor]:
        """batch["video"] uint8 (B,C,T,H,W) -> {"loss": (), "mse": (B,), "time": (B,)}.

        Every draw (dropped conditions, times, noise) comes from `random`, row by row, and from dice of its own: another
        conditioner or density moves no noise.
        """
        z = self.encode(batch["video"])
        drop = self.draw_drop(random.stream("drop"), len(z)).to(z.device)
        entries = self.objective.entries(z, random.stream("entries"))
        told = {**batch, "latent": z, **entries}
        cond = self.condition(told, drop)
        if self.objective.needs_null:
            with torch.no_grad():
                cond = replace(cond, without=self.condition(told, torch.ones_like(drop)))
        return self.objective.loss(self.backbone, z, cond, random)

    @property
    def device(self) -> torch.device:
        """Where its weights are, or the numbers of a model without any."""
        return next(chain(self.parameters(), self.buffers())).device

    def draw_drop(self, random: Random, num: int) -> Tensor:
        """Which conditions are dropped: (num,) bool, or (num,k) for a conditioner of k independent probabilities."""
        probability = torch.tensor(self.conditioner.drop, device=random.device)
        return random.uniform((num, *probability.shape)) < probability

    def condition(self, batch: Batch, drop: Tensor) -> Cond:
        """What the conditioner makes of a batch, with a note of what it was made from.

        Where positions go by the clock, also where each clip's tokens are: no condition, so it is never dropped.
        """
        places = {} if self.base_fps is None else {"coords": self.places(batch, drop.device)}
        return replace(self.conditioner(batch, drop), origin=Origin(batch, drop), **places)

    def places(self, batch: Batch, device: torch.device) -> Tensor:
        """batch["fps"] (B,) -> (B,N,3) t, h, w of every token; t in latent frames at `base_fps`.

        The grid is that of batch["latent"], or batch["grid"] where there is no clip yet.
        """
        grid = batch["grid"] if "grid" in batch else Grid(*batch["latent"].shape[1:])
        index = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float32, device=device) for n in grid[1:]))
        spacing = self.base_fps / batch["fps"].to(device, torch.float32)
        return torch.stack([torch.stack([spacing, *torch.ones(2, len(spacing), device=device)], dim=-1)], dim=1) * index

    @property
    def reads(self) -> frozenset[str]:
        """The batch entries that the conditioner needs, and positions that go by the clock."""
        return getattr(self.conditioner, "reads", frozenset()) | ({"fps"} if self.base_fps else frozenset())

    @property
    def also(self) -> frozenset[str]:
        """The batch entries that the conditioner takes where there are any."""
        return getattr(self.conditioner, "also", frozenset())

    def encode(self, video: Tensor) -> Tensor:
        """uint8 or [-1,1] video (B,C,T,H,W) -> z (B,c,t,h,w); without gradient when the tokenizer is frozen."""
        video = to_float(video)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.tokenizer.frozen):
            return self.tokenizer.encode(video)

    def conditions(self, batch: Batch, num: int, drop: Tensor | None = None) -> tuple[Cond, Cond]:
        """The condition of a batch of `num`, and beside it the null condition, in which everything is dropped.

        With texts as "negative" in the batch it is told those in the place of no text.
        """
        device = self.device
        keep = torch.zeros(num, dtype=torch.bool, device=device)
        if ("latent" in self.reads or self.base_fps) and "latent" not in batch and "video" in batch:
            batch = {**batch, "latent": self.encode(batch["video"])}
        cond = self.condition(batch, keep if drop is None else drop)
        if "negative" not in batch:
            return cond, self.condition(batch, ~keep)
        return cond, self.condition({**batch, "text": batch["negative"]}, self.all_but_text(num).to(device))

    def all_but_text(self, num: int) -> Tensor:
        """Every condition dropped but those that read a text: (num,) bool or, with several, (num,k)."""
        parts = getattr(self.conditioner, "parts", None)
        dropped = False if parts is None else [*("text" not in part.reads for part in parts), False]
        return torch.tensor(dropped).expand(num, *torch.tensor(dropped).shape)

    def estimator(
        self,
        guidance: Guidance,
        batch: Batch,
        num: int,
        watch: Callable[[], None] = lambda: None,
        caching: Caching = CacheRun,
    ) -> EstimateFn:
        """The guided estimate as a function of (x_t, t); `watch` is called before each evaluation.

        What `caching` makes keeps the state of this run.
        """
        return self.guided(guidance, *self.conditions(batch, num), watch, caching)

    def prepared(self, conds: Sequence[Cond]) -> list[Cond]:
        """Conditions with what the backbone makes of them once for all x_t and times, in one call for all of them."""
        prepare = getattr(self.backbone, "prepare", None)
        ready = prepare(join(conds)).prepared if prepare else None
        if ready is None:
            return list(conds)
        parts = zip(*(part.chunk(len(conds)) for part in ready), strict=True)
        return [replace(cond, prepared=part) for cond, part in zip(conds, parts, strict=True)]

    def guided(
        self,
        guidance: Guidance,
        cond: Cond,
        uncond: Cond,
        watch: Callable[[], None] = lambda: None,
        caching: Caching = CacheRun,
    ) -> EstimateFn:
        """`estimator` for conditions that were made already."""
        run = GuidedRun(self.backbone, self.objective, watch, caching())
        wanted = [cond, uncond] if getattr(guidance, "needs_uncond", True) else [cond]
        cond, uncond = [*self.prepared(wanted), uncond][:2]
        return run.estimate(guidance, Branch(cond), Branch(uncond), partial(self.with_only, cond))

    def with_only(self, cond: Cond, parts: Sequence[int]) -> Branch:
        """Of a condition by `several` what these parts say; the others are dropped."""
        dropped = cond.origin.drop
        left_out = [i not in parts for i in range(len(self.conditioner.drop) - 1)]
        drop = torch.tensor([*left_out, False], device=dropped.device)
        dropped = dropped[:, None] if dropped.ndim == 1 else dropped
        return Branch(*self.prepared([self.condition(cond.origin.batch, dropped | drop)]))

    @torch.no_grad()
    def sample(
        self,
        grid: Grid,
        sampler: Sampler,
        guidance: Guidance,
        random: Random,
        batch: Batch | None = None,
        watch: Callable[[], None] = lambda: None,
        task: Task | None = None,
        notes: dict[str, Any] | None = None,
        caching: Caching = CacheRun,
    ) -> Tensor:
        """Draw one video per row of `random` -> (B,C,T,H,W), about [-1,1].

        `batch` holds what the conditioner reads (labels, text, videos to take frames from) and, for a `task` that takes
        them, given videos; into `notes` goes what the task has to report. Sample i depends on its own row only.
        """
        objective, device, batch = self.objective, self.device, batch or {}
        task = Task() if task is None else task
        path, interval = objective.path, objective.interval
        if sampler.path is not None:
            path, interval = sampler.path, (0.0, 1.0)

        def believe(known: Known | None) -> EstimateFn:
            shown = known is not None and "latent" in self.reads
            told = {**batch, "latent": known.shown, "known": known.frames} if shown else batch
            told = {**told, "grid": Grid(*grid)} if self.base_fps else told
            estimate = self.estimator(guidance, told, len(random.rows), watch, caching)
            return estimate if sampler.path is None else transfer(estimate, objective.path, path, objective.interval)

        sampling = Sampling(
            sampler, path, times_on(device, sampler.spacing(sampler.steps, path, interval)),
            PriorRandom(objective.noise, random), Grid(*grid), device, believe, objective.framewise,
            notes={} if notes is None else notes,
        )  # fmt: skip
        if task.pixels is not None:
            given = to_float(batch["video"]).where(task.pixels.to(device), 0.0)  # nothing unknown reaches an encoder
            sampling.known = Known(self.encode(given), task.cells.to(device))
        return self.tokenizer.decode(task(sampling))
