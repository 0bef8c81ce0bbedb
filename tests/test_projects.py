"""Every project can be planned as it is, and a tiny twin of it trains three steps and draws a clip."""

import re
import shlex
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import yaml

import zoo  # noqa: F401
from vidiff.building import build_diffuser, build_sampling, count_parameters, plan
from vidiff.config import load
from vidiff.config.schema import SLOTS
from vidiff.engine.checkpoint import Checkpoints, Snapshot
from vidiff.engine.data import collate
from vidiff.engine.optim import make_optimizer
from vidiff.engine.parallel import world
from vidiff.engine.preflight import preflight
from vidiff.engine.profile import cost
from vidiff.engine.runs import read_run, start_from
from vidiff.engine.sample import class_conditions, draw
from vidiff.random import Random
from vidiff.registry import KINDS, build
from vidiff.types import CondSpec, Grid

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = sorted((ROOT / "projects").glob("*.yaml"))
SIZES = sorted(path for path in (ROOT / "projects/_base").glob("*.yaml") if "announced" in path.read_text())
FILES = {
    "moving_mnist": lambda node: (1, node["frames"], 64, 64),
    "video_folder": lambda node: (3, node["frames"], *node["size"]),
}
"""Data sets that read files which are not here -> the shape of their clips."""


def label(path):
    return path.stem


def stand_in(shape, *others):
    return ["data=stand_in", f"data.shape={list(shape)}", *others]


def named_runs(config):
    """The keys of a configuration that name another run."""
    named = {"objective.teacher": config.components["objective"].get("teacher"), "train.init": config.train.init}
    return [key for key, run in named.items() if run]


@cache
def left_behind(tiny, project=ROOT / "projects/nano_sora_cpu.yaml"):
    """The folder of a run of a project that others name, or of its tiny twin with random weights."""
    folder = Path(KEPT.name) / f"{project.stem}_{'tiny' if tiny else 'whole'}"
    folder.mkdir()
    made = tiny_twin(project) if tiny else planned(project)
    (folder / "config.yaml").write_text(made.config.to_yaml())
    if tiny:
        dice, fresh = torch.Generator().manual_seed(0), build_diffuser(made.config, made.dataset).state_dict()
        weights = {name: w + 0.05 * torch.randn(w.shape, generator=dice) for name, w in fresh.items()}
        Checkpoints(folder / "checkpoints").save(1, Snapshot({"model": weights}, {}))
    return folder


KEPT = TemporaryDirectory()


def planned(path, *overrides):
    """The plan of a project; random clips of the same shape where its data are files."""
    config = load(path)
    data = config.components["data"]
    replaced = stand_in(FILES[data["name"]](data)) if data["name"] in FILES else []
    replaced += [f"{key}={left_behind(tiny=False)}" for key in named_runs(config)]
    return plan(load(path, [*replaced, *overrides]))


def tiny_twin(path, *others, runs=()):
    """The same components with their registered tiny settings, on small random clips. `runs`: those of the whole one."""
    whole = planned(path, *others, *runs)
    channels, frames, *_ = whole.dataset.shape
    words = KINDS["conditioner"][whole.config.components["conditioner"]["name"]].tiny
    texts = [words["length"], words["dim"]] if whole.config.components["data"].get("texts") else None
    overrides = stand_in((channels, min(frames, 4), 16, 16), f"data.num_classes={whole.dataset.num_classes}")
    overrides = [] if hasattr(whole.dataset, "law") else overrides  # what the network knows is these data
    overrides += [f"data.texts={texts}"] if texts else []
    for slot in set(SLOTS) - {"data", "tokenizer"}:
        node = whole.config.components[slot]
        tiny = KINDS[SLOTS[slot].kind][node["name"]].tiny
        overrides += [
            f"{slot}.{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"
            for key, value in tiny.items()
            if not any(other.startswith(f"{slot}.{key}=") for other in others)
        ]
    overrides += [f"{key}={left_behind(tiny=True)}" for key in named_runs(whole.config)]
    steps = [] if any(o.startswith("sampler.steps=") for o in overrides) else ["sampler.steps=3"]
    return plan(load(path, [*others, *overrides, *steps]), read=read_run)


OFFERED = r"""^#.* ("?(?:guidance|cache|sampler)=.*?)(?: {2,}.*)?$"""
"""The end of a comment line, up to what is said after spaces."""


def offered():
    """(project, overrides) of the sampling that the comments of a project offer, quoted as a shell takes it."""
    found = []
    for path in PROJECTS:
        for line in re.findall(OFFERED, path.read_text(), re.MULTILINE):
            overrides = [word for word in shlex.split(line) if "=" in word]
            found.append(pytest.param(path, overrides, id=f"{path.stem} {overrides[0][:50]}"))
    return found


@pytest.mark.parametrize("path", PROJECTS, ids=label)
def test_a_tiny_twin_trains_and_draws(path):
    made = tiny_twin(path)
    diffuser = build_diffuser(made.config, made.dataset, read_run)
    if made.config.train.init:
        start_from(diffuser, made.config.train.init)
    learns = any(True for _ in diffuser.parameters())
    optimizer = make_optimizer(diffuser, made.config.optimizer)
    before = [p.detach().clone() for p in diffuser.parameters()]
    for step in range(3):
        rows = range(2 * step, 2 * step + 2)
        batch = collate([made.dataset[i] for i in rows])
        loss = diffuser(batch, Random(0, "train", rows=list(rows)))["loss"]
        assert loss.isfinite()
        assert loss.requires_grad == learns
        if learns:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert not learns or any(not torch.equal(p, q) for p, q in zip(diffuser.parameters(), before, strict=True))
    shown = "latent" in diffuser.reads or made.task.pixels is not None
    items = [{k: v for k, v in made.dataset[i].items() if shown or k != "video"} for i in range(2)]
    conditions = items if diffuser.reads or shown else class_conditions(range(2), 0)
    video = draw(
        diffuser, made.grid, *build_sampling(made.config), seed=0, rows=[0, 1], conditions=conditions, task=made.task
    ).video
    assert video.shape == (2, *made.dataset.shape) and video.dtype == torch.uint8
    assert video.float().std() > 0


