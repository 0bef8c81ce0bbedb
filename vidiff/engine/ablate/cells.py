"""The cells of a grid: a complete, checked configuration each, the name of its run, and how to choose some."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidiff.building import Plan, plan
from vidiff.config import Config, ConfigError, load
from vidiff.config.checking import plain
from vidiff.config.merging import Change
from vidiff.config.schema import SLOTS
from vidiff.engine.ablate.grid import MEASURE, Arm, GridFile, lookup, tree_of
from vidiff.engine.parallel import World
from vidiff.engine.preflight import preflight
from vidiff.engine.profile import Cost, cost
from vidiff.engine.run import FREE, within
from vidiff.errors import Refused
from vidiff.registry import did_you_mean, nearest

SAMPLING = tuple(key for key in SLOTS if key in FREE and key != "attention")
"""Keys that do not move the weights at all: cells that differ in nothing else are one training, sampled many times."""

OBSERVERS = ("name", "description", "log", "checkpoint", "callbacks")
"""Keys that change what is seen of a run and nothing in it; under `set:` they do not make it another run."""


@dataclass(frozen=True)
class Cell:
    """One arm with one seed: a configuration, the run that trains it and the name of its samples."""

    arm: Arm
    seed: int
    changes: tuple[Change, ...]
    """All that is done to the base, in order."""
    config: Config
    run: str
    draw: str

    @property
    def label(self) -> str:
        """`dit_joint, epsilon, seed 0`."""
        return f"{self.arm.label}, seed {self.seed}"


def cells_of(grid: GridFile) -> list[Cell]:
    """Every cell with its complete configuration. Raises ConfigError with the problems of all cells together."""
    faults = Faults(grid)
    cells = []
    for arm in grid.arms():
        with faults.of(arm):
            changes = _changes(grid, arm)
            cells += [_cell(grid, arm, seed, changes) for seed in grid.seeds]
    faults.raise_all()
    seen: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        same = seen.setdefault((cell.run, cell.draw), cell)
        if same is not cell:
            raise ConfigError([f"{grid.path}: the cells '{same.label}' and '{cell.label}' are the same experiment."])
    return cells


def check(grid: GridFile, cells: Sequence[Cell], world: World) -> tuple[dict[Arm, Plan], dict[Arm, Cost]]:
    """Plan every arm and count what it costs. Raises ConfigError with the problems of all cells together."""
    faults = Faults(grid)
    plans: dict[Arm, Plan] = {}
    for arm in dict.fromkeys(c.arm for c in cells):
        cell = next(c for c in cells if c.arm == arm)
        with faults.of(cell.arm):
            made = plan(cell.config, world.device.type)
            preflight(made, world)
            plans[cell.arm] = made
    faults.raise_all()
    runs = {cell.arm: cell.run for cell in reversed(cells)}
    counted = {runs[arm]: cost(made) for arm, made in {runs[a]: (a, m) for a, m in plans.items()}.values()}
    return plans, {arm: counted[runs[arm]] for arm in plans}


class Faults:
    """Problems of cells, each said once with the cells that have it."""

    def __init__(self, grid: GridFile):
        self.grid, self._arm = grid, Arm(())
        self.found: dict[str, dict[str, None]] = {}

    def of(self, arm: Arm) -> Faults:
        """A context whose refusals are noted for this arm."""
        self._arm = arm
        return self

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, Refused):
            return False
        for line in str(error).splitlines():
            self.found.setdefault(self._placed(line), {})[self._arm.label] = None
        return True

    def _placed(self, line: str) -> str:
        """A problem with the line of the grid that changes the component it is about, where there is one."""
        place, text = re.match(r"((?:\S+\.ya?ml:\d+: )?)(.*)", line, re.DOTALL).groups()
        changes = [*(c for p in self._arm.points for c in p.changes), *self.grid.set]
        mine = [c.place for c in changes if text.startswith((f"{c.key.partition('.')[0]} ", f"{c.key} "))]
        return f"{mine[0]}: {text}" if mine else f"{place or f'{self.grid.path}: '}{text}"

    def raise_all(self) -> None:
        """Raises ConfigError when there was any."""
        total = len(self.grid.arms())
        lines = []
        for line, labels in self.found.items():
            which = "all cells" if len(labels) == total > 1 else "; ".join(labels)
            lines.append(f"{line} [{which}]")
        if lines:
            raise ConfigError(lines)


def _changes(grid: GridFile, arm: Arm) -> list[Change]:
    """What is done to the base for an arm, the common error added where it is not measured already."""
    changes = [*grid.set, *(c for p in arm.points for c in p.changes)]
    if lookup(tree_of(changes), f"callbacks.{MEASURE}") is None:
        changes.append(Change(f"callbacks.{MEASURE}", _measure(grid, changes), f"{grid.path}:1"))
    return changes


def _cell(grid: GridFile, arm: Arm, seed: int, changes: Sequence[Change]) -> Cell:
    run, place = run_name(grid, arm, seed), f"{grid.path}:1"
    changes = (*changes, Change("seed", seed, place), Change("name", run, place))
    config = load(grid.base, changes)
    refuse_undone(changes, config)
    return Cell(arm, seed, changes, config, run, draw_name(changes, config))


def refuse_undone(changes: Sequence[Change], config: Config) -> None:
    """Raises Refused for a setting that a later change, by naming another component, has dropped again.

    Such a cell would differ from the others in more than its axes say.
    """
    tree = config.to_dict()
    for i, late in enumerate(changes):
        named = late.key.removesuffix(".name")
        for key, value, place in (leaf for early in changes[:i] for leaf in leaves(early)):
            if key.startswith(f"{named}.") and key != f"{named}.name" and not holds(lookup(tree, key), value):
                raise Refused(f"{place}: {key} is {value} here and undone by {late.key}, which comes later. "
                              f"Write it in the values of {named} themselves.")  # fmt: skip


def leaves(change: Change) -> Iterator[Change]:
    """The settings of a change one by one, those inside a mapping, too."""
    if not isinstance(change.value, Mapping):
        yield change
        return
    for word, value in change.value.items():
        yield from leaves(Change(f"{change.key}.{word}", value, change.place))


def holds(found: Any, value: Any) -> bool:
    """Whether this is what was written; a component in full is what its name says."""
    return found == plain(value) or (isinstance(found, Mapping) and found.get("name") == value)


def _measure(grid: GridFile, changes: Sequence[Change]) -> dict[str, Any]:
    """Settings of the common error: as often as the base validates, or ten times in a run."""
    config = load(grid.base, changes)
    if MEASURE in config.callbacks:
        return dict(config.callbacks[MEASURE])
    every = max(1, config.train.steps // 10)
    return {"every": config.callbacks.get("validation", {}).get("every", every)}


def run_name(grid: GridFile, arm: Arm, seed: int) -> str:
    """The folder of a run: what it is in words, its seed, and a hash of all that `set` and its axes change.

    Sampling is left out, so cells that differ in nothing else share a run; `set: {log.every: 10}` renames nothing.
    """
    settings = {c.key: plain(c.value) for c in grid.set if not within(c.key, OBSERVERS)}
    settings |= {c.key: plain(c.value) for p in arm.points for c in p.changes}
    settings = {key: value for key, value in settings.items() if not within(key, SAMPLING)}
    hashed = hashlib.sha256(json.dumps([str(grid.base.name), settings], sort_keys=True).encode()).hexdigest()[:8]
    words = [p.label for p in arm.points if not all(within(key, SAMPLING) for key in p.keys)]
    return f"{slug('+'.join(words)) or grid.base.stem}-s{seed}-{hashed}"


def draw_name(changes: Sequence[Change], config: Config) -> str:
    """The folder of a cell's samples inside its run: the sampler in words and a hash of what is changed of sampling."""
    settings = {c.key: plain(c.value) for c in changes if within(c.key, SAMPLING)}
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    sampler = config.components["sampler"]
    return f"{sampler['name']}{sampler.get('steps', '')}-{hashed}"


