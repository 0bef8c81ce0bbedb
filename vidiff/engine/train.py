"""The loop: step, log, callbacks, save.

Every draw of step s is a function of (seed, sample number), so a run that was interrupted anywhere
ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff import gate
from vidiff.building import Plan, build_dataset, build_diffuser, reshaped
from vidiff.config import Config
from vidiff.diffuser import Diffuser
from vidiff.engine.buckets import Buckets, Passes, sort_clips, table
from vidiff.engine.checkpoint import Snapshot, fill, fill_optimizer, load, optimizer_tensors
from vidiff.engine.data import BadClips, check_length, loader, to_device
from vidiff.engine.ema import Averages, curves
from vidiff.engine.log import Board, Console, Journal, Window, duration, read_journal
from vidiff.engine.optim import LearningRate, make_optimizer, parameters
from vidiff.engine.parallel import World, autocast, peak_memory_gib
from vidiff.engine.posthoc import snapshots
from vidiff.engine.preflight import rows_of_step
from vidiff.engine.run import RunFolder
from vidiff.engine.runs import read_run, start_from
from vidiff.engine.sample import Drawing, conditions_of, draw
from vidiff.engine.signals import Signals
from vidiff.engine.weights import labels_of
from vidiff.errors import Interrupted, Refused, Stopped
from vidiff.precision import widen_convolutions
from vidiff.random import Random, derive
from vidiff.registry import build
from vidiff.types import Callback


class Trainer:
    """One run: its model, data, optimizer and folder. Callbacks receive it and read what they need."""

    def __init__(
        self, plan: Plan, run: RunFolder, world: World, console: Console, flops: float = 0.0,
        buckets: Buckets | None = None,
    ):  # fmt: skip
        """`flops` of a step; `buckets` are the training clips by shape, when they are sorted already."""
        self.plan, self.config, self.run, self.world, self.console = plan, plan.config, run, world, console
        self.flops_per_step = flops
        config = self.config
        self.dataset, self.buckets = plan.dataset, buckets or sort_clips(plan)
        self.rows = rows_of_step(config, world)
        self.passes = self._passes()
        diffuser = build_diffuser(config, self.dataset, read_run).to(world.device)
        if config.train.init is not None:
            start_from(diffuser, config.train.init)
        self.diffuser = widen_convolutions(diffuser, world.device, config.train.precision)
        self.ema = average = Averages(self.diffuser, config.ema) if curves(config.ema) else None
        if average:
            self.diffuser.objective.averaged = lambda: average.module.backbone
        self.optimizer = make_optimizer(self.diffuser, config.optimizer)
        self.learning_rate = LearningRate(self.optimizer, config.schedule, config.train.steps)
        fp16 = config.train.precision == "fp16"
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=fp16) if fp16 else None
        self.callbacks: dict[str, Callback] = {
            name: build("callback", {"name": name, **settings}) for name, settings in config.callbacks.items()
        }
        self.checkpoints = run.checkpoints(config)
        self.bad = BadClips(config.train.max_bad_fraction)
        self.step, self.nonfinite, self.pending = 0, 0, []
        self.interrupted = ""
        if config.train.compile:
            for block in self.diffuser.backbone.blocks:
                block.compile()

    # ---- what callbacks use ----

    def model(self, weights: str = "ema") -> Diffuser:
        """The diffuser with the weights of its first average (the raw ones when there is none)."""
        return self.ema.module if weights == "ema" and self.ema else self.diffuser

    def draw(
        self, num: int, weights: str = "ema", batch_size: int = 8, shape: tuple[int, int, int, int] | None = None
    ) -> Drawing:
        """`num` videos (of `shape`, or the data's first) of fixed seeds, the same at every step and in every run."""
        rows, made = range(num), reshaped(self.plan, shape) if shape else self.plan
        return draw(
            self.model(weights), made.grid, made.sampler, made.guidance,
            seed=self.config.seed, rows=rows, conditions=conditions_of(made, rows),
            batch_size=batch_size, precision=self.config.train.precision, watch=self.check_interrupt, task=made.task,
            cache=made.cache,
        )  # fmt: skip

    def panel(self, split: str, num: int, batch_size: int) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """The first `num` readable clips of a split, in fixed order, on the device, with their row numbers.

        The clips of a batch have one shape.
        """
        dataset = build_dataset(self.config, split)
        check_length(dataset)
        buckets = sort_clips(self.plan, dataset)
        chunks = buckets.chunks(num, batch_size)
        clips = [[buckets.clip(row) for row in rows] for rows in chunks]
        for rows, batch in zip(chunks, loader(buckets.tolerant(dataset), clips), strict=True):
            self.check_interrupt()
            if batch["_bad"]:
                self.run.record_bad(self.step, batch["_bad"])
            if "video" not in batch:
                raise Stopped(f"no clip of the {split} split can be read; see {self.run.path}/bad_clips.jsonl")
            yield to_device(batch, self.world.device), rows

    def autocast(self):
        """The run's AMP context."""
        return autocast(self.world.device, self.config.train.precision)

    def record(self, values: Mapping[str, float]) -> None:
        """Numbers of the current step, to metrics.jsonl and TensorBoard."""
        self.journal.write(self.step, values)
        self.board.scalars(self.step, values)

    def check_interrupt(self, _: int = 0) -> None:
        """Raises Interrupted when a signal has asked to stop; long callbacks call it between batches."""
        if self.interrupted:
            raise Interrupted(self.interrupted)

    # ---- the run ----

    def fit(self) -> None:
        """Train to the last step. Raises Interrupted or Stopped after a checkpoint."""
        steps, log, save = self.config.train.steps, self.config.log.every, self.config.checkpoint.every
        self.journal = Journal(self.run.path / "metrics.jsonl", self.step)
        self.board = Board(self.run.path / "tb", self.config.log.tensorboard, self.step)
        self.board.text("config", self.config.to_yaml())
        self.began, self.first = time.perf_counter(), self.step
        self.window = Window()
        self.run.status("running", self.step, last=self.step)
        try:
            with Signals(self):
                self.call_back(self.pending)
                batches = self._batches()
                while self.step < steps:
                    self.train_step(batches)
                    if self.ema and self.ema.snapshot_due(self.step):
                        self.keep_averages()
                    if self.step % log == 0 or self.step == steps:
                        self._log()
                    self.call_back(
                        [n for n, c in self.callbacks.items() if self.step % c.every == 0 or self.step == steps]
                    )
                    if self.step % save == 0 or self.step == steps:
                        self.save()
                    self.check_interrupt()
            self.board.hparams(self.config.to_dict(), self._results())
        except (Interrupted, Stopped):
            self.save()
            raise
        except Refused as error:  # an attention that does not pass its gate
            self.run.record_attention(gate.report())
            raise Stopped(str(error)) from None
        finally:
            self.journal.close()
            self.board.close()

    def train_step(self, batches: Iterator[dict[str, Any]]) -> None:
        """One optimizer step over `accumulate` passes."""
        config, device = self.config.train, self.world.device
        self.diffuser.train()
        lr = self.learning_rate.set(self.step)
        # components may use torch's global generator (dropout does); re-keyed, it is a function of the step
        torch.manual_seed(derive(self.config.seed, "global", self.step, self.world.rank))
        parts, passes = [], self.passes(self.step)
        for rows, _ in passes:
            waited = time.perf_counter()
            batch = next(batches)
            self.window.waited += time.perf_counter() - waited
            self._count_bad(batch)
            with autocast(device, config.precision):
                losses = self.diffuser(to_device(batch, device), self._random(rows))
            loss = losses["loss"] / (len(self.rows) / len(rows))  # every clip counts alike
            if loss.requires_grad:  # not of an exact answer: its steps only measure the least loss
                (self.scaler.scale(loss) if self.scaler else loss).backward()
            parts.append({name: value.detach().float() for name, value in losses.items()})
        self._update(parts)
        self.step += 1
        self.lr = lr

    def call_back(self, names: list[str]) -> None:
        """Run callbacks; those an interruption keeps from finishing are left pending for the resumed run."""
        self.pending = list(names)
        while self.pending:
            self.callbacks[self.pending[0]](self)
            self.pending.pop(0)

    # ---- inside a step ----

    def _random(self, rows: list[int]) -> Random:
        """The dice of these rows of this step: keyed by sample number, so passes and processes do not matter."""
        total = self.config.train.batch_size
        first = self.step * total
        numbers = [first + row for row in rows]
        return Random(self.config.seed, "train", rows=numbers, first=first, total=total, device=self.world.device)

    def _update(self, parts: list[dict[str, Tensor]]) -> None:
        """Clip, check that everything is finite, step, average."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        clip = self.config.train.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(list(parameters(self.optimizer)), clip)
        sizes = [len(p["mse"]) / len(parts[0]["mse"]) for p in parts]  # passes of one shape are equal
        loss = sum(p["loss"] * size for p, size in zip(parts, sizes, strict=True)) / sum(sizes)
        finite = bool(torch.isfinite(loss)) and (bool(torch.isfinite(norm)) or self.scaler is not None)
        if finite:
            self.scaler.step(self.optimizer) if self.scaler else self.optimizer.step()
            if self.ema:
                self.ema.update(self.step + 1)
            self.nonfinite = 0
        else:
            self._nonfinite(float(loss), float(norm))
        if self.scaler:
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        times, errors = torch.cat([p["time"] for p in parts]), torch.cat([p["mse"] for p in parts])
        self.window.add(float(loss), float(norm), times.tolist(), errors.tolist())

    def _nonfinite(self, loss: float, norm: float) -> None:
        """A loss or gradient that is not a number never reaches weights, average or checkpoint."""
        self.nonfinite += 1
        first = self.step * self.config.train.batch_size
        samples = f"samples {first} to {first + len(self.rows) - 1}"
        what = f"step {self.step + 1}: loss {loss:g}, gradient norm {norm:g} ({samples})"
        if self.config.train.nonfinite == "stop" or self.nonfinite > self.config.train.max_nonfinite:
            self.optimizer.zero_grad(set_to_none=True)
            raise Stopped(
                f"{what}: not finite. The weights are those of step {self.step}; lower optimizer.lr or train.clip."
            )
        self.console.say(f"{what}: not finite, skipped ({self.nonfinite} in a row)")

    def _count_bad(self, batch: dict[str, Any]) -> None:
        """Name unreadable clips in the run folder, then stop if there are too many."""
        size = len(batch.get("video", ()))
        new = self.bad.count(size, batch["_bad"])
        if new:
            self.run.record_bad(self.step + 1, new)
            for path, reason in new:
                self.console.say(f"skipped an unreadable clip: {path}: {reason}")
        self.bad.check(size)

    def _passes(self) -> Passes:
        config = self.config.train
        return Passes(self.buckets, self.config.seed, config.batch_size, self.rows, config.accumulate)

    def _batches(self) -> Iterator[dict[str, Any]]:
        config, passes = self.config.train, self._passes()
        batches = (part.clips for step in range(self.step, config.steps) for part in passes(step))
        dataset = self.buckets.tolerant(self.dataset)
        return loader(dataset, batches, config.workers, pin=self.world.device.type == "cuda")

    # ---- saving and resuming ----

    def save(self) -> None:
        """Write a checkpoint of the current step."""
        names = {id(p): n for n, p in self.diffuser.named_parameters()}
        moments, numbers = optimizer_tensors(self.optimizer, names)
        tensors = {"model": self.diffuser.state_dict(), "optimizer": moments}
        averages, labels = self.ema.state() if self.ema else ({}, {})
        state = {
            "averages": labels,
            "seed": self.config.seed, "numbers": numbers, "bad": self.bad.state(), "pending": self.pending,
            "nonfinite": self.nonfinite, "scaler": self.scaler.state_dict() if self.scaler else None,
            "threads": torch.get_num_threads(), "torch": torch.__version__, "device": str(self.world.device),
            "world": self.world.size,
        }  # fmt: skip
        path = self.checkpoints.save(self.step, Snapshot({**tensors, **averages}, state))
        self.run.status("running", self.step, last_checkpoint=path.name)

    def keep_averages(self) -> None:
        """Keep the power-function averages of this step, to make others of them afterwards."""
        snapshots(self.run.path).save(self.step, Snapshot(self.ema.powers(), {}))

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint folder. Raises Refused when it is not intact or another model's."""
        snapshot = load(path)
        fill(self.diffuser, snapshot.tensors["model"], f"{path}/model")
        named, state = dict(self.diffuser.named_parameters()), snapshot.state
        if self.ema:
            for line in self.ema.fill(snapshot.tensors, labels_of(snapshot), state["step"]):
                self.console.say(line)
            snapshots(self.run.path).forget_after(state["step"])
        fill_optimizer(self.optimizer, named, snapshot.tensors["optimizer"], state["numbers"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.bad = BadClips(self.config.train.max_bad_fraction, **state["bad"])
        self.step, self.nonfinite = state["step"], state["nonfinite"]
        self.pending = [name for name in state["pending"] if name in self.callbacks]
        now = {"threads": torch.get_num_threads(), "torch": torch.__version__, "device": str(self.world.device)}
        changed = [f"{k} {state[k]} -> {v}" for k, v in now.items() if state[k] != v]
        if changed:
            self.console.say(f"not bit-exact any more: {', '.join(changed)}")
        self.console.say(f"resuming from {path} at step {self.step}")

    # ---- logging ----

    def show_shapes(self) -> None:
        """Clips of several shapes: say which there are and what was left out, and keep it as buckets.json."""
        if len(self.buckets.shapes) == 1:
            return
        for line in table(self.plan, self.buckets):
            self.console.say(line)
        changed = self.run.record_shapes(self.buckets.record())
        if changed and self.step:
            self.console.say("not the same data any more: other clips, or clips of other shapes (buckets.json)")

    def _results(self) -> list[str]:
        """The tags that tell how good the run has become, those of steps before it was resumed as well."""
        tags = {tag for event in read_journal(self.journal.file) for tag in event}
        return sorted(tag for tag in tags if tag == "train/loss" or tag.startswith(("val/", "eval/")))

    def _log(self) -> None:
        for case in self.run.record_attention(gate.report()):
            self.console.say(f"attention {case}: checked against the formula in float64")
        window, steps = self.window, self.config.train.steps
        rate = window.steps / window.seconds
        waited, memory = window.waited / window.seconds, peak_memory_gib(self.world.device)
        values = window.means() | {
            "train/lr": self.lr,
            "perf/steps_per_s": rate,
            "perf/clips_per_s": rate * self.config.train.batch_size,
            "perf/tokens_per_s": rate * self.config.train.batch_size * self.buckets.mean_tokens,
            "perf/data_wait": waited,
            "mem/peak_gib": memory,
        }
        if self.flops_per_step:
            values["perf/tflops"] = rate * self.flops_per_step / 1e12
        self.record(values)
        overall = (self.step - self.first) / max(time.perf_counter() - self.began, 1e-9)
        eta = duration((steps - self.step) / overall)
        self.console.say(
            f"step {self.step:>{len(str(steps))}}/{steps}  loss {values['train/loss']:.4f}  "
            f"gnorm {values['train/grad_norm']:.2f}  lr {self.lr:.1e}  {rate:.1f} it/s  "
            f"data {waited:.0%}  mem {memory:.1f}G  eta {eta}"
        )
        self.run.status("running", self.step, loss=values["train/loss"], eta_s=(steps - self.step) / overall)
        window.start()


def train(
    plan: Plan, run: RunFolder, world: World, console: Console, resume: str, flops: float,
    buckets: Buckets | None = None,
) -> None:  # fmt: skip
    """Run a configuration in its folder; `resume` is auto, none or a checkpoint's path."""
    config: Config = plan.config
    trainer = Trainer(plan, run, world, console, flops, buckets)
    if resume == "auto":
        path, damaged = trainer.checkpoints.newest_valid()
        for line in damaged:
            console.say(f"{line}; using the previous one")
        if path:
            trainer.resume(path)
    elif resume != "none":
        trainer.resume(Path(resume))
    trainer.show_shapes()
    if trainer.step >= config.train.steps:
        console.say(f"{run.path} is already trained to step {trainer.step}.")
    try:
        trainer.fit()
    except Interrupted:
        run.status("interrupted", trainer.step)
        raise
    except Stopped as error:
        with suppress(OSError):
            run.status("stopped", trainer.step, reason=str(error))
        raise
    except BaseException as error:
        with suppress(OSError):  # of a full disk: what is to be told is the error itself
            run.status("failed", trainer.step, reason=f"{type(error).__name__}: {error}")
        raise
    run.status("finished", trainer.step, seconds=round(time.perf_counter() - trainer.began, 1))
