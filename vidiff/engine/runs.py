"""Other runs: found, verified, and read into a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from vidiff.building import run_folder
from vidiff.diffuser import Diffuser
from vidiff.engine.checkpoint import Checkpoints, check_fit, fill, sha256, verify
from vidiff.engine.weights import Weights, read_weights
from vidiff.errors import Refused


def find_checkpoint(path: Path) -> tuple[Path, Path]:
    """(run folder, checkpoint folder) of a run or a checkpoint. Raises Refused with what is there instead."""
    folder = run_folder(path)
    if (path / "manifest.json").is_file():
        return folder, path
    newest, damaged = Checkpoints(path / "checkpoints").newest_valid()
    for line in damaged:
        print(f"{line}; using the previous one")
    if newest is None:
        raise Refused(f"{path} has no checkpoint yet; train it first.")
    return path, newest


def weights_of(checkpoint: Path, weights: str = "ema") -> str:
    """The group of tensors in a checkpoint: the average, where there is one, or the raw weights ("model")."""
    return "ema" if weights == "ema" and (checkpoint / "ema.safetensors").is_file() else "model"


def load_weights(diffuser: nn.Module, checkpoint: Path, weights: str) -> Weights:
    """Fill a diffuser from a checkpoint (raw, ema, ema:0.9999, posthoc:0.1). Raises Refused."""
    found = read_weights(checkpoint, weights)
    fill(diffuser, found.tensors, f"{checkpoint}/{weights}")
    return found


def read_run(diffuser: Diffuser, run: str) -> dict[str, Any]:
    """Fill a diffuser with the averaged weights of a run; one on the meta device is only compared with them.

    Returns which checkpoint that was. Raises Refused naming the first differing keys and shapes.
    """
    _, checkpoint = find_checkpoint(Path(run))
    group = weights_of(checkpoint)
    file = checkpoint / f"{group}.safetensors"
    if diffuser.device.type == "meta":
        verify(checkpoint)
        check_fit(diffuser, shapes_in(checkpoint / "model.safetensors"), f"{checkpoint}/model")
    else:
        load_weights(diffuser, checkpoint, "ema")
    return {"checkpoint": str(checkpoint), "weights": group, "sha256": sha256(file)}


def start_from(diffuser: Diffuser, run: str) -> dict[str, Any]:
    """Fill a new model with the averaged weights of a run: `train.init`. On the meta device they are only compared.

    What an objective learns for itself may be in one of the two only: it stays as drawn, or is left out.
    Returns which checkpoint that was. Raises Refused naming the first differing keys and shapes.
    """
    _, checkpoint = find_checkpoint(Path(run))
    group, own = weights_of(checkpoint), diffuser.state_dict()
    meta = next(iter(own.values())).is_meta
    verify(checkpoint)
    found = shapes_in(checkpoint / "model.safetensors") if meta else read_weights(checkpoint, "ema").tensors
    tensors = {k: v for k, v in found.items() if k in own or not k.startswith("objective.")}
    tensors |= {k: v for k, v in own.items() if k not in found and k.startswith("objective.")}
    check_fit(diffuser, tensors, f"train.init {checkpoint}/{group}")
    if not meta:
        diffuser.load_state_dict(tensors)
    return {"checkpoint": str(checkpoint), "weights": group, "sha256": sha256(checkpoint / f"{group}.safetensors")}


def shapes_in(file: Path) -> dict[str, torch.Tensor]:
    """What a safetensors file holds, as tensors without numbers: only its header is read."""
    with safe_open(str(file), framework="pt") as handle:
        return {k: torch.empty(handle.get_slice(k).get_shape(), device="meta") for k in handle.keys()}  # noqa: SIM118
