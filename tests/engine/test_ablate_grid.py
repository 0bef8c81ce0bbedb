"""A grid file is what it says, cell by cell, and what is wrong with it is said with its line before anything runs."""

import pytest

import zoo  # noqa: F401
from vidiff.config import ConfigError
from vidiff.engine.ablate.folders import folder_name
from vidiff.engine.ablate.grid import text
from vidiff.engine.ablate.pictures import plot_curves, training_of
from vidiff.engine.ablate.reading import read_grid
from vidiff.errors import Refused


@pytest.fixture
def grid(tmp_path, yaml_file):
    """grid(text, *typed): the text as a grid file on the tiny configuration, read with what is typed beside it."""

    def read(lines, *typed):
        file = tmp_path / "grid.yaml"
        file.write_text(f"base: {yaml_file.name}\n{lines}")
        return read_grid(file, typed)

    return read


FULL = """\
set: {train.steps: 5}
grid:
  backbone.name: [dit_joint, unet3d]
  optimizer.lr: [1.0e-3, 0.01]
zip:
  tokenizer.size: [[1, 4, 4], [2, 4, 4]]
  label: [frame, tubelet]
seeds: [3, 1]
exclude: [{backbone.name: unet3d, tokenizer.size: [1, 4, 4]}, {optimizer.lr: 0.01, label: tubelet}]
report: {baseline: {backbone.name: dit_joint, label: frame}, metric: val/loss, better: higher, samples: 2}
jobs: {where: local, devices: [cpu, cpu], per_device: 3}
"""


def test_every_combination_but_the_excluded(grid):
    made = grid(FULL)
    assert [arm.label for arm in made.arms()] == [
        "dit_joint, lr=0.001, frame",
        "dit_joint, lr=0.001, tubelet",
        "dit_joint, lr=0.01, frame",
        "unet3d, lr=0.001, tubelet",
    ]
    assert made.seeds == (3, 1) and made.name == "grid" and made.devices == ("cpu", "cpu") and made.per_device == 3
    changed = {c.key: c.value for p in made.arms()[1].points for c in p.changes}
    assert changed == {"backbone.name": "dit_joint", "optimizer.lr": 0.001, "tokenizer.size": [2, 4, 4]}


def test_the_baseline_of_an_arm_keeps_what_the_baseline_leaves_open(grid):
    made = grid(FULL)
    baselines = [made.baseline_of(arm).label for arm in made.arms()]
    assert baselines == ["dit_joint, lr=0.001, frame", "dit_joint, lr=0.001, frame", "dit_joint, lr=0.01, frame",
                         "dit_joint, lr=0.001, frame"]  # fmt: skip
    alone = grid("grid: {optimizer.lr: [1.0e-3, 0.01]}")
    assert {alone.baseline_of(arm).label for arm in alone.arms()} == {"lr=0.001"}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("backbone.name", "unet3d", "unet3d"),
        ("conditioner", "none", "conditioner=none"),
        ("guidance.name", "none", "guidance=none"),
        ("train.steps", 5, "steps=5"),
        ("ema.warmup", False, "warmup=false"),
        ("tokenizer.size", [1, 4, 4], "size=1x4x4"),
        ("objective", {"name": "rectified_flow", "prediction": "x0", "interval": [0, 0.9]},
         "rectified_flow x0 interval=0x0.9"),
    ],
)  # fmt: skip
def test_what_a_value_is_called(key, value, words):
    assert text(key, value) == words


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("gird: {seed: [1]}", "grid.yaml:2: there is no key 'gird'. Did you mean 'grid'?"),
        ("jobs: {per_devise: 2}", "grid.yaml:2: there is no key 'per_devise' in jobs. Did you mean 'per_device'?"),
        ("jobs: {where: slurm}", "grid.yaml:2: jobs.where is 'slurm': slurm comes in a later version"),
        ("jobs: {per_device: 0}", "grid.yaml:2: jobs.per_device is 0: it must be an integer of at least 1."),
        ("match: {by: flops}", "grid.yaml:2: cells of equal compute come in a later version"),
        ("evaluate: {metrics: [fvd]}", "grid.yaml:2: metrics of samples come in a later version"),
        ("seeds: [1, 1]", "grid.yaml:2: seeds is [1, 1]: write a list of different integers"),
        ("grid: {train.steps: 5}", "grid.yaml:2: grid: train.steps is 5: write a list of its values."),
        ("grid: {train.steps: [5, 5]}", "grid.yaml:2: grid: train.steps names a value twice."),
        ("zip:\n  train.steps: [1, 2]\n  train.clip: [1.0]",
         "grid.yaml:2: the lists of zip move together and must be equally long: train.steps has 2, train.clip has 1."),
        ("grid: {train.steps: [5, 6]}\nexclude: [{train.step: 5}]",
         "grid.yaml:3: exclude: no cell sets 'train.step'. Did you mean 'train.steps'?"),
        ("grid: {train.steps: [5, 6]}\nexclude: [{train.steps: 7}]",
         "grid.yaml:3: exclude: no cell is {train.steps: 7}."),
        ("grid: {train.steps: [5]}\nexclude: [{train.steps: 5}]", "grid.yaml:3: exclude leaves no cell."),
        ("grid: {train.steps: [5, 6]}\nreport: {baseline: {train.steps: 7}}",
         "grid.yaml:3: report.baseline: no cell has train.steps 7. There is steps=5, steps=6."),
        ("grid: {train.steps: [5, 6]}\nreport: {baseline: {train.clip: 1.0}}",
         "grid.yaml:3: report.baseline: no axis sets 'train.clip'."),
        ("report: {better: smaller}", "grid.yaml:2: report.better is 'smaller': write lower or higher."),
        ("report: {metrik: val/loss}", "grid.yaml:2: there is no key 'metrik' in report. Did you mean 'metric'?"),
        ("set: {seed: 3}", "grid.yaml:2: seeds are those of the grid: write seeds: [0, 1]"),
        ("grid: {seed: [0, 1]}", "grid.yaml:2: seeds are those of the grid: write seeds: [0, 1]"),
        ("set: {name: x}", "grid.yaml:2: a run is called by what it is: leave its name out."),
        ("set: {train.steps: 5}\ngrid: {train.steps: [5, 6]}", "grid.yaml:2: train.steps is an axis of the grid"),
        ("grid: {train.steps: [5, 6]}\nzip: {train.steps: [7]}", "grid.yaml:3: train.steps is an axis already."),
        ("name: a/b", "grid.yaml:2: name is 'a/b': it names a folder"),
    ],
    ids=lambda v: v.partition(":")[0] if "grid.yaml" not in v else "",
)  # fmt: skip
def test_refused_with_the_line_and_the_nearest_name(grid, lines, told):
    with pytest.raises(ConfigError) as refused:
        grid(lines)
    assert len(refused.value.problems) == 1
    assert told in refused.value.problems[0]


