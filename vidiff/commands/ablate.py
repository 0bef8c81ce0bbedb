"""Run a grid of configurations and compare them: many ordinary runs, one report."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vidiff.building import Plan
from vidiff.cli import execute, named, parser
from vidiff.engine.ablate.cells import Cell, cells_of, check, select
from vidiff.engine.ablate.folders import FAILED, FINISHED, Folder, Work, by_run, folder_name
from vidiff.engine.ablate.grid import Arm, GridFile
from vidiff.engine.ablate.queue import Job, Outcome, Queue, Seat, describe, seats_of
from vidiff.engine.ablate.reading import read_grid
from vidiff.engine.ablate.report import write_report
from vidiff.engine.ablate.results import DIFFERENCE, read_results
from vidiff.engine.log import Console, duration
from vidiff.engine.parallel import World, pick_device
from vidiff.engine.preflight import dry_run
from vidiff.engine.profile import Cost, human
from vidiff.errors import DONE, Failed, Interrupted, Refused


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "ablate",
        __doc__,
        [
            "projects/ablations/quick.yaml --list",
            "projects/ablations/backbones.yaml --jobs 2 --only backbone.name=dit_joint",
            "projects/ablations/objectives.yaml train.steps=300 seeds=[0] --jobs 2",
        ],
    )
    made.add_argument("grid", metavar="GRID", help="a YAML file with base, grid, seeds … (docs/ablations.md)")
    made.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to every cell, or to the grid file: seeds=[0]"
    )
    made.add_argument("--out", type=named, metavar="DIR", help="the folder of the ablation (runs/ablations/NAME)")
    made.add_argument("--device", default="auto", metavar="NAME", help="for jobs.devices: auto (auto, cpu, cuda:1 …)")
    made.add_argument("--jobs", type=int, metavar="N", help="how many runs at a time (per_device on every device)")
    made.add_argument("--only", action="append", default=[], metavar="KEY=VALUE", help="these cells; may be repeated")
    made.add_argument("--limit", type=int, metavar="K", help="start K runs at most, leave the rest for another time")
    made.add_argument("--list", action="store_true", help="show the cells and how far they are, and stop")
    made.add_argument("--dry-run", action="store_true", help="everything once for every arm, nothing written")
    made.add_argument("--retry-failed", action="store_true", help="run the failed ones again as well")
    made.add_argument("--report-only", action="store_true", help="write the report of what there is, and stop")
    made.set_defaults(goes_on=True)
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Check everything, run what is not done, write the report."""
    _check_numbers(arguments)
    if importlib.util.find_spec("matplotlib") is None:
        raise Refused("the report's plots need matplotlib, which is not installed: pip install -e '.[plots]'")
    grid = read_grid(arguments.grid, arguments.overrides)
    everything = cells_of(grid)
    cells = select(everything, arguments.only)
    devices = _devices(grid, arguments.device)
    plans, costs = check(grid, everything, World(torch.device(devices[0])))
    folder = Folder(Path(arguments.out or f"runs/ablations/{folder_name(grid)}"), grid, _pictures(plans))
    if arguments.list:
        list_cells(folder, cells, costs)
        return
    if arguments.dry_run:
        dry_run_arms({c.arm: plans[c.arm] for c in cells}, World(torch.device(devices[0])))
        return
    if not arguments.report_only:
        folder.check(cells)
    elif not (folder.path / "grid.yaml").is_file():
        raise Refused(f"{folder.path} is no ablation yet; run the grid without --report-only first.")
    console = Console(quiet=arguments.quiet)

    def report(of: str = "report") -> None:
        page = write_report(folder, everything, plans, costs)
        console.say(f"{of}: {page}\n  look: tensorboard --logdir {folder.path}")

    if arguments.report_only:  # at any time, also while a queue is at work in this folder
        report()
        _say_failures(folder, cells)
        return
    folder.open()
    try:
        jobs = _jobs(folder, cells, plans, costs, arguments.retry_failed)[: arguments.limit]
        try:
            _work(folder, cells, jobs, seats_of(devices, grid.per_device, arguments.jobs), console)
        except Interrupted:
            report("report of what is finished so far")
            raise
        report()
        _say_failures(folder, cells)
    finally:
        folder.close()


def list_cells(folder: Folder, cells: Sequence[Cell], costs: Mapping[Arm, Cost]) -> None:
    """A line per cell: how far it is, what it costs, its folder."""
    width = max(len(cell.label) for cell in cells)
    for result in read_results(folder, cells):
        cell, state, cost = result.cell, result.state, costs[result.cell.arm]
        value = result.value(folder.grid.metric)
        told = f"  {folder.grid.metric} {value:.4g}" if value is not None else ""
        work = human(cost.training_flops * cell.config.train.batch_size * cell.config.train.steps)
        steps = f"{state.step}/{cell.config.train.steps}"
        print(
            f"{cell.label:<{width}}  {state.name:<10} {steps:>13}  {cost.parameters:>11,} parameters  "
            f"{work:>9}FLOPs  {folder.run(cell)}{told}"
        )
    runs = len(by_run(cells))
    print(
        f"{len(cells)} cells, {runs} runs to train"
        + (" (cells that differ in sampling share one)" * (runs < len(cells)))
    )


