"""Where the kinds meet: a checked configuration to wired components.

Everything is first built on the meta device, which costs no memory, so that an impossible
combination is refused, all problems together, before anything heavy starts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidiff.blocks import Rows
from vidiff.caching import Cache, Tally
from vidiff.config import Config, ConfigError, load
from vidiff.config.checking import OF_A_BACKBONE, plain
from vidiff.config.schema import SLOTS
from vidiff.diffuser import Diffuser
from vidiff.diffusion.guidance import Guidance
from vidiff.diffusion.mixture import Mixture
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Canvas, Task
from vidiff.errors import Refused
from vidiff.frozen import Frozen
from vidiff.gate import gate
from vidiff.precision import widen_convolutions
from vidiff.random import derive
from vidiff.registry import BACKBONES, KINDS, SAMPLERS, build, did_you_mean
from vidiff.types import Attention, BadSample, Cond, CondSpec, Dataset, Grid, shapes_of


@dataclass
class Plan:
    """What a configuration comes to: built for real where that is cheap, on the meta device where it is not.

    `shape` (C,T,H,W) and its latent `grid` are those of the videos to draw, the data set's first.
    """

    config: Config
    dataset: Dataset
    grid: Grid
    diffuser: Diffuser
    sampler: Sampler
    guidance: Guidance
    shape: tuple[int, int, int, int]
    runs: dict[str, Any] = field(default_factory=dict)
    """The other runs whose models components asked for, with what `read` said of them."""
    task: Task = field(default_factory=Task)
    cache: Cache = field(default_factory=Cache)


Read = Callable[[Diffuser, str], Any]
"""Fills a diffuser with the averaged weights of a run; one on the meta device is only compared with them.

Returns what is to be kept of the run in a record. Raises Refused where they do not fit.
"""


def build_dataset(config: Config, split: str) -> Dataset:
    """The dataset of a configuration: split "train", "val" or "test".

    Held-out clips are the same for every seed, so that runs of different seeds are measured alike.
    """
    seed = config.seed if split == "train" else 0
    return build("dataset", config.components["data"], seed=seed, split=split)


def build_diffuser(config: Config, dataset: Dataset, read: Read | None = None) -> Diffuser:
    """The model with its initial weights, a function of the seed. The configuration must have passed `plan`.

    `read` opens the runs that components learn from; without it the model can be sampled, but not so trained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "init"))
        builder = _Builder(config, dataset, read, training=read is not None)
        diffuser = builder.diffuser()
    if builder.problems:
        raise ConfigError(builder.problems)
    return diffuser


def build_sampling(config: Config, read: Read | None = None) -> tuple[Sampler, Guidance]:
    """The sampler and the guidance of a configuration; `read` opens the runs that guidance needs."""
    loading = dict(load=_Builder(config, None, read).load)
    return build("sampler", config.components["sampler"]), build("guidance", config.components["guidance"], **loading)


def plan(config: Config, device: str = "cpu", read: Read | None = None, training: bool = True) -> Plan:
    """Build everything on the meta device. Raises ConfigError with every problem found.

    `read` opens the runs that components name; without it only their configurations are looked at. A model that is
    sampled only (`training` False) does not need the run it learned from.
    """
    builder = _Builder(config, None, read, training)
    builder.dataset = builder.attempt("data", lambda: build_dataset(config, "train"))
    sampler = builder.attempt("sampler", lambda: build("sampler", config.components["sampler"]))
    guidance = builder.attempt("guidance", lambda: build("guidance", config.components["guidance"], load=builder.load))
    cache = builder.attempt("cache", lambda: build("cache", config.components["cache"]))
    if builder.dataset is not None:
        builder.attempt("data", lambda: check_batch(config, builder.dataset))
    with torch.device("meta"):
        diffuser = builder.diffuser() if builder.dataset is not None else None
    if diffuser is not None:
        for shape in shapes_of(builder.dataset) if not builder.problems else []:
            builder.attempt("backbone", lambda shape=shape: try_shape(config, diffuser, builder.dataset, shape))
        builder.attempt("attention", lambda: check_attention(config, diffuser, device))
        builder.attempt("guidance", lambda: check_guidance(guidance, diffuser))
        if cache is not None and not builder.problems:
            builder.attempt("cache", lambda: check_cache(cache, diffuser, builder.grid))
        builder.attempt("sampler", lambda: check_sampler(sampler, diffuser))
        builder.attempt("conditioner", lambda: check_reads(config, diffuser, builder.dataset))
        task = builder.attempt("task", lambda: build_task(config, diffuser, tuple(builder.dataset.shape)))
        if None not in (task, sampler):
            builder.attempt("task", lambda: task.check(sampler, diffuser.objective, diffuser.reads))
    if builder.problems:
        raise ConfigError(builder.problems)
    shape = tuple(builder.dataset.shape)
    grid = Grid(*diffuser.tokenizer.latent_shape(shape))
    return Plan(config, builder.dataset, grid, diffuser, sampler, guidance, shape, builder.runs, task, cache)


