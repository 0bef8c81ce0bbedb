"""What parts refuse of each other, each as one function; and a rehearsal on the meta device."""

from __future__ import annotations

import math
import os

import torch
from torch import nn

from vidiff.blocks import Rows
from vidiff.caching import Cache, Tally
from vidiff.config import Config
from vidiff.config.checking import plain
from vidiff.config.schema import SLOTS
from vidiff.diffuser import Diffuser
from vidiff.diffusion.guidance import Guidance
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.sampler import Sampler
from vidiff.registry import BACKBONES, KINDS, SAMPLERS, build
from vidiff.types import VELOCITY, BadSample, Cond, CondSpec, Dataset, Grid, shapes_of


@torch.no_grad()
def rehearse(diffuser: Diffuser, grid: Grid) -> None:
    """One call of the network on the meta device, which computes no numbers. Raises ValueError when parts clash."""
    spec = diffuser.conditioner.spec
    with torch.device("meta"):
        length = max(spec.length, 1)
        cond = Cond(
            vector=torch.empty(1, spec.vector) if spec.vector else None,
            tokens=torch.empty(1, length, spec.tokens) if spec.tokens else None,
            mask=torch.empty(1, length, dtype=torch.bool) if spec.tokens and spec.masked else None,
            channels=torch.empty(1, spec.channels, *grid[1:]) if spec.channels else None,
            image=torch.empty(1, 1, spec.image) if spec.image else None,
            coords=torch.empty(1, math.prod(grid[1:]), 3) if diffuser.base_fps else None,
        )
        times = torch.empty(1, grid.t) if diffuser.objective.framewise else torch.empty(1)
        diffuser.backbone(torch.empty(1, *grid), times, diffuser.objective.complete(cond, times))


def try_shape(config: Config, diffuser: Diffuser, dataset: Dataset, shape: tuple[int, int, int, int]) -> None:
    """Tokenizer, conditioner and backbone meet a shape (C,T,H,W) on the meta device. Raises ValueError."""
    shapes = shapes_of(dataset)
    try:
        grid = Grid(*diffuser.tokenizer.latent_shape(shape))
        diffuser.backbone.check(grid)
        if [shape] != shapes:
            wiring = dict(width=config.components["backbone"].get("dim", 0), num_classes=dataset.num_classes)
            with torch.device("meta"):
                build("conditioner", config.components["conditioner"], **wiring, grid=grid)
        rehearse(diffuser, grid)
    except ValueError as error:
        name = "x".join(map(str, shape[1:]))
        raise ValueError(str(error) if [shape] == shapes else f"clips of {name}: {error}") from None


def check_batch(config: Config, dataset: Dataset) -> None:
    """Raises ValueError when the frames of one pass alone are more than the machine holds."""
    clips = config.train.batch_size // config.train.accumulate
    largest = max(shapes_of(dataset), key=math.prod)
    need, have = clips * math.prod(largest), machine_bytes()
    if need > have:
        shape = "x".join(map(str, largest))
        sizes = f"{need / 2**30:,.0f} GiB, the machine has {have / 2**30:,.0f}"
        raise ValueError(f"{clips:,} clips of {shape} are {sizes}.")


def machine_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_attention(config: Config, diffuser: Diffuser, device: str) -> None:
    """Raises ValueError when the attention cannot run on this device at the run's precision."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.train.precision]
    attention, head_dim = getattr(diffuser.backbone, "attention", None), getattr(diffuser.backbone, "head_dim", 64)
    masked = getattr(diffuser.backbone, "masked", False)
    reason = attention.refuses(torch.device(device).type, dtype, head_dim, masked) if attention is not None else None
    if reason:
        raise ValueError(reason)


def check_guidance(guidance: Guidance | None, diffuser: Diffuser) -> None:
    """Raises ValueError when guidance needs a null condition and there is none, or cannot guide this model."""
    if guidance is None:
        return
    if guidance.needs_uncond and not diffuser.conditioner.spec.provides:
        raise ValueError(
            "it compares with and without a condition, and the conditioner gives none. Use a conditioner, such as "
            "label, or guidance none."
        )
    guidance.check(diffuser)


def check_cache(cache: Cache, diffuser: Diffuser, grid: Grid) -> None:
    """Raises ValueError when the backbone's blocks are not what the cache keeps."""
    cache.check(diffuser.backbone)
    with cache.start(Tally()).call(diffuser.backbone, [None], Rows(1, torch.device("meta"))):
        rehearse(diffuser, grid)