def slug(words: str) -> str:
    """Words as part of a file name: `optimizer lr=0.1` -> `optimizer-lr0.1`."""
    return re.sub(r"[^\w.+]+", "-", words.replace("=", "")).strip("-.")[:80]


# ---- choosing ----


def select(cells: Sequence[Cell], wanted: Sequence[str]) -> list[Cell]:
    """The cells that `--only key=value` asks for: all keys must fit, one of the values of each.

    Keys are those of the complete configuration, `label` (the arm's words) and `seed`. Raises Refused, naming what
    there is, when a choice fits no cell.
    """
    chosen: dict[str, list[str]] = {}
    for argument in wanted:
        key, equals, value = argument.partition("=")
        if not equals:
            raise Refused(f"--only '{argument}' is no choice: write key=value, as in --only objective.name=epsilon.")
        chosen.setdefault(key, []).append(value)
    for key, values in chosen.items():
        there = dict.fromkeys(value_of(cell, key) for cell in cells)
        if set(there) == {None}:
            known = [*dict.fromkeys(c.key for cell in cells for p in cell.arm.points for c in p.changes), "seed"]
            guess = nearest(key, known)
            meant = f" Did you mean '{guess}'?" if guess else f" The axes are {', '.join(known)}."
            raise Refused(f"--only {key}=…: no cell has a key '{key}'.{meant}")
        for value in values:
            if value not in there:
                known = [str(v) for v in there]
                meant = did_you_mean(value, known)
                raise Refused(f"--only {key}={value} fits no cell.{meant} There is {'; '.join(known)}.")
    return [cell for cell in cells if all(value_of(cell, key) in values for key, values in chosen.items())]


def value_of(cell: Cell, key: str) -> str | None:
    """A cell's value at a dotted key, as text."""
    if key == "label":
        return cell.arm.label
    value = lookup(cell.config.to_dict(), key)
    if isinstance(value, Mapping):
        value = value.get("name")
    return None if value is None else value if isinstance(value, str) else json.dumps(value)
