"""Checkpoints: written beside, checksummed, synced and renamed; nothing is trusted without its checksum.

    checkpoints/step_00001000/{model,ema,optimizer}.safetensors  state.json  manifest.json
    checkpoints/last                                             a text file with the folder's name

No pickle is written or read. Single flipped bits load silently from .pt and .safetensors files, so
the SHA-256 of every file is verified before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vidiff.errors import Refused, Stopped

FORMAT = 1
PREFIX = "step_"


@dataclass
class Snapshot:
    """What a checkpoint holds: named groups of tensors and a JSON state."""

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, keep: int = 2, keep_every: int = 0):
        self.folder, self.keep, self.keep_every = Path(folder), keep, keep_every

    def save(self, step: int, snapshot: Snapshot) -> Path:
        """Write a checkpoint; the previous one is deleted only after this one is in place.

        Raises Stopped, with the partial folder removed, when the disk refuses.
        """
        final = self.folder / f"{PREFIX}{step:08d}"
        if final.exists() and problem_of(final) is None:
            return final
        partial = self.folder / f".{final.name}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            partial.mkdir()
            _write_all(partial, step, snapshot)
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            _sync(self.folder)
            write_atomic(self.folder / "last", final.name + "\n")
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise Stopped(_disk_message(self.folder, snapshot, error)) from error
        self._retain()
        return final

    def steps(self) -> list[int]:
        """The steps of all finished checkpoints, ascending."""
        found = [p.name[len(PREFIX) :] for p in self.folder.glob(f"{PREFIX}*") if p.is_dir()]
        return sorted(int(s) for s in found if s.isdigit())

    def path(self, step: int) -> Path:
        """The folder of one step."""
        return self.folder / f"{PREFIX}{step:08d}"

    def newest_valid(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint whose checksums hold, and a line for each newer one that is damaged or gone.

        Raises Refused, listing them, when there are checkpoints and all are damaged.
        """
        last = self._written_last()
        damaged = [f"{last} is gone"] if last is not None and not last.is_dir() else []
        for step in reversed(self.steps()):
            path = self.path(step)
            problem = problem_of(path)
            if problem is None:
                return path, damaged
            damaged.append(f"{path} is damaged ({problem})")
        if damaged:
            raise Refused("no checkpoint of this run is intact: " + "; ".join(damaged) + ". Train it anew.")
        return None, []

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps: they are of a past that is about to be repeated."""
        for later in [s for s in self.steps() if s > step]:
            if (self.path(later) / "manifest.json").is_file():
                shutil.rmtree(self.path(later), ignore_errors=True)
        last = self._written_last()
        if last is not None and last.name > self.path(step).name:
            (self.folder / "last").unlink()

    def _written_last(self) -> Path | None:
        """The folder that the file `last` names."""
        file = self.folder / "last"
        return self.folder / file.read_text().strip() if file.is_file() else None

    def _retain(self) -> None:
        """Delete what is neither among the last `keep` nor a multiple of `keep_every`; only folders we wrote."""
        for step in self.steps()[: -self.keep]:
            path = self.path(step)
            permanent = self.keep_every and step % self.keep_every == 0
            if not permanent and (path / "manifest.json").is_file():
                shutil.rmtree(path, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed saves left behind."""
        for partial in self.folder.glob(f".{PREFIX}*"):
            shutil.rmtree(partial, ignore_errors=True)


