"""Train a configuration, or go on with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vidiff.building import Plan, plan, reshaped
from vidiff.cli import add_run_flags, execute, parser
from vidiff.config import Config, load
from vidiff.config.checking import short
from vidiff.engine.buckets import Buckets, table
from vidiff.engine.log import Console
from vidiff.engine.parallel import World, world
from vidiff.engine.preflight import dry_run, preflight
from vidiff.engine.profile import Cost, cost, human
from vidiff.engine.run import RunFolder, command_line, revision
from vidiff.engine.runs import read_run
from vidiff.engine.train import train
from vidiff.errors import Refused
from vidiff.registry import KINDS
from vidiff.types import shapes_of


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "train",
        __doc__,
        [
            "projects/nano_sora_cpu.yaml",
            "projects/nano_sora.yaml backbone=dit_factorized train.batch_size=16 --out runs/factorized",
        ],
    )
    made.add_argument("config", metavar="CONFIG", help="a YAML file (a run's config.yaml reproduces that run)")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    add_run_flags(made)
    made.add_argument(
        "--resume", default="auto", metavar="auto|none|PATH", help="go on from the newest checkpoint (auto)"
    )
    made.add_argument("--steps", type=int, metavar="N", help="the same as train.steps=N")
    made.add_argument("--dry-run", action="store_true", help="everything once, nothing written")
    made.add_argument("--print-config", action="store_true", help="print the complete configuration and stop")
    made.add_argument("--overwrite", action="store_true", help="delete what the run folder holds and start again")
    made.add_argument("--allow-change", action="store_true", help="go on although steps, optimizer or schedule changed")
    made.set_defaults(goes_on=True)
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Train, or do the part of it that was asked for."""
    config = load(arguments.config, [*arguments.overrides, *_sugar(arguments)])
    if arguments.print_config:
        print(config.to_yaml(), end="")
        return
    here = world(arguments.device)
    made = plan(config, here.device.type, read_run)
    buckets = preflight(made, here, arguments.resume)
    costs = cost(made)
    if arguments.dry_run:
        say_dry_run(made, here, costs, buckets)
        return
    folder = RunFolder(Path(arguments.out or f"runs/{config.name}"))
    if arguments.resume == "none" and (folder.path / "checkpoints").is_dir() and not arguments.overwrite:
        raise Refused(f"{folder.path} holds checkpoints; --resume none needs --overwrite, or --out for another folder.")
    notes = folder.open(config, overwrite=arguments.overwrite, allow_change=arguments.allow_change)
    try:
        if _finished(folder, config) and arguments.resume == "auto":
            print(f"{folder.path} is finished ({config.train.steps} steps). Sample it: {_next(folder)}")
            return
        needed = {config.train.init, *map(str, config.components["objective"].values())}
        folder.check_runs({name: weights for name, weights in made.runs.items() if name in needed})
        console = Console(folder.path / "log.txt", quiet=arguments.quiet)
        folder.record_start(command_line(), here.device, made.runs)
        console.say(summary(made, here, costs, folder.path))
        for note in notes:
            console.say(note)
        flops = config.train.batch_size * flops_per_clip(made, costs, buckets)
        train(made, folder, here, console, arguments.resume, flops, buckets)
        console.say(f"done: {folder.path}\n  look:   tensorboard --logdir {folder.path}\n  sample: {_next(folder)}")
        console.close()
    finally:
        folder.close()


def summary(made: Plan, here: World, costs: Cost, out: Path | None = None) -> str:
    """The table printed at the start: components with their files, and what a step costs."""
    config = made.config
    rows = [(slot, node["name"], _file(slot, node["name"])) for slot, node in config.components.items()]
    width = max(len(name) for _, name, _ in rows)
    lines = [f"{slot:<12} {name:<{width}}  {file}" for slot, name, file in rows]
    train = config.train
    split = f" = {train.accumulate} x {train.batch_size // train.accumulate}" if train.accumulate > 1 else ""
    more = len(shapes_of(made.dataset)) - 1
    lines += [
        f"{'video':<12} {'x'.join(map(str, made.dataset.shape))} -> latent {made.grid} = {costs.tokens} tokens"
        + (f", and {more} more shapes" if more else ""),
        f"{'parameters':<12} {costs.parameters:,}"
        + ("" if costs.parameters else " (nothing to learn: steps measure the loss)"),
        f"{'FLOPs/clip':<12} {human(costs.forward_flops)} forward, {human(costs.training_flops)} training"
        + " (a multiply-add is 2)",
        f"{'batch':<12} {train.batch_size}{split} clips a step, {train.steps} steps, {train.precision}, {here.device}",
        f"{'seed':<12} {config.seed}    revision {revision()}" + (f"    folder {out}" if out else ""),
    ]
    return "\n".join(lines)


def flops_per_clip(made: Plan, costs: Cost, buckets: Buckets) -> float:
    """Training FLOPs of a clip, on average over the shapes that the clips have."""
    if len(buckets.shapes) == 1:
        return costs.training_flops
    pairs = zip(buckets.shapes, buckets.counts, strict=True)
    total = sum(cost(reshaped(made, shape)).training_flops * count for shape, count in pairs)
    return total / sum(buckets.counts)


def say_dry_run(made: Plan, here: World, costs: Cost, buckets: Buckets) -> None:
    """Build, one real batch forward and backward, a two-step sample; then the summary."""
    result = dry_run(made, here, buckets)
    print(summary(made, here, costs))
    for line in table(made, buckets):
        print(line)
    frames = f"{result['frames']} frame{'s' * (result['frames'] != 1)}"
    print(
        f"dry run: loss {result['loss']:.4f} on {result['clips']} clips, two-step sample of {frames}, "
        f"peak memory {result['peak_gib']:.2f} GiB; nothing was written."
    )


def _sugar(arguments: argparse.Namespace) -> list[str]:
    pairs = (("train.steps", arguments.steps), ("seed", arguments.seed))
    return [f"{key}={value}" for key, value in pairs if value is not None]


def _finished(folder: RunFolder, config: Config) -> bool:
    status = folder.read_status()
    return status.get("status") == "finished" and status.get("step", -1) >= config.train.steps


def _next(folder: RunFolder) -> str:
    return f"python tools/sample.py {folder.path}"


def _file(slot: str, name: str) -> str:
    kind = {"data": "dataset"}.get(slot, slot)
    return short(KINDS[kind][name].file)
