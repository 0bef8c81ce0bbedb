"""A configuration's components in their order, each with its wiring, and the models of other runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidiff.building.meeting import check_asked_for, check_null, check_reads, check_routes, check_told, feed
from vidiff.config import Config, ConfigError, load
from vidiff.config.checking import OF_A_BACKBONE
from vidiff.diffuser import Diffuser
from vidiff.diffusion.guidance import Guidance
from vidiff.diffusion.mixture import Mixture
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.sampler import Sampler
from vidiff.errors import Refused
from vidiff.frozen import Frozen
from vidiff.gate import gate
from vidiff.precision import widen_convolutions
from vidiff.random import derive
from vidiff.registry import KINDS, build, did_you_mean
from vidiff.types import VELOCITY, Attention, CondSpec, Dataset, Grid, Tokenizer, shapes_of

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


def outlined(config: Config, note: Callable[[str], None]) -> Dataset:
    """The training data or, where their files are not here, what their settings promise of them; `note` is told so."""
    node = dict(config.components["data"])
    try:
        return build_dataset(config, "train")
    except ValueError as error:
        name = node.pop("name")
        outline = getattr(KINDS["dataset"][name].target, "outline", lambda **_: None)(**node)
        if outline is None:
            raise
        note(f"data {name}: counted for clips of {'x'.join(map(str, outline.shape))}, as its settings say ({error})")
        return outline


def build_diffuser(config: Config, dataset: Dataset, read: Read | None = None) -> Diffuser:
    """The model with its initial weights, a function of the seed. The configuration must have passed `plan`.

    `read` opens the runs that components learn from; without it the model can be sampled, but not so trained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "init"))
        builder = Builder(config, dataset, read, training=read is not None)
        diffuser = builder.diffuser()
    if builder.problems:
        raise ConfigError(builder.problems)
    return diffuser


def build_sampling(config: Config, read: Read | None = None) -> tuple[Sampler, Guidance]:
    """The sampler and the guidance of a configuration; `read` opens the runs that guidance needs."""
    loading = dict(load=Builder(config, None, read).load)
    return build("sampler", config.components["sampler"]), build("guidance", config.components["guidance"], **loading)


class Builder:
    """Builds the components of a diffuser in order, collecting what they refuse."""

    def __init__(
        self, config: Config, dataset: Dataset | None, read: Read | None = None, training: bool = True,
        alone: bool = False,
    ):  # fmt: skip
        """`alone`: other runs that are not there are not asked for, which `notes` say."""
        self.config, self.dataset, self.read, self.training, self.alone = config, dataset, read, training, alone
        self.runs: dict[str, Any] = {}
        self.notes: list[str] = []
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
        if None not in (grid, objective, conditioner) and self.attempt(
            "backbone", lambda: feed(self.config, conditioner.spec)
        ):
            self.grid = grid
            spec = self.attempt("objective", lambda: objective.extend(conditioner.spec))
            if spec is not None:
                backbone = self._backbone(tokenizer, objective, spec)
        for key in OF_A_BACKBONE:
            self.attempt(key, lambda key=key: check_asked_for(self.config, key))
        if backbone is None:
            return None
        self.attempt("backbone", lambda: check_routes(self.config, backbone, conditioner.spec))
        self.attempt("backbone", lambda: backbone.check(grid))
        self.attempt("objective", lambda: check_told(self.config, backbone, spec.provides - conditioner.spec.provides))
        reads = getattr(conditioner, "reads", frozenset())
        self.attempt("objective", lambda: objective.check(backbone, reads))
        self.attempt("objective", lambda: check_null(objective, conditioner))
        return Diffuser(tokenizer, conditioner, backbone, objective)

    def _backbone(self, tokenizer: Tokenizer, objective: Objective, spec: CondSpec) -> nn.Module | None:
        return self._part(
            "backbone",
            grid=self.grid,
            out_channels=self.grid.c * objective.outputs,
            cond=spec,
            attention=self.attempt("attention", lambda: build_attention(self.config)),
            positions=partial(build, "positions", self.config.components["positions"]),
            objective=objective,
            law=self.attempt("data", lambda: law_of(self.dataset, tokenizer)),
        )

    def load(self, run: str, asks: frozenset[str] = VELOCITY) -> Frozen:
        """Another run's model, frozen. Raises ValueError when it is not there, has other latents than ours or tells
        nothing of what its estimates are taken for."""
        if self.alone and not (Path(run) / "config.yaml").is_file():
            self.notes.append(f"run {run} is not there: whether its model fits is not known")
            return self.absent(run)
        if self.dataset is None:
            self.dataset = build_dataset(self.config, "train")
        theirs, meta = meta_model(run, self.config, self.dataset)
        if not asks & meta.objective.tells:
            raise Refused(f"it asks the model of {run} for {' or '.join(sorted(asks))}, and the estimates of objective "
                          f"{theirs.components['objective']['name']} tell {' and '.join(sorted(meta.objective.tells))} "
                          "only. Use another run.")  # fmt: skip
        if self.read is not None:
            self.runs[run] = self.read(meta, run)
        path = self.config.components["objective"].get("path")
        same = path is None or path == theirs.components["objective"].get("path")
        make = partial(self._open, run, theirs)
        return Frozen(run, meta.objective, make, None if same else build("path", path))

    def absent(self, run: str, asks: frozenset[str] = VELOCITY) -> Frozen:
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