def build_task(config: Config, diffuser: Diffuser, shape: tuple[int, int, int, int]) -> Task:
    """The task of a configuration, for videos of this shape (C,T,H,W). Raises ValueError when it does not fit them."""
    tokenizer = diffuser.tokenizer
    return build(
        "task", config.components["task"], canvas=Canvas(shape, Grid(*tokenizer.latent_shape(shape)), tokenizer)
    )


def grid_of(plan: Plan, shape: tuple[int, int, int, int]) -> Grid:
    """The latent of a video (C,T,H,W). Raises ValueError when the tokenizer cannot take it."""
    return Grid(*plan.diffuser.tokenizer.latent_shape(shape))


def reshaped(plan: Plan, shape: tuple[int, int, int, int]) -> Plan:
    """The same plan for videos of another shape (C,T,H,W). Raises ValueError when a part cannot take it."""
    try_shape(plan.config, plan.diffuser, plan.dataset, shape)
    task = build_task(plan.config, plan.diffuser, shape)
    return replace(plan, grid=grid_of(plan, shape), shape=shape, task=task)


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


@torch.no_grad()
def rehearse(diffuser: Diffuser, grid: Grid) -> None:
    """One call of the network on the meta device, which computes no numbers. Raises ValueError when parts clash."""
    spec = diffuser.conditioner.spec
    with torch.device("meta"):
        length = max(spec.length, 1)
        cond = Cond(
            vector=torch.empty(1, spec.vector) if spec.vector else None,
            tokens=torch.empty(1, length, spec.tokens) if spec.tokens else None,
            mask=torch.empty(1, length, dtype=torch.bool) if spec.tokens else None,
            channels=torch.empty(1, spec.channels, *grid[1:]) if spec.channels else None,
            image=torch.empty(1, 1, spec.image) if spec.image else None,
            coords=torch.empty(1, math.prod(grid[1:]), 3) if diffuser.base_fps else None,
        )
        times = torch.empty(1, grid.t) if diffuser.objective.framewise else torch.empty(1)
        diffuser.backbone(torch.empty(1, *grid), times, diffuser.objective.complete(cond, times))


def check_attention(config: Config, diffuser: Diffuser, device: str) -> None:
    """Raises ValueError when the attention cannot run on this device at the run's precision."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.train.precision]
    attention, head_dim = getattr(diffuser.backbone, "attention", None), getattr(diffuser.backbone, "head_dim", 64)
    masked = getattr(diffuser.backbone, "masked", False)
    reason = attention.refuses(torch.device(device).type, dtype, head_dim, masked) if attention is not None else None
    if reason:
        raise ValueError(reason)


def law_of(dataset: Dataset, tokenizer: nn.Module) -> Mixture | None:
    """The law of the latents: known where that of the data is (`law`) and the tokenizer only moves numbers about."""
    law = getattr(dataset, "law", None)
    if law is None or any(True for _ in (*tokenizer.parameters(), *tokenizer.buffers())):
        return None
    places = torch.arange(math.prod(dataset.shape), dtype=torch.float64, device="cpu")
    order = tokenizer.encode(places.reshape(1, *dataset.shape)).flatten()
    return law.permuted(order.long()) if torch.equal(order.sort().values, places) else None


def build_attention(config: Config) -> Attention:
    """The attention of a configuration, behind the gate that compares it with the formula on first use."""
    node = config.components["attention"]
    settings = [f"{key}={value}" for key, value in node.items() if key != "name"]
    return gate(build("attention", node), " ".join([node["name"], *settings]))


def check_guidance(guidance: Guidance | None, diffuser: Diffuser) -> None:
    """Raises ValueError when guidance needs a null condition and there is none, or cannot guide this model."""
    if guidance is None:
        return
    if guidance.needs_uncond and not diffuser.conditioner.spec.provides:
        raise ValueError("this guidance compares with and without a condition, and the conditioner gives none.")
    guidance.check(diffuser)


def check_cache(cache: Cache, diffuser: Diffuser, grid: Grid) -> None:
    """Raises ValueError when the backbone's blocks are not what the cache keeps."""
    cache.check(diffuser.backbone)
    with cache.start(Tally()).call(diffuser.backbone, [None], Rows(1, torch.device("meta"))):
        rehearse(diffuser, grid)


