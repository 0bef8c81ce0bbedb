"""What a configuration builds: shapes, parameters, FLOPs, modules, and what its data look like."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from vidiff.building import plan
from vidiff.cli import execute, parser
from vidiff.commands.train import summary
from vidiff.config import load
from vidiff.engine.data import first_clips
from vidiff.engine.parallel import World, pick_device
from vidiff.engine.profile import cost, human
from vidiff.errors import Refused
from vidiff.video import write_png_strip


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "show",
        __doc__,
        ["projects/nano_sora.yaml --depth 2", "projects/nano_sora_cpu.yaml data.digits=1 --data clips.png"],
    )
    made.add_argument("config", metavar="CONFIG", help="a YAML file")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    made.add_argument("--depth", type=int, default=1, metavar="N", help="list modules down to this depth (1)")
    made.add_argument("--data", metavar="FILE.png", help="write a strip of four training clips")
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Print what would be trained."""
    made = plan(load(arguments.config, arguments.overrides))
    print(summary(made, World(pick_device("cpu")), cost(made)))
    print("modules")
    for line in modules(made.diffuser, arguments.depth):
        print(f"  {line}")
    if arguments.data:
        file = Path(arguments.data)
        if file.suffix != ".png" or file.exists():
            raise Refused(f"--data {file}: name a .png file that does not exist yet.")
        clips = [torch.as_tensor(clip["video"]) for clip in first_clips(made.dataset, 4)]
        write_png_strip(file, torch.stack(clips), scale=max(1, 64 // clips[0].shape[-1]))
        print(f"{len(clips)} clips: {file}")


def modules(module: nn.Module, depth: int, prefix: str = "") -> list[str]:
    """`name  class  parameters` of every submodule down to `depth`."""
    lines = []
    for name, child in module.named_children():
        number = sum(p.numel() for p in child.parameters())
        lines.append(f"{prefix + name:<32} {type(child).__name__:<20} {human(number):>8}")
        lines += modules(child, depth - 1, f"{prefix}{name}.") if depth > 1 else []
    return lines