def build_attention(config: Config) -> Attention:
    """The attention of a configuration, behind the gate that compares it with the formula on first use."""
    node = config.components["attention"]
    settings = [f"{key}={value}" for key, value in node.items() if key != "name"]
    return gate(build("attention", node), " ".join([node["name"], *settings]))


def law_of(dataset: Dataset, tokenizer: nn.Module) -> Mixture | None:
    """The law of the latents: known where that of the data is (`law`) and the tokenizer only moves numbers about."""
    law = getattr(dataset, "law", None)
    if law is None or any(True for _ in (*tokenizer.parameters(), *tokenizer.buffers())):
        return None
    places = torch.arange(math.prod(dataset.shape), dtype=torch.float64, device="cpu")
    order = tokenizer.encode(places.reshape(1, *dataset.shape)).flatten()
    return law.permuted(order.long()) if torch.equal(order.sort().values, places) else None


def run_folder(path: Path) -> Path:
    """The folder of the run that a run folder or one of its checkpoints belongs to. Raises Refused."""
    folder = path.resolve().parents[1] if (path / "manifest.json").is_file() else path
    if not (folder / "config.yaml").is_file():
        raise Refused(f"{path} is neither a run folder nor a checkpoint.{_what_instead(path)}")
    return folder


def _what_instead(path: Path) -> str:
    """The run that was perhaps meant: the one around the path, that of a project, a neighbour of almost that name."""
    around = next((p for p in path.parents if (p / "config.yaml").is_file()), None)
    if around is not None:
        return f" Its run is {around}."
    if path.suffix in (".yaml", ".yml"):
        return f" A project is trained first, into runs/{path.stem} where --out is not given; name that folder."
    runs = [p.name for p in path.parent.iterdir() if (p / "config.yaml").is_file()] if path.parent.is_dir() else []
    return did_you_mean(path.name, runs)


def meta_model(run: str, config: Config, dataset: Dataset) -> tuple[Config, Diffuser]:
    """The configuration of a run and its model on the meta device.

    Raises Refused for no run, and for one whose latents, classes or conditions are not those of `config`.
    """
    theirs = load(run_folder(Path(run)) / "config.yaml")
    ours, tokenizer = config.components["tokenizer"], theirs.components["tokenizer"]
    if tokenizer != ours:
        raise Refused(f"the latents of {run} are those of tokenizer {_written(tokenizer)}, not of {_written(ours)}.")
    data = dataset_of(theirs, config, dataset)
    builder = Builder(theirs, data, training=False)
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
