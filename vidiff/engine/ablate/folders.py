"""The folder of an ablation: ordinary run folders side by side, their logs, and what the queue remembers.

runs/ablations/NAME/
  dit_joint+epsilon-s0-1a2b3c4d/     a run like any other; its samples/SAMPLER-HASH/ are those of a cell
  logs/RUN.log                       what the processes of a run printed, with their commands
  queue.json                         how each run's processes ended, and the seconds they took
  grid.yaml  command.txt             the file as it was last read; what was typed
  report/                            index.html, report.md, table.csv, plots/, samples
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

import yaml

from vidiff.config.checking import plain
from vidiff.engine.ablate.cells import SAMPLING, Cell, slug
from vidiff.engine.ablate.grid import Arm, GridFile
from vidiff.engine.ablate.queue import Job, Outcome
from vidiff.engine.checkpoint import write_atomic
from vidiff.engine.run import FREE, RunFolder, command_line, in_use, take_lock, within
from vidiff.errors import DONE, INTERRUPTED, Refused

SAME_CELLS = ("name", "description", "seeds", "exclude", "jobs", "report")
"""Keys of a grid that add or leave out cells, and change none."""

FINISHED, FAILED, RUNNING, UNFINISHED, WAITING = "finished", "failed", "running", "unfinished", "waiting"


@dataclass(frozen=True)
class State:
    """How far a cell is."""

    name: str
    step: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Work:
    """The FLOPs of one run: of its training, and of the samples of each of its arms."""

    training: float
    draws: Mapping[Arm, float]

    @property
    def total(self) -> float:
        return self.training + sum(self.draws.values())


class Folder:
    """An ablation on disk."""

    def __init__(self, path: Path, grid: GridFile, pictures: bool = True):
        """`pictures`: whether the videos have 1 or 3 channels, so that they can be looked at."""
        self.path, self.grid, self.pictures = Path(path), grid, pictures
        self._lock: TextIO | None = None

    # ---- opening ----

    def open(self) -> None:
        """Make the folder, or go on in it. Raises Refused when it is something else or in use."""
        there = self.path.is_dir() and any(self.path.iterdir())
        if there and not (self.path / "grid.yaml").is_file():
            raise Refused(f"{self.path} is not empty and not an ablation; choose another with --out.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.path)
            shutil.copyfile(self.grid.path, self.path / "grid.yaml")
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            with open(self.path / "command.txt", "a", encoding="utf-8") as file:
                file.write(f"{now}  {shlex.join(command_line())}\n")
        except OSError as error:
            raise Refused(f"{self.path} cannot be written: {error.strerror or error}.") from None

    def close(self) -> None:
        """Let another process have it."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def check(self, cells: Sequence[Cell]) -> None:
        """Raises Refused when a run was trained with another configuration than its cell has now."""
        for run, keys in self.moved(cells).items():
            raise Refused(
                f"{self.path / run} was trained with other values of {', '.join(keys)}: the base has changed. "
                f"Give the grid another name:, or delete that folder."
            )

    def moved(self, cells: Sequence[Cell]) -> dict[str, list[str]]:
        """The runs whose weights come from another configuration than their cell has now -> the keys."""
        found = {}
        for cell in one_per_run(cells):
            if (self.run(cell) / "config.yaml").is_file():
                keys = [key for key in RunFolder(self.run(cell)).changed(cell.config) if not within(key, FREE)]
                found |= {cell.run: keys} if keys else {}
        return found

    # ---- places ----

    def run(self, cell: Cell) -> Path:
        """The run folder that trains a cell."""
        return self.path / cell.run

    def draw(self, cell: Cell) -> Path:
        """The folder of a cell's samples."""
        return self.run(cell) / "samples" / cell.draw

    def log(self, run: str) -> Path:
        """What a run's processes printed."""
        return self.path / "logs" / f"{run}.log"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def command(self) -> str:
        """What was typed to start it, the first time."""
        first = (self.path / "command.txt").read_text(encoding="utf-8").partition("\n")[0]
        return first.partition("  ")[2]

    # ---- how far ----

    def state(self, cell: Cell) -> State:
        """How far a cell is: trained to its last step, and its samples drawn."""
        status, last = RunFolder(self.run(cell)).read_status(), self.ledger().get(cell.run, {})
        step = status.get("step", 0)
        if self.trained(cell) and self.drawn(cell):
            return State(FINISHED, step)
        if in_use(self.run(cell)):
            return State(RUNNING, step)
        if last.get("exit", DONE) not in (DONE, INTERRUPTED):
            return State(FAILED, step, last.get("words", ""))
        return State(UNFINISHED if status else WAITING, step)

    def trained(self, cell: Cell) -> bool:
        """Whether the run has its last step."""
        status = RunFolder(self.run(cell)).read_status()
        return status.get("status") == FINISHED and status.get("step", -1) >= cell.config.train.steps

    def drawn(self, cell: Cell) -> bool:
        """Whether the cell's samples are there, as many as are wanted and drawn the way it says."""
        record, parts = self.samples(cell), cell.config.components
        same = all(agree(parts[key], record[key]) for key in SAMPLING if record.get(key))
        enough = len(record.get("rows", ())) >= self.grid.samples
        there = all((self.draw(cell) / f"sample_{row:04d}.npy").is_file() for row in range(self.grid.samples))
        return self.grid.samples == 0 or (same and enough and there)

    def samples(self, cell: Cell) -> dict[str, Any]:
        """The cell's samples.json, or {}."""
        return read_json(self.draw(cell) / "samples.json")

    def done(self, cells: Sequence[Cell], work: Work) -> float:
        """How far the cells of one run are, in [0, 1], by the work that training and sampling are."""
        first = cells[0]
        share = min(1.0, RunFolder(self.run(first)).read_status().get("step", 0) / first.config.train.steps)
        drawn = sum(work.draws.get(cell.arm, 0.0) for cell in cells if self.drawn(cell))
        return (share * work.training + drawn) / work.total

    # ---- the queue's memory ----

    def ledger(self) -> dict[str, Any]:
        """{run: {"exit", "words", "seconds", "last_lines"}} of the runs that had a process."""
        return read_json(self.path / "queue.json")

    def note(self, run: str, outcome: Outcome) -> None:
        """Remember how a run's processes ended; seconds add up over restarts."""
        ledger = self.ledger()
        seconds = ledger.get(run, {}).get("seconds", 0.0) + outcome.seconds
        ledger[run] = {"exit": outcome.code, "seconds": round(seconds, 1)}
        if outcome.code not in (DONE, INTERRUPTED):
            ledger[run] |= {"words": outcome.words, "last_lines": list(outcome.last_lines)}
        write_atomic(self.path / "queue.json", json.dumps(ledger, indent=1) + "\n")

    # ---- jobs ----

    def job(self, cells: Sequence[Cell], work: Work) -> Job:
        """The job of one run: train it, then draw the samples of each of its cells."""
        first = cells[0]
        return Job(
            first.run,
            commands=lambda device: self.commands(cells, device),
            log=self.log(first.run),
            weight=work.total,
            done=lambda: self.done(cells, work),
            busy=lambda: in_use(self.run(first)),
            goes_on=lambda: self.trained(first),  # a sampler that fails keeps no other from drawing
        )

    def commands(self, cells: Sequence[Cell], device: str) -> list[list[str]]:
        """What is still to do for the cells of one run, as commands that anybody can type."""
        first = cells[0]
        commands = []
        if not self.trained(first):
            changes = [f"{c.key}={flow(c.value)}" for c in first.changes]
            out = ["--out", str(self.run(first)), "--device", device]
            commands.append([*tool("train"), str(self.grid.base), *changes, *out])
        commands += [self._draw(cell, device) for cell in cells if not self.drawn(cell)]
        return commands

    def _draw(self, cell: Cell, device: str) -> list[str]:
        settings = [f"{key}={flow(cell.config.components[key])}" for key in SAMPLING]
        kinds = ["--format", "gif,npy", "--grid"] if self.pictures else ["--format", "npy"]
        out = ["--out", str(self.draw(cell)), "--device", device, "--overwrite", "--quiet"]
        return [*tool("sample"), str(self.run(cell)), *settings, "--num", str(self.grid.samples), *kinds, *out]


