"""What a configuration builds: shapes, parameters, FLOPs, modules; what its data and its loss look like."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from vidiff.building import Plan, law_of, plan
from vidiff.cli import execute, parser
from vidiff.commands.train import summary
from vidiff.config import load
from vidiff.diffusion.floor import floor
from vidiff.diffusion.objective import Objective
from vidiff.engine.data import first_clips
from vidiff.engine.parallel import World, pick_device
from vidiff.engine.plots import draw_gains, draw_weighting
from vidiff.engine.profile import cost, human
from vidiff.errors import Refused
from vidiff.registry import build
from vidiff.types import Outline, shapes_of
from vidiff.video import write_png_strip


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "show",
        __doc__,
        [
            "projects/nano_sora_cpu.yaml data.digits=1 --data clips.png",
            "projects/oracle.yaml objective=v_prediction --floor",
            "projects/sit.yaml --plot plots --overlay objective.path=gvp --overlay projects/edm.yaml",
        ],
    )
    made.add_argument("config", metavar="CONFIG", help="a YAML file")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    made.add_argument("--depth", type=int, default=1, metavar="N", help="list modules down to this depth (1)")
    made.add_argument("--data", metavar="FILE.png", help="write a strip of four training clips")
    made.add_argument("--floor", action="store_true", help="print the least loss at every noise level, where the law "
                      "of the data is known")  # fmt: skip
    made.add_argument(
        "--plot",
        metavar="DIR",
        help="draw what each noise level counts in the loss, and what errors of the network become",
    )
    made.add_argument(
        "--overlay",
        action="append",
        default=[],
        metavar="FILE|key=value",
        help="draw this configuration beside it, or this change of it (repeat)",
    )
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Print what would be trained."""
    _check(arguments)
    made = plan(load(arguments.config, arguments.overrides), alone=True)
    say_notes(made)
    print(summary(made, World(pick_device("cpu")), cost(made)))
    print("modules")
    for line in modules(made.diffuser, arguments.depth):
        print(f"  {line}")
    if arguments.data:
        file = Path(arguments.data)
        if isinstance(made.dataset, Outline):
            raise Refused(f"--data {file}: there are no clips to show; {made.notes[0]}.")
        some = [torch.as_tensor(c["video"]) for c in first_clips(made.dataset, 4 * len(shapes_of(made.dataset)))]
        clips = [clip for clip in some if clip.shape == some[0].shape][:4]
        write_png_strip(file, torch.stack(clips), scale=max(1, 64 // clips[0].shape[-1]))
        print(f"{len(clips)} clips: {file}")
    if arguments.floor:
        print_floor(made)
    if arguments.plot:
        plot(Path(arguments.plot), arguments, made)


def _check(arguments: argparse.Namespace) -> None:
    """Raises Refused for flags that make no sense, before anything is built."""
    if arguments.depth < 1:
        raise Refused(f"--depth is {arguments.depth}: it must be at least 1.")
    if arguments.overlay and not arguments.plot:
        raise Refused(f"--overlay {arguments.overlay[0]}: there is nothing to lay it over. Add --plot DIR.")
    file = Path(arguments.data or "new.png")
    if arguments.data and (file.suffix != ".png" or file.exists()):
        raise Refused(f"--data {file}: name a .png file that does not exist yet.")


def say_notes(made: Plan) -> None:
    """What a plan of the configuration alone did not look at, beside the answer and not in it."""
    for note in made.notes:
        print(f"vidiff: note: {note}", file=sys.stderr)


def print_floor(made: Plan) -> None:
    """The least loss at every noise level and in all: for data of a known law. Raises Refused for any other."""
    law = law_of(made.dataset, made.diffuser.tokenizer)
    if law is None:
        raise Refused("--floor: the law of these latents is not known. Use data=gaussian_mixture and tokenizer=pixels.")
    objective, conditioner = weighed(made), made.diffuser.conditioner
    told = 1 - conditioner.drop if "label" in conditioner.reads else 0.0
    try:
        whole = floor(objective, law, made.grid, told=told)
    except ValueError as error:
        raise Refused(f"--floor: objective {made.config.components['objective']['name']}: {error}") from None
    print(f"least loss of all training: {whole.loss:.4f} (+- {whole.loss_error:.4f}), {told:.0%} of it by class")
    print(f"{'log-SNR':>9} {'loss':>11} {'+-':>9} {'mse':>11} {'x0 error':>11}")
    for logsnr in range(10, -11, -2):
        try:
            here = floor(objective, law, made.grid, float(logsnr), told)
        except ValueError:
            continue  # a level that this path does not reach
        print(f"{logsnr:>9} {here.loss:>11.4g} {here.loss_error:>9.2g} {here.mse:>11.4g} {here.x0:>11.4g}")


def plot(folder: Path, arguments: argparse.Namespace, first: Plan) -> None:
    """Draw the objective of a configuration, and those laid over it, into new files."""
    plans = {first.config.name or Path(arguments.config).stem: first}
    for text in arguments.overlay:
        another = "=" not in text or Path(text).is_file()
        config = load(text) if another else load(arguments.config, [*arguments.overrides, text])
        name = Path(text).stem if another and Path(text).stem not in plans else text
        if name in plans:
            raise Refused(f"--overlay {text} is there already: each is drawn once.")
        plans[name] = plan(config, alone=True)
        say_notes(plans[name])
    objectives = {name: (weighed(made), made.grid) for name, made in plans.items()}
    gains = {folder / f"gain_{i}.png": name for i, name in enumerate(objectives)}
    for file in (folder / "weighting.png", *gains):
        if file.exists():
            raise Refused(f"--plot {folder}: {file} is there already. Name another folder.")
    draw_weighting(folder / "weighting.png", objectives)
    print(f"weighting and density of {', '.join(objectives)}: {folder / 'weighting.png'}")
    for file, name in gains.items():
        draw_gains(file, name, objectives[name][0])
        print(f"errors of {name}: {file}")


def weighed(made: Plan) -> Objective:
    """The objective of a plan, its weighting with numbers, should it have parameters: plans are made without any."""
    objective, node = made.diffuser.objective, made.config.components["objective"].get("weighting")
    if node is not None:
        objective.weighting = build("weighting", node)
    return objective


def modules(module: nn.Module, depth: int, prefix: str = "") -> list[str]:
    """`name  class  parameters` of every submodule down to `depth`."""
    lines = []
    for name, child in module.named_children():
        number = sum(p.numel() for p in child.parameters())
        lines.append(f"{prefix + name:<32} {type(child).__name__:<20} {human(number):>8}")
        lines += modules(child, depth - 1, f"{prefix}{name}.") if depth > 1 else []
    return lines