def problem_of(path: Path) -> str | None:
    """Why a checkpoint folder cannot be trusted, or None."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        files = [(Path(name).name, entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json is missing or unreadable"
    if "state.json" not in {name for name, _, _ in files}:
        return "manifest.json lists no state.json"
    for name, size, checksum in files:
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            return f"{name} is missing or has another size"
        if sha256(file) != checksum:
            return f"{name} does not match its checksum"
    return None


def verify(path: Path) -> None:
    """Raises Refused when this is not an intact checkpoint folder."""
    if not path.is_dir():
        raise Refused(f"{path} is not a checkpoint folder.")
    inside = sorted((path / "checkpoints").glob(f"{PREFIX}*"))
    if inside:
        raise Refused(f"{path} is a run: name one of its checkpoints, such as {inside[-1]}.")
    problem = problem_of(path)
    if problem:
        raise Refused(f"{path} is not an intact checkpoint: {problem}.")


def load(path: Path, groups: tuple[str, ...] | None = None) -> Snapshot:
    """Read a checkpoint folder after verifying it. Raises Refused with the reason."""
    verify(path)
    state = json.loads((path / "state.json").read_text())
    names = groups if groups is not None else tuple(sorted(f.stem for f in path.glob("*.safetensors")))
    tensors = {name: read_tensors(path / f"{name}.safetensors") for name in names}
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise Refused(f"{path}/state.json is none of ours: it tells no step.")
    return Snapshot(tensors, state)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A safetensors file -> name -> tensor. Raises Refused for anything else."""
    try:
        with safe_open(str(file), framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise Refused(f"{file} is not a readable safetensors file: {str(error).splitlines()[0]}") from None


def fill(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy tensors into a module's own. Raises Refused naming the first differing keys and shapes."""
    check_fit(module, tensors, what)
    module.load_state_dict(dict(tensors), strict=True)


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Raises Refused naming the first keys and shapes in which tensors are not those of the module."""
    own = module.state_dict()
    missing, extra = [k for k in own if k not in tensors], [k for k in tensors if k not in own]
    shapes = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    if missing or extra or shapes:
        details = [f"missing {k}" for k in missing[:3]] + [f"unknown {k}" for k in extra[:3]]
        details += [f"{k} is {tuple(tensors[k].shape)}, expected {tuple(own[k].shape)}" for k in shapes[:3]]
        raise Refused(f"{what} does not fit this model: {'; '.join(details)}.")


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> tuple[dict[str, Tensor], dict]:
    """An optimizer's state as named tensors ("weight/exp_avg") and plain numbers. `names`: id(parameter) -> name."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            name = f"{names[id(parameter)]}/{key}"
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                numbers[name] = value
    return tensors, numbers


def fill_optimizer(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], numbers: Mapping
) -> None:
    """The inverse of `optimizer_tensors`. Raises Refused for a state of other parameters."""
    optimizer.state.clear()
    for full, value in [*tensors.items(), *numbers.items()]:
        name, _, key = full.rpartition("/")
        if name not in named:
            raise Refused(f"the checkpoint's optimizer state knows {name}, which this model has not.")
        parameter = named[name]
        if isinstance(value, Tensor):
            # torch keeps the step counter on the CPU unless the kernel is fused or capturable on a GPU
            value = value.clone() if value.ndim == 0 and parameter.device.type == "cpu" else value.to(parameter.device)
        optimizer.state[parameter][key] = value


def sha256(file: Path) -> str:
    """The SHA-256 of a file, as hex."""
    with open(file, "rb") as handle:
        digest = hashlib.sha256()
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(file: Path, text: str) -> None:
    """Replace a small text file so that a reader sees the old or the new one, never half."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    with open(partial, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(file)


def _write_all(folder: Path, step: int, snapshot: Snapshot) -> None:
    for name, tensors in snapshot.tensors.items():
        own = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(own, str(folder / f"{name}.safetensors"))
    (folder / "state.json").write_text(json.dumps({"step": step, **snapshot.state}, indent=1))
    files = sorted(folder.iterdir())
    entries = {f.name: {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in files}
    manifest = {"format": FORMAT, "step": step, "torch": torch.__version__, "files": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for file in folder.iterdir():
        _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_message(folder: Path, snapshot: Snapshot, error: Exception) -> str:
    need = sum(t.numel() * t.element_size() for group in snapshot.tensors.values() for t in group.values())
    try:
        free = f"{shutil.disk_usage(folder).free:,} bytes free"
    except OSError:
        free = "the folder cannot be read"
    reason = getattr(error, "strerror", None) or error
    return f"a checkpoint of {need:,} bytes cannot be written to {folder}: {reason} ({free})."
