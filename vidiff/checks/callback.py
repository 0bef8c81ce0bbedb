"""What every callback promises: it looks at training and does not change it. Asked with a trainer of tiny parts."""

from __future__ import annotations

import copy
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import default_collate

from vidiff.checks.parts import Beside, require, watched_dice
from vidiff.checks.task import model
from vidiff.diffuser import Diffuser
from vidiff.errors import Interrupted
from vidiff.random import Random
from vidiff.registry import Component
from vidiff.video import to_uint8


@dataclass
class Watched:
    """The console, TensorBoard's board and the journal of a run, with what they were told."""

    said: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    recorded: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str = "") -> None:
        """A line on the console."""
        self.said.append(text)

    def video(self, tag: str, video: Any, step: int, fps: float) -> None:
        """Videos in TensorBoard."""
        self.shown.append(tag)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers in TensorBoard."""
        self.shown += values

    def text(self, tag: str, text: str) -> None:
        """Text in TensorBoard."""
        self.shown.append(tag)


class PlainTrainer:
    """What callbacks may use of vidiff.engine.train.Trainer, around a tiny model that nobody trains."""

    def __init__(self, folder: Path, stops: bool = False):
        """`stops`: a signal has come, which `check_interrupt` says."""
        plan, diffuser = model()
        self.plan, self.config, self.dataset = plan, plan.config, plan.dataset
        self.diffuser, self.averaged = copy.deepcopy(diffuser), copy.deepcopy(diffuser)
        self.diffuser.train()
        self.optimizer = torch.optim.SGD(self.diffuser.parameters(), lr=0.1)
        self.watched = self.console = self.board = Watched()
        self.run, self.world = SimpleNamespace(path=folder), SimpleNamespace(device=torch.device("cpu"), rank=0, size=1)
        self.step, self.lr, self.interrupted, self.stops, self.asked = 6, 0.1, "", stops, 0

    def model(self, weights: str = "ema") -> Diffuser:
        """The averaged weights, or the raw ones."""
        return self.averaged if weights == "ema" else self.diffuser

    def draw(
        self, num: int, weights: str = "ema", batch_size: int = 8, shape: tuple[int, int, int, int] | None = None
    ) -> Any:
        """`num` videos of fixed seeds."""
        self.check_interrupt()
        asked = (self.plan.grid, self.plan.sampler, self.plan.guidance, Random(0, "sample", rows=range(num)))
        labels = {"label": torch.arange(num) % self.dataset.num_classes}
        net = self.model(weights)
        was_training = net.training
        video = to_uint8(net.eval().sample(*asked, labels))
        net.train(was_training)
        evaluations, conditions = self.plan.sampler.evaluations, [{"label": int(k)} for k in labels["label"]]
        return SimpleNamespace(video=video, conditions=conditions, seconds=0.1, evaluations=evaluations, notes={},
                               cache={}, broken=[])  # fmt: skip

    def panel(self, split: str, num: int, batch_size: int) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """The first clips, in batches, with their row numbers."""
        for start in range(0, num, batch_size):
            self.check_interrupt()
            rows = list(range(start, min(start + batch_size, num)))
            yield default_collate([self.dataset[i] for i in rows]), rows

    def autocast(self) -> Any:
        """fp32."""
        return nullcontext()

    def record(self, values: Mapping[str, float]) -> None:
        """Numbers of this step."""
        self.watched.recorded |= values

    def check_interrupt(self, _: int = 0) -> None:
        """Raises Interrupted when a signal has come."""
        self.asked += 1
        if self.stops:
            raise Interrupted("a signal")


@contextmanager
def elsewhere() -> Iterator[tuple[Path, Path]]:
    """An empty working folder and an empty run folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        here, run = Path(folder) / "here", Path(folder) / "run"
        here.mkdir()
        run.mkdir()
        os.chdir(here)
        try:
            yield here, run
        finally:
            os.chdir(before)


def make(component: Component, **settings: Any) -> Any:
    """A tiny one. Raises Beside for one that refuses this model."""
    callback = component.build({**component.tiny, **settings})
    try:
        getattr(callback, "check", lambda diffuser: None)(model()[1])
    except ValueError as why:
        raise Beside(str(why)) from None
    return callback


def called(component: Component, times: int = 1) -> PlainTrainer:
    """The trainer after so many calls at one step."""
    callback = make(component)
    with elsewhere() as (_, run):
        trainer = PlainTrainer(run)
        for _ in range(times):
            callback(trainer)
    return trainer