def dry_run_arms(plans: Mapping[Arm, Plan], world: World) -> None:
    """One real batch forward and backward and a two-step sample of every arm. Raises Failed when one cannot."""
    failed = 0
    for arm, made in plans.items():
        began = time.perf_counter()
        try:
            told = dry_run(made, world)
        except (RuntimeError, ValueError, MemoryError) as error:
            failed += 1
            print(f"{arm.label}: FAILED: {str(error).splitlines()[0]}")
            continue
        seconds = time.perf_counter() - began
        print(f"{arm.label}: loss {told['loss']:.4f}, {seconds:.1f} s, peak memory {told['peak_gib']:.2f} GiB")
    print("dry run: nothing was written.")
    if failed:
        raise Failed(f"{failed} of {len(plans)} arms cannot run")


# ---- inside ----


def _work(folder: Folder, cells: Sequence[Cell], jobs: Sequence[Job], seats: Sequence[Seat], console: Console) -> None:
    """Run the queue. Raises Interrupted when a signal came."""
    metric = folder.grid.metric
    groups = by_run(cells)
    console.say(
        f"{folder.grid.name}: {len(cells)} cells, {len(groups)} runs, {len(jobs)} to do; "
        f"{describe(seats)}; folder {folder.path}"
    )

    def ended(job: Job, outcome: Outcome) -> str:
        folder.note(job.name, outcome)
        first = read_results(folder, groups[job.name][:1])[0]
        value = first.value(metric) if outcome.code == DONE and metric != DIFFERENCE else None
        return "" if value is None else f"{metric} {value:.4g}"

    queue = Queue(jobs, seats, console)
    began = time.perf_counter()
    queue.run(ended)
    if queue.interrupted:
        left = sum(1 for job in jobs if not (job.name in queue.ended_jobs and queue.ended_jobs[job.name].code == DONE))
        raise Interrupted(f"{len(jobs) - left} of {len(jobs)} runs are done, {left} are left")
    if jobs:
        console.say(f"{len(jobs)} runs in {duration(time.perf_counter() - began)}")


def _jobs(
    folder: Folder, cells: Sequence[Cell], plans: Mapping[Arm, Plan], costs: Mapping[Arm, Cost], retry: bool
) -> list[Job]:
    """The runs that are not done, in the order of the grid; failed ones when they are to be tried again."""
    jobs = []
    for group in by_run(cells).values():
        states = [folder.state(cell).name for cell in group]
        if all(state == FINISHED for state in states) or (FAILED in states and not retry):
            continue
        config, samples = group[0].config, folder.grid.samples
        training = costs[group[0].arm].training_flops * config.train.batch_size * config.train.steps
        draws = {c.arm: costs[c.arm].forward_flops * samples * _calls(plans[c.arm]) for c in group}
        jobs.append(folder.job(group, Work(training, draws)))
    return jobs


def _calls(made: Plan) -> int:
    """About how many clips the network sees for one sample: adaptive samplers do not know."""
    return (made.sampler.evaluations or 100) * (2 if made.guidance.needs_uncond else 1)


def _say_failures(folder: Folder, cells: Sequence[Cell]) -> None:
    """Raises Failed when a run has failed, now or before."""
    failed = [run for run, group in by_run(cells).items() if any(folder.state(c).name == FAILED for c in group)]
    if failed:
        raise Failed(
            f"{len(failed)} of {len(by_run(cells))} runs: {', '.join(failed)} (logs in {folder.path / 'logs'}). "
            f"Once the cause is mended: the same command with --retry-failed"
        )
    interrupted = [
        c for c in cells if folder.ledger().get(c.run, {}).get("exit") == 75 and folder.state(c).name != FINISHED
    ]
    if interrupted:
        raise Interrupted(f"{interrupted[0].run} was asked to stop")


def _devices(grid: GridFile, wanted: str) -> list[str]:
    """The devices of `jobs.devices`, each one there. Raises Refused."""
    listed = [grid.devices] if isinstance(grid.devices, str) else list(grid.devices)
    if listed == ["auto"]:
        device = pick_device(wanted)
        if wanted == "auto" and device.type == "cuda":
            return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        return [str(device)]
    if wanted != "auto":
        raise Refused(f"--device {wanted} is for jobs.devices: auto, and {grid.path} lists {', '.join(listed)}.")
    return [str(pick_device(name)) for name in listed]


def _pictures(plans: Mapping[Arm, Plan]) -> bool:
    return all(made.dataset.shape[0] in (1, 3) for made in plans.values())


def _check_numbers(arguments: argparse.Namespace) -> None:
    """Raises Refused for a number out of range, before anything is read."""
    for name, least in (("jobs", 1), ("limit", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise Refused(f"--{name} is {value}: it must be at least {least}.")
