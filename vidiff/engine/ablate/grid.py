"""A grid file to cells: every combination that was asked for, each with its complete, checked configuration.

base: ../nano_sora_cpu.yaml
set: {train.steps: 2000}                 # changes of all cells
grid: {backbone.name: [a, b]}            # an axis per key: all combinations
zip: {x: [1, 2], y: [3, 4], label: …}    # one axis whose keys move together
seeds: [0, 1]
exclude: [{backbone.name: a, x: 1}]
jobs: {where: local, devices: auto, per_device: 1}
report: {baseline: {backbone.name: a}, metric: val/x0_error, better: lower, samples: 8}
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidiff.config.checking import plain
from vidiff.config.merging import Change, merge

MEASURE = "x0_error"
"""The callback whose number the report compares by default: one error for all objectives."""


@dataclass(frozen=True)
class Point:
    """One value of an axis: what it is called and what it changes."""

    label: str
    changes: tuple[Change, ...]

    def __hash__(self) -> int:
        """Of the label: values may be lists and mappings."""
        return hash(self.label)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(change.key for change in self.changes)


@dataclass(frozen=True)
class Axis:
    """One way in which cells differ: a key of `grid`, or all of `zip`."""

    name: str
    points: tuple[Point, ...]
    named: bool = False
    """Whether the points were given labels (`zip: label`)."""


@dataclass(frozen=True)
class Arm:
    """A combination of points: cells that differ in the seed only."""

    points: tuple[Point, ...]

    @property
    def label(self) -> str:
        """`dit_joint, epsilon`."""
        return ", ".join(p.label for p in self.points) or "base"


@dataclass
class GridFile:
    """A grid file, read and checked but for the configurations of its cells."""

    path: Path
    name: str
    base: Path
    set: tuple[Change, ...] = ()
    axes: tuple[Axis, ...] = ()
    seeds: tuple[int, ...] = (0,)
    exclude: tuple[Mapping[str, Any], ...] = ()
    devices: str | tuple[str, ...] = "auto"
    per_device: int = 1
    baseline: Mapping[str, Any] = field(default_factory=dict)
    metric: str = f"val/{MEASURE}"
    better: str = "lower"
    samples: int = 8
    description: str = ""
    typed: tuple[str, ...] = ()
    """What was typed beside the file, and is in all of the above already."""

    def arms(self) -> list[Arm]:
        """All combinations that are not excluded, the last axis fastest."""
        products = itertools.product(*(axis.points for axis in self.axes))
        return [arm for arm in map(Arm, products) if not any(self.matches(arm, e) for e in self.exclude)]

    def matches(self, arm: Arm, wanted: Mapping[str, Any]) -> bool:
        """Whether an arm has all of these values (`{backbone.name: unet3d, label: frame}`)."""
        tree = self.tree(arm)
        return all(
            any(p.label == value for p in self._named(arm)) if key == "label" else lookup(tree, key) == plain(value)
            for key, value in wanted.items()
        )

    def tree(self, arm: Arm) -> dict[str, Any]:
        """What `set` and an arm change, as nested values."""
        return tree_of([*self.set, *(c for p in arm.points for c in p.changes)])

    def baseline_of(self, arm: Arm) -> Arm:
        """The arm this one is compared with: the baseline's values, and its own on the axes the baseline leaves open.

        Without a baseline it is the first arm of the grid, for all.
        """
        if not self.baseline:
            return self.arms()[0]
        return Arm(tuple(self._fixed(axis) or own for axis, own in zip(self.axes, arm.points, strict=True)))

    def _fixed(self, axis: Axis) -> Point | None:
        wanted = {key: value for key, value in self.baseline.items() if speaks(axis, key)}
        found = [p for p in axis.points if wanted and has(p, wanted)]
        return found[0] if found else None

    def _named(self, arm: Arm) -> list[Point]:
        return [point for axis, point in zip(self.axes, arm.points, strict=True) if axis.named]


def speaks(axis: Axis, key: str) -> bool:
    """Whether an axis sets this key (a key inside one of its values counts)."""
    if key == "label":
        return axis.named
    return any(key in p.keys or lookup(tree_of(p.changes), key) is not None for p in axis.points)


def has(point: Point, wanted: Mapping[str, Any]) -> bool:
    """Whether a point has these values; `label` is what it is called."""
    tree = tree_of(point.changes)
    return all(
        point.label == value if key == "label" else lookup(tree, key) == plain(value) for key, value in wanted.items()
    )


def tree_of(changes: Iterable[Change]) -> dict[str, Any]:
    """Changes, one over the other, as nested values."""
    tree: dict[str, Any] = {}
    for key, value, _ in changes:
        for word in reversed(key.split(".")):
            value = {word: value}
        tree = merge(tree, value)
    return tree


def lookup(tree: Any, key: str) -> Any:
    """The value at a dotted key, None where there is none; a bare component name answers to `.name`."""
    for word in key.split("."):
        if isinstance(tree, str) and word == "name":
            continue
        if not isinstance(tree, Mapping) or word not in tree:
            return None
        tree = tree[word]
    return plain(tree)


def text(key: str, value: Any) -> str:
    """A value in a label: a name stands alone, the rest is `key=value`."""
    if isinstance(value, str) and value not in ("none", "auto"):
        return value
    if isinstance(value, Mapping):
        inside = [text(k, v) for k, v in value.items() if k != "name"]
        return " ".join([*([str(value["name"])] if "name" in value else []), *inside])
    word = key.removesuffix(".name").rpartition(".")[2]
    if isinstance(value, list):
        return f"{word}={'x'.join(str(v) for v in value)}"
    return f"{word}={value if isinstance(value, str) else show(value)}"


def show(value: Any) -> str:
    """A value as YAML writes it, shortened."""
    words = json.dumps(value, default=str) if not isinstance(value, str) else f"'{value}'"
    return words if len(words) <= 60 else words[:57] + "…"
