"""The run folder: what a run leaves behind, who may write into it, and when it goes on.

runs/latte_v/
  config.yaml   the complete configuration; training from it reproduces the run
  imports/      the project's own component files, as they were
  command.txt   what was typed, each start;  env.json  versions, device, revision
  log.txt  metrics.jsonl  status.json  bad_clips.jsonl  buckets.json
  tb/  samples/  eval/  checkpoints/
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

import torch

from vidiff.config import Config, completed, differences
from vidiff.config.importing import content_hash
from vidiff.config.reading import read_yaml
from vidiff.engine.checkpoint import Checkpoints, write_atomic
from vidiff.errors import Refused

FREE = ("name", "description", "log", "checkpoint", "callbacks", "sampler", "guidance", "cache", "task",
        "train.workers", "train.max_bad_fraction", "train.nonfinite", "train.max_nonfinite", "attention")  # fmt: skip
"""Keys that may change between the starts of a run: they do not move its weights (attention: by rounding only)."""

ALLOWED = ("train.steps", "train.accumulate", "train.compile", "train.precision", "train.clip",
           "optimizer", "schedule", "ema")  # fmt: skip
"""Keys that move the weights from here on, and may change with --allow-change. All others are another experiment."""


class RunFolder:
    """One run's folder, locked by this process until `close`."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._lock: TextIO | None = None

    # ---- opening ----

    def open(self, config: Config, *, overwrite: bool = False, allow_change: bool = False) -> list[str]:
        """Create the folder or go on in it. Returns lines to say.

        Raises Refused when the folder is another run's, belongs to a live process, or is no run folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise Refused(f"{self.path} is not a folder; choose another with --out.")
        known = (self.path / "config.yaml").is_file()
        if self.path.is_dir() and any(self.path.iterdir()) and not known:
            raise Refused(f"{self.path} is not empty and not a run folder; choose another with --out.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.path)
            if known and overwrite:
                self._clear()
                known = False
            notes = self._compare(config, allow_change) if known else []
            self._write_config(config)
        except OSError as error:
            raise Refused(f"{self.path} cannot be written: {error.strerror or error}.") from None
        return notes

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def checkpoints(self, config: Config) -> Checkpoints:
        """The checkpoints of this run."""
        return Checkpoints(self.path / "checkpoints", config.checkpoint.keep, config.checkpoint.keep_every)

    # ---- what is written ----

    def status(self, state: str, step: int, **values: Any) -> None:
        """Replace status.json: running | finished | failed | stopped | interrupted."""
        record = {"status": state, "step": step, "pid": os.getpid(), **values}
        write_atomic(self.path / "status.json", json.dumps(record, indent=1) + "\n")

    def read_status(self) -> dict[str, Any]:
        """status.json, or {} when there is none."""
        try:
            status = json.loads((self.path / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def check_runs(self, runs: Mapping[str, Mapping[str, Any]]) -> None:
        """Raises Refused when a run that this one learns from, or began with, has other weights than at its start."""
        before = read_record(self.path / "env.json").get("runs", {})
        for name, now in runs.items():
            if name in before and before[name]["sha256"] != now["sha256"]:
                raise Refused(
                    f"{name} is not what {self.path} was started with: {before[name]['checkpoint']} then, "
                    f"{now['checkpoint']} now, other weights. Use --out for a new folder, or bring the old ones back."
                )

    def record_start(
        self, argv: Iterable[str], device: torch.device, runs: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """Append to command.txt and write env.json, with the other `runs` that this one needs.

        The environment's variables are never written.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with open(self.path / "command.txt", "a", encoding="utf-8") as file:
            file.write(f"{now}  {shlex.join(argv)}\n")
        record = environment(device) | ({"runs": dict(runs)} if runs else {})
        write_atomic(self.path / "env.json", json.dumps(record, indent=1) + "\n")

    def record_attention(self, checks: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Keep in env.json how far each attention in use is from the formula; returns those that are new."""
        file = self.path / "env.json"
        env = read_record(file)
        new = [case for case in checks if case not in env.get("attention", {})]
        if new:
            env["attention"] = {**env.get("attention", {}), **checks}
            write_atomic(file, json.dumps(env, indent=1) + "\n")
        return new

    def record_shapes(self, record: Mapping[str, Any]) -> bool:
        """Keep which clips have which shape in buckets.json; True when that was kept before and is another now."""
        file = self.path / "buckets.json"
        before = read_record(file) or record
        write_atomic(file, json.dumps(record, indent=1) + "\n")
        return before != record

    def record_bad(self, step: int, clips: Iterable[tuple[str, str]]) -> None:
        """Name unreadable clips in bad_clips.jsonl."""
        with open(self.path / "bad_clips.jsonl", "a", encoding="utf-8") as file:
            for path, reason in clips:
                file.write(json.dumps({"step": step, "path": path, "reason": reason}) + "\n")

    # ---- inside ----

    def _clear(self) -> None:
        for item in self.path.iterdir():
            if item.name == ".lock":
                continue
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()

    def changed(self, config: Config) -> dict[str, tuple[Any, Any]]:
        """The dotted keys at which the folder's configuration differs from this one -> (its value, the new one).

        A setting that the folder does not know yet, of the engine or of a component, had its default there.
        """
        old, _ = read_yaml(self.path / "config.yaml")
        old.pop("imports", None)
        changed = differences(completed(old), config.to_dict())
        return changed | self._changed_imports(config)

    def _compare(self, config: Config, allow_change: bool) -> list[str]:
        changed = self.changed(config)
        if not changed:
            return []
        hard = {k: v for k, v in changed.items() if not within(k, FREE)}
        forbidden = {k: v for k, v in hard.items() if not within(k, ALLOWED)}
        listing = "; ".join(f"{k}: {_short(a)} -> {_short(b)}" for k, (a, b) in (forbidden or hard or changed).items())
        if forbidden:
            raise Refused(
                f"{self.path} holds another experiment ({listing}). "
                f"Use --out for a new folder, --overwrite to replace this one, or the old values to go on."
            )
        if hard and not allow_change:
            raise Refused(
                f"{self.path} was started with other values ({listing}). "
                f"Add --allow-change to go on with the new ones, or use --out or --overwrite."
            )
        return [f"going on with changed values: {listing}"]

    def _changed_imports(self, config: Config) -> dict[str, tuple[str, str]]:
        saved = {f.name: content_hash(f)[:12] for f in sorted((self.path / "imports").glob("*.py"))}
        now = {f.name: content_hash(f)[:12] for f in config.imports}
        names = sorted({*saved, *now})
        return {f"imports.{n}": (saved.get(n, "-"), now.get(n, "-")) for n in names if saved.get(n) != now.get(n)}

    def _write_config(self, config: Config) -> None:
        names = []
        for file in config.imports:
            copy = self.path / "imports" / file.name
            copy.parent.mkdir(exist_ok=True)
            if file.resolve() != copy.resolve():
                shutil.copyfile(file, copy)
            names.append(f"imports/{file.name}")
        head = "# The complete configuration of this run: training from this file reproduces it.\n"
        write_atomic(self.path / "config.yaml", head + config.to_yaml(names))


def read_record(file: Path) -> dict[str, Any]:
    """A JSON mapping that an earlier start left, or {}. Raises Refused for one that cannot be read."""
    if not file.exists():
        return {}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise Refused(f"{file} is damaged. Delete it to go on: it only records how the run was made.")
    return record


def take_lock(folder: Path) -> TextIO:
    """Hold a folder until the file is closed. Raises Refused, naming who holds it.

    A POSIX lock ends with its process, however that dies, so no lock is ever stale.
    An flock would live on in forked data workers for the seconds they need to notice a killed parent.
    """
    file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise Refused(f"{folder} is in use by {owner}; wait for it, or choose another folder with --out.") from None
    file.truncate(0)
    file.write(f"pid {os.getpid()} on {platform.node()}")
    file.flush()
    return file


def in_use(folder: Path) -> bool:
    """Whether another process holds this folder."""
    if not (folder / ".lock").is_file():
        return False
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and revision; nothing of the environment's variables."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in ("vidiff", "torch", "numpy", "timm", "einops", "omegaconf", "safetensors", "av"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "revision": revision(),
        "python": platform.python_version(),
        "packages": packages,
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def revision() -> str:
    """The git revision of the code, with `+dirty` when files differ from it; 'unknown' without git."""
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    if commit.returncode:
        return "unknown"
    return commit.stdout.strip() + ("+dirty" if dirty.stdout.strip() else "")


def command_line() -> list[str]:
    """What was typed."""
    return ["python", *sys.argv]


def within(key: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted key is one of the prefixes or inside one."""
    return any(key == p or key.startswith(p + ".") for p in prefixes)


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, Mapping) else "{…}"
    return text if len(text) <= 40 else text[:37] + "…"
