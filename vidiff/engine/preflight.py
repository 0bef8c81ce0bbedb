"""Before a run: refuse what cannot work, and try everything once without writing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from vidiff.building import Plan, build_diffuser, machine_bytes
from vidiff.config import Config, ConfigError
from vidiff.diffuser import Diffuser
from vidiff.engine.buckets import Buckets, Passes, sort_clips
from vidiff.engine.checkpoint import verify
from vidiff.engine.data import check_length, loader, to_device
from vidiff.engine.ema import curves
from vidiff.engine.optim import LearningRate, make_optimizer
from vidiff.engine.parallel import World, autocast, check_precision, peak_memory_gib
from vidiff.engine.runs import read_run, start_from
from vidiff.engine.sample import conditions_of, draw
from vidiff.errors import Refused
from vidiff.precision import widen_convolutions
from vidiff.random import Random
from vidiff.registry import build


def preflight(plan: Plan, world: World, resume: str = "auto") -> Buckets:
    """Refuse, before a folder is made, what `plan` cannot see. Raises ConfigError with every problem.

    Returns the training clips by shape.
    """
    config = plan.config
    stand_in = torch.nn.Linear(2, 3, device=world.device)

    def optimizer() -> None:
        LearningRate(make_optimizer(stand_in, config.optimizer), config.schedule, config.train.steps)

    checks = [lambda: check_precision(world.device, config.train.precision), lambda: check_length(plan.dataset)]
    checks += [lambda: check_memory(plan.diffuser, world.device)]
    checks += [lambda: check_init(plan), lambda: check_average(plan)]
    checks += [lambda: rows_of_step(config, world), optimizer, lambda: curves(config.ema)]
    checks += [partial(refuse_unused, config)]
    checks += [partial(check_callback, plan, name) for name in config.callbacks]
    checks += [lambda: verify(Path(resume))] if resume not in ("auto", "none") else []
    problems = []
    for check in checks:
        try:
            check()
        except Refused as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    return sort_clips(plan)


def check_average(plan: Plan) -> None:
    """Raises Refused when the objective's targets come from an average that the run does not keep."""
    if plan.diffuser.objective.needs_average and not curves(plan.config.ema):
        name = plan.config.components["objective"]["name"]
        raise Refused(f"objective {name}: target=average needs an average. Use ema.decay=0.99 or so, or target=online.")


def check_init(plan: Plan) -> None:
    """Note in `plan.runs` which weights the run starts with. Raises Refused when they do not fit the model."""
    init = plan.config.train.init
    if init is not None:
        plan.runs[init] = start_from(plan.diffuser, init)


def check_callback(plan: Plan, name: str) -> None:
    """Raises Refused when a callback refuses its settings, or the model (its `check(diffuser)`, if it has one)."""
    try:
        callback = build("callback", {"name": name, **plan.config.callbacks[name]})
        getattr(callback, "check", lambda diffuser: None)(plan.diffuser)
    except ValueError as error:
        raise Refused(f"{plan.config.where(f'callbacks.{name}')}callback {name}: {error}") from None


def refuse_unused(config: Config) -> None:
    """Raises Refused for settings of the schedule and the averages that the chosen ones would not look at."""
    schedule, ema = config.schedule, config.ema
    used = {"schedule.cycles": schedule.name == "cosine_restarts", "schedule.power": schedule.name == "polynomial",
            "schedule.decay_fraction": schedule.name == "wsd",
            "schedule.reference_steps": schedule.name == "inverse_sqrt",
            "schedule.min_lr": schedule.name not in ("constant", "inverse_sqrt"),
            "ema.warmup_power": ema.warmup == "power", "ema.warmup_share": ema.warmup == "share",
            "ema.snapshot_every": bool(ema.sigma_rel)}  # fmt: skip
    for key, looked_at in used.items():
        section, _, name = key.partition(".")
        value, default = (getattr(s, name) for s in (getattr(config, section), type(getattr(config, section))()))
        if not looked_at and value != default:
            chosen = f"schedule.name is {schedule.name}" if section == "schedule" else "no average looks at it"
            raise Refused(f"{config.where(key)}{key} is {value} and changes nothing: {chosen}. Remove it.")


def check_memory(diffuser: Diffuser, device: torch.device) -> None:
    """Raises Refused when weights, gradients, two moments and the average do not fit the machine (CPU only)."""
    need, have = 5 * sum(4 * p.numel() for p in diffuser.parameters()), machine_bytes()
    if device.type == "cpu" and need > have:
        raise Refused(
            f"training {need // 20:,} parameters needs {need / 2**30:,.0f} GiB, the machine has {have / 2**30:,.0f}."
        )


def dry_run(plan: Plan, world: World, buckets: Buckets | None = None) -> dict[str, float]:
    """Everything once, nothing written: one real batch forward and backward, and a two-step sample."""
    config = plan.config
    plan.sampler.steps = 2
    diffuser = build_diffuser(config, plan.dataset, read_run).to(world.device)
    widen_convolutions(diffuser, world.device, config.train.precision)
    buckets, total = buckets or sort_clips(plan), config.train.batch_size
    part = Passes(buckets, config.seed, total, range(total), config.train.accumulate)(0)[0]
    samples = next(loader(buckets.tolerant(plan.dataset), [part.clips]))
    random = Random(config.seed, "train", rows=part.rows, total=total, device=world.device)
    with autocast(world.device, config.train.precision):
        loss = diffuser(to_device(samples, world.device), random)["loss"]
    if loss.requires_grad:  # not of an exact answer, which has nothing to learn
        loss.backward()
    loss = loss.detach()
    rows = range(2)
    drawing = draw(
        diffuser, plan.grid, plan.sampler, plan.guidance, seed=config.seed, rows=rows,
        conditions=conditions_of(plan, rows), precision=config.train.precision, task=plan.task, cache=plan.cache,
    )  # fmt: skip
    return {
        "loss": float(loss),
        "clips": len(part.clips),
        "frames": drawing.video.shape[2],
        "peak_gib": peak_memory_gib(world.device),
    }


def rows_of_step(config: Config, world: World) -> range:
    """The rows of a step's batch that are this process's. Raises Refused when they do not split evenly."""
    rows = world.share(config.train.batch_size, "train.batch_size")
    if len(rows) % config.train.accumulate:
        raise Refused(
            f"train.batch_size is {config.train.batch_size}: it does not split into "
            f"train.accumulate={config.train.accumulate} equal passes on {world.size} process(es)."
        )
    return rows