def check_sampler(sampler: Sampler | None, diffuser: Diffuser, guidance: Guidance | None = None) -> None:
    """Raises ValueError when the sampler takes an estimate for something that this objective does not tell, or cannot
    take its steps along the path."""
    if sampler is None:
        return
    objective, tells = diffuser.objective, diffuser.objective.tells
    if not sampler.asks & tells:
        able = [f"sampler {c.name}" for c in SAMPLERS if getattr(c.target, "asks", frozenset()) & tells]
        use = " or ".join(able) if len(able) < 4 else "another sampler, such as euler, heun or dpmpp_2m"
        raise ValueError(
            f"it asks a model for {' or '.join(sorted(sampler.asks))}, and this objective's estimates tell "
            f"{' and '.join(sorted(tells))} only. Use {use}."
        )
    if sampler.reads_variances and not objective.tells_variances:
        raise ValueError(
            "variance=learned needs a model that answers variances: objective iddpm or vlb, with variance "
            "learned_range. Use variance: small."
        )
    if sampler.reads_variances and guidance is not None and guidance.silent:
        raise ValueError(
            "variance=learned needs an answer at every step, and this guidance asks the network nothing in the first "
            "ones. Use its zero_init: 0, or variance: small."
        )
    own = sampler.path is None
    path, interval = (objective.path, objective.interval) if own else (sampler.path, (0.0, 1.0))
    times = sampler.spacing(sampler.steps, path, interval)
    sampler.check(path, times)
    if sampler.asks & tells - VELOCITY:
        begins, ends = (t if own else objective.path.time(path.logsnr(t)) for t in sampler.takes(times))
        objective.check_steps(begins, ends)


def check_null(objective: Objective, conditioner: nn.Module) -> None:
    """Raises ValueError when the loss compares with a null condition that is not there, or never shown in training."""
    if not objective.needs_null:
        return
    if not conditioner.spec.provides:
        raise ValueError("its targets are guided away from no condition, and there is none. Use conditioner label.")
    if max(conditioner.drop if isinstance(conditioner.drop, tuple) else [conditioner.drop]) == 0:
        raise ValueError(
            "its targets are guided away from the network's answer to no condition, and conditioner.drop is 0, so "
            "it learns none. Use conditioner.drop: 0.1."
        )


def check_reads(config: Config, diffuser: Diffuser, dataset: Dataset) -> None:
    """Raises ValueError when the conditioner reads what the clips of the data set do not have.

    A clip is looked at only when there is a reason to; labels are checked by `num_classes`.
    """
    needs = diffuser.reads - {"latent", "video", "label"}
    if config.components["positions"].get("base_fps") and not diffuser.base_fps:
        raise ValueError(f"backbone {config.components['backbone']['name']} has no place for positions.base_fps. "
                         "Use another backbone, or leave it away.")  # fmt: skip
    if not needs:
        return
    try:
        given = {key for key in dataset[0] if not key.startswith("_")}
    except BadSample:
        return  # unreadable clips are the engine's business
    for missing in sorted(needs - given):
        raise ValueError(
            f"it reads '{missing}', and the clips of data {config.components['data']['name']} have "
            f"{', '.join(sorted(given))}. Use other data, or another conditioner."
        )


def feed(config: Config, spec: CondSpec) -> bool:
    """True when the condition has all that the backbone cannot do without (`needs`). Raises ValueError."""
    names = config.components
    told = KINDS["conditioner"][names["conditioner"]["name"]].target
    if "label" in getattr(told, "reads", ()) and not spec.provides:
        raise ValueError("it has no width that a learned condition could have. Use conditioner one_hot, or none.")
    missing = getattr(BACKBONES[names["backbone"]["name"]].target, "needs", frozenset()) - spec.provides
    if missing:
        raise ValueError(
            f"it needs {', '.join(sorted(missing))}, and conditioner {names['conditioner']['name']} gives "
            f"{', '.join(sorted(spec.provides)) or 'nothing'}. Use conditioner text_bytes or another backbone."
        )
    return True


def check_told(config: Config, backbone: nn.Module, routes: frozenset[str]) -> None:
    """Raises ValueError when the objective tells the network more than its routes take."""
    if routes - backbone.uses:
        able = [f"backbone {c.name}" for c in BACKBONES if routes <= getattr(c.target, "uses", frozenset())]
        raise ValueError(
            f"it tells the network a second time by the condition's {', '.join(sorted(routes))}, which backbone "
            f"{config.components['backbone']['name']} does not take. Use {' or '.join(able)}."
        )


def check_asked_for(config: Config, key: str) -> None:
    """Raises ValueError for a choice the backbone does not ask for; the default stands for what it has itself."""
    node, default = config.components[key], SLOTS[key].default
    settings = KINDS[key][default].settings.items()
    backbone = config.components["backbone"]["name"]
    own = {"name": default, **{name: plain(setting.default) for name, setting in settings}}
    if key not in BACKBONES[backbone].wiring and node != own:
        raise ValueError(
            f"it changes nothing: backbone {backbone} has {key} of its own. Use no '{key}' with it, or "
            f"the default, {default}, which stands for them."
        )


def check_routes(config: Config, backbone: nn.Module, spec: CondSpec) -> None:
    """Raises ValueError when the backbone has no use for a route of the condition."""
    unusable = spec.provides - backbone.uses
    if unusable:
        names = config.components
        able = [c.name for c in BACKBONES if spec.provides <= getattr(c.target, "uses", frozenset())]
        ways = [*(f"backbone {name}" for name in able), "another conditioner"]
        raise ValueError(
            f"it cannot use the {', '.join(sorted(unusable))} that conditioner {names['conditioner']['name']} "
            f"gives; it takes {', '.join(sorted(backbone.uses)) or 'no condition'}. Use {' or '.join(ways)}."
        )