def check_sampler(sampler: Sampler | None, diffuser: Diffuser) -> None:
    """Raises ValueError when the sampler takes an estimate for something that this objective does not tell."""
    tells = diffuser.objective.tells
    if sampler is not None and not sampler.asks & tells:
        able = [f"sampler {c.name}" for c in SAMPLERS if getattr(c.target, "asks", frozenset()) & tells]
        raise ValueError(
            f"it asks a model for {' or '.join(sorted(sampler.asks))}, and this objective's estimates tell "
            f"{' and '.join(sorted(tells))} only. Use {' or '.join(able)}."
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


class _Builder:
    """Builds the components of a diffuser in order, collecting what they refuse."""

    def __init__(self, config: Config, dataset: Dataset | None, read: Read | None = None, training: bool = True):
        self.config, self.dataset, self.read, self.training = config, dataset, read, training
        self.runs: dict[str, Any] = {}
        self.problems: list[str] = []
        self.grid = Grid(1, 1, 1, 1)

    def attempt(self, key: str, make: Callable[[], Any]) -> Any:
        """make(), or None with the problem noted under the key."""
        try:
            return make()
        except (ValueError, OSError) as error:
            name = self.config.components[key]["name"]
            text = str(error)
            prefix = "" if text.startswith((key, f"{name}:")) else f"{key} {name}: "
            self.problems.append(f"{self.config.where(key)}{prefix}{text}")
            return None

    def diffuser(self) -> Diffuser | None:
        """The diffuser, or None when a part was refused (see `problems`)."""
        parts = self.config.components
        tokenizer = self._part("tokenizer")
        grid = self._attempt_grid(tokenizer)
        width = parts["backbone"].get("dim", 0)
        objective = self._part(
            "objective", width=width, grid=grid, load=self.load if self.training else self.absent,
            shape=tuple(self.dataset.shape), training=self.training,
        )  # fmt: skip
        wiring = dict(width=width, num_classes=self.dataset.num_classes, grid=grid or self.grid)
        conditioner = self._part("conditioner", **wiring)
        backbone = None
        if None not in (grid, objective, conditioner) and self.attempt("backbone", lambda: self._fed(conditioner.spec)):
            self.grid = grid
            spec = objective.extend(conditioner.spec)
            backbone = self._part(
                "backbone",
                grid=grid,
                out_channels=grid.c * objective.outputs,
                cond=spec,
                attention=self.attempt("attention", lambda: build_attention(self.config)),
                positions=partial(build, "positions", parts["positions"]),
                objective=objective,
                law=self.attempt("data", lambda: law_of(self.dataset, tokenizer)),
            )
        for key in OF_A_BACKBONE:
            self.attempt(key, lambda key=key: self._asked_for(key))
        if backbone is None:
            return None
        self.attempt("backbone", lambda: self._meet(backbone, grid, conditioner.spec))
        self.attempt("objective", lambda: self._told(backbone, spec.provides - conditioner.spec.provides))
        reads = getattr(conditioner, "reads", frozenset())
        self.attempt("objective", lambda: objective.check(backbone, reads))
        return Diffuser(tokenizer, conditioner, backbone, objective)

    def load(self, run: str) -> Frozen:
        """Another run's model, frozen. Raises ValueError when it is not there or has other latents than ours."""
        if self.dataset is None:
            self.dataset = build_dataset(self.config, "train")
        theirs, meta = meta_model(run, self.config, self.dataset)
        if self.read is not None:
            self.runs[run] = self.read(meta, run)
        path = self.config.components["objective"].get("path")
        same = path is None or path == theirs.components["objective"].get("path")
        make = partial(self._open, run, theirs)
        return Frozen(run, meta.objective, make, None if same else build("path", path))

    def absent(self, run: str) -> Frozen:
        """In the place of a model that is not asked for."""
        return Frozen(run, None, partial(self._open, run, None))

    def _open(self, run: str, theirs: Config | None, device: torch.device) -> Diffuser:
        if self.read is None or theirs is None:
            raise RuntimeError(f"the model of {run} was planned but its weights were not asked for")
        model = build_diffuser(theirs, dataset_of(theirs, self.config, self.dataset))
        self.read(model, run)
        return widen_convolutions(model.to(device), device, self.config.train.precision)

    def _part(self, key: str, **wiring: Any) -> nn.Module | None:
        return self.attempt(key, lambda: build(key, self.config.components[key], **wiring))

    def _attempt_grid(self, tokenizer: nn.Module | None) -> Grid | None:
        """The grid to build for: along each axis the longest latent that the clips have."""
        if tokenizer is None:
            return None
        shapes = shapes_of(self.dataset)
        grids = [self.attempt("tokenizer", lambda s=s: Grid(*tokenizer.latent_shape(s))) for s in shapes]
        return None if None in grids else Grid(*map(max, zip(*grids, strict=True)))

    def _fed(self, spec: CondSpec) -> bool:
        """True when the condition has all that the backbone cannot do without (`needs`). Raises ValueError."""
        names = self.config.components
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

    def _told(self, backbone: nn.Module, routes: frozenset[str]) -> None:
        """Raises ValueError when the objective tells the network more than its routes take."""
        if routes - backbone.uses:
            able = [f"backbone {c.name}" for c in BACKBONES if routes <= getattr(c.target, "uses", frozenset())]
            raise ValueError(
                f"it tells the network a second time by the condition's {', '.join(sorted(routes))}, which backbone "
                f"{self.config.components['backbone']['name']} does not take. Use {' or '.join(able)}."
            )

    def _asked_for(self, key: str) -> None:
        """Raises ValueError for a choice the backbone does not ask for; the default stands for what it has itself."""
        node, default = self.config.components[key], SLOTS[key].default
        settings = KINDS[key][default].settings.items()
        backbone = self.config.components["backbone"]["name"]
        own = {"name": default, **{name: plain(setting.default) for name, setting in settings}}
        if key not in BACKBONES[backbone].wiring and node != own:
            raise ValueError(
                f"it changes nothing: backbone {backbone} has {key} of its own. Use no '{key}' with it, or "
                f"the default, {default}, which stands for them."
            )

    def _meet(self, backbone: nn.Module, grid: Grid, spec: CondSpec) -> None:
        unusable = spec.provides - backbone.uses
        if unusable:
            names = self.config.components
            able = [c.name for c in BACKBONES if spec.provides <= getattr(c.target, "uses", frozenset())]
            ways = [*(f"backbone {name}" for name in able), "another conditioner"]
            raise ValueError(
                f"it cannot use the {', '.join(sorted(unusable))} that conditioner {names['conditioner']['name']} "
                f"gives; it takes {', '.join(sorted(backbone.uses)) or 'no condition'}. Use {' or '.join(ways)}."
            )
        backbone.check(grid)


def run_folder(path: Path) -> Path:
    """The folder of the run that a run folder or one of its checkpoints belongs to. Raises Refused."""
    folder = path.resolve().parents[1] if (path / "manifest.json").is_file() else path
    if not (folder / "config.yaml").is_file():
        runs = [p.name for p in path.parent.iterdir() if (p / "config.yaml").is_file()] if path.parent.is_dir() else []
        raise Refused(f"{path} is neither a run folder nor a checkpoint.{did_you_mean(path.name, runs)}")
    return folder


def meta_model(run: str, config: Config, dataset: Dataset) -> tuple[Config, Diffuser]:
    """The configuration of a run and its model on the meta device.

    Raises Refused for no run, and for one whose latents, classes or conditions are not those of `config`.
    """
    theirs = load(run_folder(Path(run)) / "config.yaml")
    ours, tokenizer = config.components["tokenizer"], theirs.components["tokenizer"]
    if tokenizer != ours:
        raise Refused(f"the latents of {run} are those of tokenizer {_written(tokenizer)}, not of {_written(ours)}.")
    data = dataset_of(theirs, config, dataset)
    builder = _Builder(theirs, data, training=False)
    with torch.device("meta"):
        diffuser = builder.diffuser()
    if diffuser is None or builder.problems:
        raise Refused(f"the model of {run} cannot be built: {builder.problems[0]}")
    if tuple(data.shape) != tuple(dataset.shape):
        theirs_, ours_ = ("x".join(map(str, shape)) for shape in (data.shape, dataset.shape))
        raise Refused(f"{run} was trained on clips of {theirs_} (latent {builder.grid}), and these are {ours_}.")
    if "label" in diffuser.reads and data.num_classes != dataset.num_classes:
        raise Refused(f"{run} knows {data.num_classes} classes, and the data have {dataset.num_classes}.")
    check_reads(config, diffuser, dataset)
    return theirs, diffuser


def dataset_of(theirs: Config, config: Config, dataset: Dataset) -> Dataset:
    """The data another run was trained on: ours, where they are the same."""
    same = theirs.components["data"] == config.components["data"]
    return dataset if same else build_dataset(theirs, "train")


def _written(node: dict[str, Any]) -> str:
    """A component as one writes it in YAML: 'tubelet (size [2, 4, 8])'."""
    settings = ", ".join(f"{key} {value}" for key, value in node.items() if key != "name")
    return f"{node['name']} ({settings})" if settings else node["name"]


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
