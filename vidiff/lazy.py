"""Importing heavy packages where they are used, and curing the one that breaks beside CPU torch."""

from __future__ import annotations

import sys

import torch

_OPERATORS = ("nms", "qnms")


def prepare_torchvision() -> None:
    """Make `import torchvision` work; timm, diffusers and torchmetrics import it.

    The registry's torchvision wheel is built for CUDA torch. Beside CPU torch its compiled library does
    not load, and its Python part then fails because it registers fake kernels for operators that
    nobody declared. Declaring the two schemas cures it; up front it would clash with a library that loads.
    """
    if "torchvision" in sys.modules:
        return
    try:
        import torchvision
    except ImportError:
        return
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in _OPERATORS:
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        import torchvision  # noqa: F401