def test_arms_that_share_a_training_have_one_curve(grid, tmp_path):
    made = grid("grid: {optimizer.lr: [0.01, 0.1], sampler.steps: [2, 3]}")
    assert [training_of(arm) for arm in made.arms()] == ["lr=0.01", "lr=0.01", "lr=0.1", "lr=0.1"]
    assert {training_of(arm) for arm in grid("grid: {sampler.steps: [2, 3]}").arms()} == {"all arms"}
    assert plot_curves(tmp_path / "none.png", made, [], [], own_units=False) is None


def test_what_is_typed_changes_all_cells_or_the_grid_itself(grid):
    made = grid(
        FULL, "train.steps=2", "ema.decay=0.5", "seeds=[7]", "report.samples=1", "grid.optimizer.lr=[0.01, 0.2]"
    )
    assert [(c.key, c.value) for c in made.set] == [("train.steps", 5), ("train.steps", 2), ("ema.decay", 0.5)]
    assert made.seeds == (7,) and (made.samples, made.metric) == (1, "val/loss")
    assert [p.label for p in made.axes[1].points] == ["lr=0.01", "lr=0.2"]
    assert folder_name(made) == "grid+train.steps2+ema.decay0.5+grid.optimizer.lr-0.01-0.2"
    assert folder_name(grid(FULL, "seeds=[7]", "report.samples=1", "jobs.per_device=2")) == "grid"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("train.steps", "'train.steps' is not an override: write key=value"),
        ("jobs.per_devise=2", "'jobs.per_devise=2': there is no key 'per_devise' in jobs. Did you mean 'per_device'?"),
        ("seeds=3", "'seeds=3': seeds is 3: write a list of different integers"),
        ("backbone.name=unet3d", "'backbone.name=unet3d': backbone.name is an axis of the grid"),
        ("seed=3", "'seed=3': seeds are those of the grid: write seeds: [0, 1], or seeds=[0] on the command line."),
    ],
)
def test_what_is_typed_is_refused_in_the_same_words(grid, typed, told):
    with pytest.raises(Refused) as refused:
        grid(FULL.replace("exclude", "exclude: []\n# "), typed)
    assert len(str(refused.value).splitlines()) == 1 and told in str(refused.value)


def test_all_problems_together_and_none_is_fine_for_what_comes_later(grid):
    with pytest.raises(ConfigError) as refused:
        grid("gird: 1\nseeds: 3\nmatch: params\njobs: {devices: 0}")
    assert [p.split("grid.yaml:")[1][0] for p in refused.value.problems] == ["2", "4", "3", "5"]
    assert grid("match: none\nevaluate: none").arms()[0].label == "base"


def test_a_grid_without_a_base_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("seeds: [1]\n")
    with pytest.raises(Refused, match="base is missing"):
        read_grid(tmp_path / "x.yaml")
