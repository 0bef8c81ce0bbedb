"""Reading a grid file: every key known, every problem with its line, all of them together.

What is typed beside it changes the grid where its first word is a key of grid files (seeds=[0], report.samples=2,
grid.train.steps=[10, 20]), and is one more line of `set` otherwise (train.steps=30).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidiff.config import ConfigError
from vidiff.config.merging import Change
from vidiff.config.reading import parse_override, read_yaml
from vidiff.engine.ablate.grid import Arm, Axis, GridFile, Point, has, lookup, show, speaks, text, tree_of
from vidiff.registry import did_you_mean

KEYS = ("name", "description", "base", "set", "grid", "zip", "seeds", "exclude", "match", "evaluate", "jobs", "report")
JOBS = ("where", "devices", "per_device")
REPORT = ("baseline", "metric", "better", "samples")

LATER = {
    "match": "cells of equal compute come in a later version: leave match out, or write match: none, "
    "and compare the FLOPs in the report's table.",
    "evaluate": "metrics of samples come in a later version: leave evaluate out, or write evaluate: none; "
    "the report measures val/x0_error.",
}
"""Keys of a grid that this version reads only to refuse them."""


MINE = {
    "seed": "seeds are those of the grid: write seeds: [0, 1], or seeds=[0] on the command line.",
    "name": "a run is called by what it is: leave its name out.",
}
"""Keys of a configuration that every cell gets from the grid."""


def read_grid(path: str | Path, typed: Sequence[str] = ()) -> GridFile:
    """Read a grid file and what is typed beside it. Raises ConfigError with every problem, each with its place."""
    return _Reader(Path(path), typed).grid()


class _Reader:
    """Turns the mapping of a grid file into a GridFile and collects what is wrong."""

    def __init__(self, path: Path, typed: Sequence[str]):
        self.path, self.typed = path, tuple(typed)
        self.tree, lines = read_yaml(path)
        self.places = {key: f"{path}:{line}" for key, line in lines.items()}
        self.problems: list[str] = []
        self.added = [change for argument in typed if (change := self._type(argument))]

    def place(self, *words: str) -> str:
        """'file:line' of a key (or what was typed), or of the nearest one around it."""
        known = (self.places.get(".".join(words[:end])) for end in range(len(words), 0, -1))
        return next((place for place in known if place), str(self.path))

    def _type(self, argument: str) -> Change | None:
        """Put what was typed into the tree, or give it as one more change of all cells."""
        key, value = parse_override(argument)
        section, _, rest = key.partition(".")
        if section not in KEYS:
            return Change(key, value, f"'{argument}'")
        if not rest:
            self.tree[section] = value
        elif isinstance(node := self.tree.get(section) or {}, Mapping):
            self.tree[section] = {**node, rest: value}
        self.places[key] = f"'{argument}'"
        return None

    def problem(self, words: Sequence[str], text: str) -> None:
        self.problems.append(f"{self.place(*words)}: {text}")

    def grid(self) -> GridFile:
        tree = self.tree
        self._known((), tree, KEYS)
        for key, words in LATER.items():
            if tree.get(key) not in (None, "none"):
                self.problem([key], words)
        name = self._value(["name"], tree.get("name", self.path.stem), str, "the name of a folder")
        if isinstance(name, str) and not re.fullmatch(r"\w[\w.+-]*", name):
            self.problem(["name"], f"name is '{name}': it names a folder, so letters, digits, '.', '_', '+', '-' only.")
        base = self._value(["base"], tree.get("base", ""), str, "the YAML file that all cells start from")
        if not base:
            self.problem(["base"], "base is missing: name the YAML file that all cells start from.")
        zipped = self._zip()
        made = GridFile(
            self.path, name, self.path.parent / str(base),
            set=(*self._changes("set"), *self.added),
            axes=(*self._grid(), *([zipped] if zipped else [])),
            seeds=self._seeds(), exclude=self._exclude(),
            description=self._value(["description"], tree.get("description", ""), str, "text"), typed=self.typed,
        )  # fmt: skip
        self._once(made)
        self._jobs(made)
        self._report(made)
        self._refers(made)
        if self.problems:
            raise ConfigError(self.problems)
        return made

    # ---- the parts ----

    def _changes(self, key: str) -> list[Change]:
        return [Change(k, v, self.place(key, k)) for k, v in self._mapping(key).items()]

    def _grid(self) -> list[Axis]:
        return [
            Axis(key, tuple(Point(text(key, v), (Change(key, v, self.place("grid", key)),)) for v in values))
            for key, values in self._lists("grid").items()
        ]

    def _zip(self) -> Axis | None:
        lists = self._lists("zip")
        labels = lists.pop("label", None)
        lengths = {key: len(values) for key, values in ({**lists, "label": labels} if labels else lists).items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            self.problem(["zip"], f"the lists of zip move together and must be equally long: {told}.")
            return None
        if not lists:
            return None
        rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        names = [str(x) for x in labels] if labels else [", ".join(text(k, v) for k, v in row.items()) for row in rows]
        points = [
            Point(label, tuple(Change(k, v, self.place("zip", k)) for k, v in row.items()))
            for label, row in zip(names, rows, strict=True)
        ]
        if len(set(names)) < len(names):
            self.problem(["zip", "label"], "the labels of zip must differ.")
        return Axis("label" if labels else " + ".join(lists), tuple(points), named=labels is not None)

    def _once(self, made: GridFile) -> None:
        """No key may be changed twice: the later change would undo the earlier one without a word."""
        axes = [(key, p.changes[i].place) for a in made.axes for p in a.points[:1] for i, key in enumerate(p.keys)]
        keys = [key for key, _ in axes]
        for key, place in [*((c.key, c.place) for c in made.set), *axes]:
            if key in MINE:
                self.problems.append(f"{place}: {MINE[key]}")
        for change in made.set:
            if change.key in keys:
                told = f"{change.place}: {change.key} is an axis of the grid, so every cell has its own: "
                self.problems.append(told + f"choose cells with --only, or change the list of {change.key}.")
        for i, (key, place) in enumerate(axes):
            if key in keys[:i]:
                self.problems.append(f"{place}: {key} is an axis already.")

    def _lists(self, section: str) -> dict[str, list[Any]]:
        lists = {}
        for key, values in self._mapping(section).items():
            if not isinstance(values, list) or not values:
                self.problem([section, key], f"{section}: {key} is {show(values)}: write a list of its values.")
            elif any(values.count(v) > 1 for v in values) and section == "grid":
                self.problem([section, key], f"{section}: {key} names a value twice.")
            else:
                lists[key] = values
        return lists

    def _seeds(self) -> tuple[int, ...]:
        seeds = self.tree.get("seeds", [0])
        fine = isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)
        if not fine or len(set(seeds)) < len(seeds):
            self.problem(["seeds"], f"seeds is {show(seeds)}: write a list of different integers of at least 0.")
            return (0,)
        return tuple(seeds)

    def _exclude(self) -> tuple[Mapping[str, Any], ...]:
        entries = self.tree.get("exclude") or []
        if not isinstance(entries, list) or not all(isinstance(e, Mapping) and e for e in entries):
            self.problem(["exclude"], "exclude is a list of mappings: [{backbone.name: unet3d, train.steps: 100}].")
            return ()
        return tuple(entries)

    def _jobs(self, made: GridFile) -> None:
        jobs = self._mapping("jobs")
        self._known(("jobs",), jobs, JOBS)
        if jobs.get("where", "local") != "local":
            where = jobs["where"]
            hint = "slurm comes in a later version" if where == "slurm" else "there is local"
            self.problem(["jobs", "where"], f"jobs.where is {show(where)}: {hint}; write where: local.")
        devices = jobs.get("devices", "auto")
        listed = isinstance(devices, list) and devices and all(isinstance(d, str) for d in devices)
        if not (isinstance(devices, str) or listed):
            self.problem(["jobs", "devices"], f"jobs.devices is {show(devices)}: write auto, or a list: [cuda:0, cpu].")
        else:
            made.devices = tuple(devices) if listed else devices
        made.per_device = self._number(("jobs", "per_device"), jobs.get("per_device", 1), 1)

    def _report(self, made: GridFile) -> None:
        report = self._mapping("report")
        self._known(("report",), report, REPORT)
        made.metric = self._value(["report", "metric"], report.get("metric", made.metric), str, "a tag: val/x0_error")
        made.better = report.get("better", made.better)
        if made.better not in ("lower", "higher"):
            self.problem(["report", "better"], f"report.better is {show(made.better)}: write lower or higher.")
        made.samples = self._number(("report", "samples"), report.get("samples", made.samples), 0)
        baseline = report.get("baseline") or {}
        if not isinstance(baseline, Mapping):
            self.problem(["report", "baseline"], "report.baseline is a mapping: {backbone.name: dit_joint}.")
        else:
            made.baseline = baseline

    def _refers(self, made: GridFile) -> None:
        """Exclusions and the baseline must speak of values that there are."""
        all_arms = [Arm(points) for points in itertools.product(*(axis.points for axis in made.axes))]
        known = [*dict.fromkeys(key for a in made.axes for p in a.points for key in p.keys)]
        known += ["label"] if any(a.named for a in made.axes) else []
        for i, entry in enumerate(made.exclude):
            for key in entry:
                if not any(speaks(axis, key) for axis in made.axes) and lookup(tree_of(made.set), key) is None:
                    self._stranger(["exclude", str(i), key], f"exclude: no cell sets '{key}'.", key, known)
                    break
            else:
                if not any(made.matches(arm, entry) for arm in all_arms):
                    told = ", ".join(f"{k}: {show(v)}" for k, v in entry.items())
                    self.problem(["exclude", str(i), next(iter(entry))], f"exclude: no cell is {{{told}}}.")
        for key, value in made.baseline.items():
            axes = [axis for axis in made.axes if speaks(axis, key)]
            if not axes:
                self._stranger(["report", "baseline", key], f"report.baseline: no axis sets '{key}'.", key, known)
            elif not any(has(p, {key: value}) for axis in axes for p in axis.points):
                values = ", ".join(p.label for axis in axes for p in axis.points)
                self.problem(
                    ["report", "baseline", key], f"report.baseline: no cell has {key} {show(value)}. There is {values}."
                )
        if not self.problems and not made.arms():
            self.problem(["exclude"], "exclude leaves no cell.")

    # ---- small checks ----

    def _known(self, words: tuple[str, ...], mapping: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in mapping:
            if key not in known:
                inside = f" in {'.'.join(words)}" if words else ""
                self._stranger([*words, key], f"there is no key '{key}'{inside}.", key, known)

    def _stranger(self, words: Sequence[str], text: str, key: str, known: Sequence[str]) -> None:
        there = f" Known: {', '.join(known)}." if known else ""
        self.problem(words, text + (did_you_mean(key, known) or there))

    def _mapping(self, key: str) -> dict[str, Any]:
        node = self.tree.get(key) or {}
        if isinstance(node, Mapping):
            return dict(node)
        self.problem([key], f"{key} is {show(node)}: write a mapping.")
        return {}

    def _value(self, words: Sequence[str], value: Any, kind: type, what: str) -> Any:
        if not isinstance(value, kind):
            self.problem(words, f"{'.'.join(words)} is {show(value)}: it is {what}.")
        return value

    def _number(self, words: Sequence[str], value: Any, least: int) -> int:
        if type(value) is not int or value < least:
            self.problem(words, f"{'.'.join(words)} is {show(value)}: it must be an integer of at least {least}.")
            return least
        return value