@pytest.mark.parametrize(("path", "overrides"), offered())
def test_the_sampling_that_a_project_offers_fits_it_and_draws(path, overrides):
    """Planned at the project's own size, drawn by its tiny twin: of random weights, as a fresh network answers 0."""
    slot, node = overrides[0].split("=", 1)
    wanted = yaml.safe_load(node)
    weak = {tiny: [f"guidance.weak={left_behind(tiny, path)}"] if "weak" in wanted else [] for tiny in (False, True)}
    named = wanted if isinstance(wanted, str) else wanted["name"]
    assert planned(path, *overrides, *weak[False]).config.components[slot]["name"] == named
    if slot == "guidance":  # the second to last block of many may be the first of two
        overrides = [re.sub(r"blocks: \[\d+\]", "blocks: [1]", o) for o in overrides]
    made = tiny_twin(path, *overrides, *weak[True], runs=weak[False])
    diffuser = build_diffuser(made.config, made.dataset, read_run)
    dice = torch.Generator().manual_seed(0)
    for parameter in diffuser.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=dice)
    conditions = [made.dataset[i] for i in range(2)] if diffuser.reads else class_conditions(range(2), 0)
    video = draw(
        diffuser, made.grid, made.sampler, made.guidance, seed=0, rows=[0, 1], conditions=conditions, cache=made.cache
    ).video
    assert video.shape == (2, *made.dataset.shape) and video.float().std() > 0


def test_the_guidances_and_caches_of_papers_have_a_project():
    text = "".join(path.read_text() for path in PROJECTS)
    names = (*set(KINDS["guidance"].names()) - {"none", "per_condition"}, *set(KINDS["cache"].names()) - {"none"})
    assert [name for name in names if f"name: {name}" not in text] == []


@pytest.mark.parametrize("path", SIZES, ids=label)
def test_the_sizes_of_the_second_system_are_what_their_files_say(path):
    """Announced were 100 M, 400 M, 1 B and 3 B; 25 D^2 a block, biases and gains are what they have."""
    node = yaml.safe_load(path.read_text())["backbone"]
    with torch.device("meta"):
        net = build(
            "backbone",
            node,
            grid=Grid(96, 8, 16, 16),
            out_channels=96,
            cond=CondSpec(),
            attention=build("attention", "sdpa"),
            positions=partial(build, "positions", "sincos"),
        )
    dim, depth = node["dim"], node["depth"]
    rest = (3 + 1 + 3 + 1 + 4 + 1 + 9) * dim + 4 * dim // node["num_heads"]  # biases; gains of queries and keys
    stated = int(re.search(r"([\d,]+) parameters", path.read_text())[1].replace(",", ""))
    assert count_parameters(net.blocks) == stated == depth * (25 * dim**2 + rest)


@pytest.mark.slow
@pytest.mark.parametrize("path", PROJECTS, ids=label)
def test_a_project_that_a_laptop_cannot_train_in_an_hour_says_so(path):
    """About 1 PFLOP: the demo's 0.1 take 7 minutes on two cores."""
    made = planned(path)
    work = cost(made).training_flops * made.config.train.batch_size * made.config.train.steps / 1e15
    texts = [path.read_text()]
    while (base := yaml.safe_load(texts[-1]).get("base")) and not isinstance(base, list):
        texts.append((path.parent / base).read_text())
    stated = [(words[1], float(words[2].replace(",", ""))) for t in texts if (words := re.search(SAID, t))]
    assert bool(stated) or work < 1
    if work >= 1:
        assert stated[0] == (f"{made.config.train.steps:,}", pytest.approx(work, rel=0.02))


SAID = r"(?i)its ([\d,]+) steps are ([\d,.]+) PFLOP"


def test_the_short_trainings_of_the_makefile_are_accepted():
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "tools/train.py $(PROJECT)" in line]
    overrides = [[word for word in line.split() if re.match(r"[a-z_.]+=", word)] for line in lines]
    assert len(lines) == 3 and sum(map(bool, overrides)) == 2
    for changed in overrides:
        preflight(plan(load(ROOT / "projects/nano_sora_cpu.yaml", changed)), world("cpu"))


def test_there_are_four_sizes_and_every_variant_of_latte():
    assert [path.stem for path in SIZES] == ["advanced_large", "advanced_medium", "advanced_small", "advanced_xl"]
    plans = {
        name: load(ROOT / f"projects/latte_{name}.yaml").components["backbone"]["plan"]
        for name in ("v", "v1", "v2", "v3", "v4")
    }
    assert list(plans.values()) == ["interleaved", "interleaved", "late_fusion", "sequential", "split_heads"]


def test_variants_of_latte_have_about_as_many_parameters():
    counts = [count_parameters(planned(ROOT / f"projects/latte_v{i}.yaml").diffuser) for i in (1, 2, 3, 4)]
    assert max(counts) < 1.05 * min(counts)


def test_the_basic_network_has_the_parameters_it_says():
    made = planned(ROOT / "projects/basic_unet3d.yaml")
    assert f"{count_parameters(made.diffuser) / 1e6:.1f} M" in made.config.description