def folder_name(grid: GridFile) -> str:
    """The name of the grid, and what was typed that makes other cells of it: a shortened grid has its own folder."""
    others = [argument for argument in grid.typed if argument.partition("=")[0].partition(".")[0] not in SAME_CELLS]
    return "+".join(filter(None, (grid.name, slug("+".join(others)))))


def agree(wanted: Any, recorded: Any) -> bool:
    """Whether two settings are equal as far as both have them: code of another day may know some more, or less."""
    if isinstance(wanted, Mapping) and isinstance(recorded, Mapping):
        return all(agree(value, recorded[key]) for key, value in wanted.items() if key in recorded)
    return wanted == recorded


def one_per_run(cells: Sequence[Cell]) -> list[Cell]:
    """The first cell of every run."""
    return [group[0] for group in by_run(cells).values()]


def by_run(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of each run, in the order of the grid."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.run, []).append(cell)
    return groups


def tool(name: str) -> list[str]:
    """The beginning of a command: the clone's tool, or the installed package's."""
    spec = importlib.util.find_spec("vidiff")
    file = Path(spec.origin).resolve().parents[1] / "tools" / f"{name}.py"
    if file.is_file():
        return [sys.executable, str(file)]
    return [sys.executable, "-c", "from vidiff.cli import main; raise SystemExit(main())", name]


def flow(value: Any) -> str:
    """A value as one line of YAML, as an override takes it."""
    words = yaml.safe_dump(plain(value), default_flow_style=True, width=10**6, allow_unicode=True)
    return words.removesuffix("\n").removesuffix("\n...").strip()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON mapping, or {} when there is none (yet)."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, Mapping) else {}