def state(net: Diffuser) -> Sequence[Any]:
    """Weights, whether they train, and modes."""
    weights = [p.detach().clone() for p in net.state_dict().values()]
    return [weights, [p.requires_grad for p in net.parameters()], [m.training for m in net.modules()]]


def says_when(component: Component) -> None:
    """`every` is an int of at least 1, the one that was set: it is called after every so many steps and the last."""
    callback = make(component, **({"every": 7} if "every" in component.settings else {}))
    every = getattr(callback, "every", None)
    require(type(every) is int and every >= 1, f"`every` is {every!r}.")
    require("every" not in component.settings or every == 7, f"`every` is {every} where 7 was set.")


def leaves_training_alone(component: Component) -> None:
    """Weights, averages, gradients, modes (train, eval) and requires_grad are as they were: with the callback and
    without it, the run ends with the same bits."""
    callback = make(component)
    with elsewhere() as (_, run):
        trainer = PlainTrainer(run)
        nets = {"the raw weights": trainer.diffuser, "the averaged weights": trainer.averaged}
        before = {name: copy.deepcopy(state(net)) for name, net in nets.items()}
        callback(trainer)
    for name, net in nets.items():
        (weights, trains, modes), (old, trained, old_modes) = state(net), before[name]
        require(all(map(torch.equal, weights, old)), f"{name} are others.")
        require(trains == trained, f"requires_grad of {name} is another.")
        require(modes == old_modes, f"{name} are left in another mode: put back what net.training was.")
        require(all(p.grad is None for p in net.parameters()), f"{name} have gradients: use torch.no_grad().")
    require(not trainer.optimizer.state and trainer.optimizer.param_groups[0]["lr"] == 0.1, "the optimizer is another.")
    require(trainer.step == 6, f"trainer.step is {trainer.step}, it was 6.")


def records_numbers(component: Component) -> None:
    """What it records has names without spaces and finite plain numbers: they go to metrics.jsonl and TensorBoard."""
    found = called(component).watched.recorded
    if not found:
        raise Beside("it records no numbers")
    odd = [k for k in found if not isinstance(k, str) or not k or " " in k]
    require(not odd, f"{odd[:1]} is no name such as val/loss.")
    numbers = {k: v for k, v in found.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    require(
        numbers.keys() == found.keys(), f"{sorted(found.keys() - numbers.keys())} are no plain numbers: use float()."
    )
    require(all(map(math.isfinite, numbers.values())), f"{[k for k, v in numbers.items() if not math.isfinite(v)]}.")


def says_the_same_again(component: Component) -> None:
    """At the same step of the same run it records the same, without a global generator and without a memory of its
    own, which a resumed run would not have: draw from vidiff.random.Random, keyed by row. Seconds and memory, which are
    another each time, are called perf/... and mem/...."""
    called(component)  # what is loaded late is loaded now
    with watched_dice():
        first = called(component)
    for times, when in ((1, "from a new one"), (2, "at a second call")):
        again = called(component, times).watched.recorded
        names = {k for k in (*again, *first.watched.recorded) if not k.startswith(("perf/", "mem/"))}
        differs = sorted(k for k in names if again.get(k) != first.watched.recorded.get(k))
        require(not differs, f"{', '.join(differs)} differ {when}.")


def writes_into_the_run_folder_only(component: Component) -> None:
    """Files go below trainer.run.path, never into the folder one happens to be in."""
    callback = make(component)
    with elsewhere() as (here, run):
        callback(PlainTrainer(run))
        astray = sorted(p.name for p in here.iterdir())
    require(not astray, f"{', '.join(astray)} lies in the working folder.")


def can_be_interrupted(component: Component) -> None:
    """A signal that comes meanwhile ends it: what trainer.draw, panel and check_interrupt raise goes through, nothing
    is recorded, and the next call says what an undisturbed one says."""
    callback = make(component)
    with elsewhere() as (_, run):
        trainer = PlainTrainer(run, stops=True)
        try:
            callback(trainer)
        except Interrupted:
            pass
        else:
            require(not trainer.asked, "it goes on after Interrupted: do not catch it.")
            raise Beside("it asks for nothing that takes long")
        require(not trainer.watched.recorded, f"it records {', '.join(trainer.watched.recorded)} all the same.")
        trainer = PlainTrainer(run)
        callback(trainer)
    require(trainer.watched.recorded == called(component).watched.recorded, "the next call records otherwise.")


CHECKS = (says_when, leaves_training_alone, records_numbers, says_the_same_again, writes_into_the_run_folder_only,
          can_be_interrupted)  # fmt: skip
