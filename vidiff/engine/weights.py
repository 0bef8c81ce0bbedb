"""Which weights of a run: what `--weights` names, read from a checkpoint and from the averages kept beside it.

raw            as the optimizer left them
ema            the run's first average (the raw ones where it keeps none)
ema:0.9999     the average of this decay
posthoc:0.1    the power-function average of this relative width, made from those that were kept (EDM2, 2312.02696)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vidiff.engine.checkpoint import Snapshot, load, sha256
from vidiff.engine.posthoc import Kept, snapshots, synthesize
from vidiff.errors import Refused

GRAMMAR = "raw, ema, ema:DECAY or posthoc:WIDTH"


@dataclass(frozen=True)
class Weights:
    """The weights of a whole model, with what they are and where they came from, for the record."""

    tensors: dict[str, Tensor]
    label: str
    sha256: str
    error: float = 0.0
    """How far a synthesized profile is from the one asked for, relative."""


def parse_weights(asked: str) -> tuple[str, float | None]:
    """ "posthoc:0.1" -> ("posthoc", 0.1). Raises Refused for other words, and widths no power function has."""
    kind, colon, number = asked.partition(":")
    if not colon and kind in ("raw", "ema"):
        return kind, None
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    limit = {"ema": 1.0, "posthoc": 0.28}.get(kind)
    if limit is None or not 0 < value <= limit:
        raise Refused(f"--weights {asked}: write {GRAMMAR} (0 < DECAY <= 1, 0 < WIDTH <= 0.28).")
    return kind, value


def labels_of(snapshot: Snapshot) -> dict[str, str]:
    """The averages in a checkpoint: group -> label ("ema:0.999"). One from before there were several says "ema"."""
    if "averages" in snapshot.state:
        return snapshot.state["averages"]
    return {"ema": "ema"} if "ema" in snapshot.tensors else {}


def read_weights(checkpoint: Path, asked: str) -> Weights:
    """The weights asked for, at this checkpoint of a run. Raises Refused for an average it does not have."""
    kind, value = parse_weights(asked)
    labels = labels_of_files(checkpoint)
    if kind == "posthoc":
        return _posthoc(checkpoint, labels, value)
    group = "model" if kind == "raw" or (value is None and not labels) else "ema"
    if value is not None:
        named = {label: group for group, label in labels.items()}
        if f"ema:{value}" not in named:
            known = ", ".join(["raw", *labels.values()])
            raise Refused(f"--weights {asked}: {checkpoint} has {known}. Train with ema.decays to keep more.")
        group = named[f"ema:{value}"]
    snapshot = load(checkpoint, ("model", group) if group != "model" else ("model",))
    label = "raw" if group == "model" else labels[group]
    return Weights({**snapshot.tensors["model"], **snapshot.tensors[group]}, label, _hash(checkpoint, group))


def labels_of_files(checkpoint: Path) -> dict[str, str]:
    """`labels_of` without reading the weights."""
    groups = {f.stem: {} for f in checkpoint.glob("*.safetensors")}
    return labels_of(Snapshot(groups, json.loads((checkpoint / "state.json").read_text())))


def _posthoc(checkpoint: Path, labels: dict[str, str], width: float) -> Weights:
    """Synthesized at the checkpoint's step, from its own averages and the earlier ones that were kept."""
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    tracked = {group: float(label.partition(":")[2]) for group, label in labels.items() if label[:7] == "posthoc"}
    kept = [Kept(step, sigma, checkpoint, group) for group, sigma in tracked.items()]
    folder = snapshots(checkpoint.resolve().parents[1])
    for early in [s for s in folder.steps() if s < step]:
        for file in sorted(folder.path(early).glob("posthoc_*.safetensors")):
            kept.append(Kept(early, float(file.stem.partition("_")[2]), folder.path(early), file.stem))
    averaged, error = synthesize(kept, step, width)
    whole = load(checkpoint, ("model",)).tensors["model"]
    tensors = {name: averaged[name].to(t.dtype) if name in averaged else t for name, t in whole.items()}
    return Weights(tensors, f"posthoc:{width}", _hash(checkpoint, "model"), error)


def _hash(checkpoint: Path, group: str) -> str:
    return sha256(checkpoint / f"{group}.safetensors")
