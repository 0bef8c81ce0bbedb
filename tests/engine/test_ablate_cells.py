"""Cells: complete configurations, names that hold, runs that are shared, and common random numbers."""

import pytest
import torch

import zoo  # noqa: F401
from vidiff.building import build_diffuser, plan
from vidiff.config import ConfigError
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.task import Sampling
from vidiff.engine.ablate.cells import cells_of, check, select
from vidiff.engine.ablate.folders import Folder, agree, by_run, flow
from vidiff.engine.ablate.reading import read_grid
from vidiff.engine.data import collate
from vidiff.engine.log import Console
from vidiff.engine.parallel import world
from vidiff.engine.run import RunFolder
from vidiff.engine.sample import conditions_of, draw
from vidiff.engine.train import train
from vidiff.errors import Refused
from vidiff.random import Random


@pytest.fixture
def cells(tmp_path, yaml_file):
    """cells(text): the cells of a grid on the tiny configuration."""

    def make(lines, name="grid"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"base: {yaml_file.name}\n{lines}")
        return cells_of(read_grid(file))

    return make


def test_a_cell_is_its_base_changed_in_order(cells):
    made = cells("set: {train.steps: 5, objective: epsilon}\ngrid: {objective.path: [ddpm_cosine, vp]}")
    config = made[1].config
    assert (config.train.steps, config.components["objective"]["path"]["name"], config.seed) == (5, "vp", 0)
    assert config.components["objective"]["name"] == "epsilon" and config.components["backbone"]["dim"] == 24
    assert config.callbacks["x0_error"]["every"] == 1 and config.name == made[1].run
    assert [c.label for c in made] == ["ddpm_cosine, seed 0", "vp, seed 0"]


def test_names_tell_what_moves_the_weights_and_nothing_else(cells):
    lines = "grid: {{optimizer.lr: [0.01]}}\nseeds: [2]\nset: {{train.steps: {steps}, log.every: {every}}}"
    name = cells(lines.format(steps=5, every=1))[0].run
    assert name.startswith("lr0.01-s2-")
    assert cells(lines.format(steps=5, every=3))[0].run == name
    assert cells(lines.format(steps=6, every=1))[0].run != name


def test_cells_that_differ_in_sampling_share_a_run(cells):
    made = cells("grid: {train.clip: [1.0, 2.0], sampler.steps: [2, 3], guidance: [none, {name: cfg, scale: 2.0}]}")
    groups = by_run(made)
    assert len(made) == 8 and [len(g) for g in groups.values()] == [4, 4]
    assert [name.rpartition("-")[0] for name in groups] == ["clip1.0-s0", "clip2.0-s0"]
    assert len({c.draw for c in made[:4]}) == 4 and {c.draw for c in made[:4]} == {c.draw for c in made[4:]}


def test_the_same_experiment_twice_is_refused(cells):
    with pytest.raises(ConfigError, match="the cells 'a, seed 0' and 'b, seed 0' are the same experiment"):
        cells("zip: {label: [a, b], sampler.steps: [3, 3]}")


def test_samples_hold_although_the_code_has_more_settings_since():
    old = {"name": "euler", "steps": 3, "spacing": {"name": "uniform"}}
    new = {"name": "euler", "steps": 3, "spacing": {"name": "uniform", "last": None}, "path": None}
    assert agree(old, new) and agree(new, old)
    assert not agree(new, {**old, "steps": 4}) and not agree(new, {**old, "spacing": {"name": "shifted"}})


def test_impossible_cells_are_all_found_before_anything_runs(cells, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(
        "base: tiny.yaml\ngrid:\n  objective.prediction: [velocity, eps]\n  tokenizer.size: [[2, 4, 8], [3, 4, 8]]\n"
    )
    grid = read_grid(file)
    with pytest.raises(ConfigError) as refused:
        check(grid, cells_of(grid), world("cpu"))
    told = refused.value.problems
    assert len(told) == 2
    assert told[0].startswith(f"{file}:4: ") and "4 is not divisible by 3" in told[0]
    assert told[0].endswith("[velocity, size=3x4x8; eps, size=3x4x8]")
    assert told[1].startswith(f"{file}:3: ") and "eps prediction on the linear path is impossible at t = 1" in told[1]


@pytest.mark.parametrize(
    ("lines", "line", "key"),
    [
        ("set: {objective.weighting: snr}\ngrid: {objective.name: [rectified_flow, v_prediction]}", 2, "objective.weighting"),
        ("set: {backbone: {depth: 1}}\ngrid: {backbone.name: [dit_joint, uvit]}", 2, "backbone.depth"),
        ("grid:\n  objective.path: [linear, gvp]\n  objective: [rectified_flow, v_prediction]", 3, "objective.path"),
        ("set: {sampler.steps: 3}\nzip:\n  sampler: [euler, {name: euler, steps: 4}]", 2, "sampler.steps"),
    ],
)  # fmt: skip
def test_what_an_axis_would_undo_is_refused(cells, lines, line, key):
    """Naming another component drops what was set in the old one: such cells would differ in more than their axis."""
    with pytest.raises(ConfigError, match=f"grid.yaml:{line}: {key} is .* here and undone by .*Write it in the values"):
        cells(lines)


def test_a_change_within_what_was_named_before_it_lasts(cells):
    lines = "set: {objective: {name: v_prediction, weighting: snr}, sampler.steps: 3}\n"
    made = cells(lines + "grid: {objective.weighting: [uniform, snr], sampler: [euler]}")
    assert [c.config.components["objective"]["weighting"]["name"] for c in made] == ["uniform", "snr"]


def test_unknown_keys_of_cells_keep_their_line(tmp_path, yaml_file):
    file = tmp_path / "bad.yaml"
    file.write_text("base: tiny.yaml\nset:\n  samplr.steps: 3\ngrid:\n  backbone.dept: [1, 2]\n")
    with pytest.raises(ConfigError) as refused:
        cells_of(read_grid(file))
    assert refused.value.problems == [
        f"{file}:3: there is no key 'samplr'. Did you mean 'sampler'? [all cells]",
        f"{file}:5: backbone.dept is not a setting of dit_joint (zoo/backbones/dit_joint.py). Did you mean 'depth'? "
        "[all cells]",
    ]


def test_only(cells):
    made = cells("grid: {optimizer.lr: [0.01, 0.02], objective: [v_prediction, rectified_flow]}\nseeds: [0, 1]")
    assert len(select(made, [])) == 8
    assert {c.label for c in select(made, ["objective.name=v_prediction", "optimizer.lr=0.01", "seed=1"])} == {
        "lr=0.01, v_prediction, seed 1"
    }
    assert len(select(made, ["objective=v_prediction", "objective=rectified_flow", "seed=0"])) == 4
    with pytest.raises(Refused, match=r"objective.nam=…: no cell has a key 'objective.nam'"):
        select(made, ["objective.nam=v_prediction"])
    with pytest.raises(Refused, match=r"fits no cell. Did you mean 'v_prediction'\? There is v_prediction; rectified"):
        select(made, ["objective.name=v_predicton"])


def test_the_command_of_a_run_is_its_configuration(cells, tmp_path):
    """Typed by hand, the train command gives the same complete configuration."""
    from vidiff.config import load

    made = cells("grid: {objective: [{name: epsilon, path: {name: vp, beta_max: 15.0}}]}\nset: {optimizer.lr: 1.0e-5}")
    grid = read_grid(tmp_path / "grid.yaml")
    command = Folder(tmp_path / "out", grid).commands(made, "cpu")[0]
    base = command.index(str(grid.base))
    overrides = [word for word in command[base + 1 :] if "=" in word]
    assert load(grid.base, overrides).to_dict() == made[0].config.to_dict()


@pytest.mark.parametrize(
    "value", [1e-5, 1e22, "none", "yes", "3", True, [1, 4, 4], {"a": None, "b": [1e-7, "1:30"]}, ""]
)
def test_values_survive_the_command_line(value):
    from vidiff.config.reading import parse_override

    assert parse_override(f"a.b={flow(value)}") == ("a.b", value)


@pytest.fixture
def single_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "lines",
    [
        "zip: {objective: [epsilon, edm, iddpm, {name: rectified_flow, times: logit_normal}, meanflow],"
        " sampler: [euler, heun, ancestral, rk4, jump]}",
        "zip: {backbone: [{name: dit_joint, dim: 24, depth: 2}, {name: unet3d, dim: 8, multipliers: [1], num_heads: 2}],"
        " positions: [learned, sincos]}",
        "grid: {conditioner: [none, label, {name: several, parts: [label, {name: text_bytes, gives: vector}]}]}",
        "grid: {sampler: [{name: euler, steps: 3}, {name: heun, steps: 2}, {name: dpmpp_2m_sde, steps: 2}]}",
    ],
    ids=["objective", "backbone", "conditioner", "sampler"],
)
def test_whatever_cells_differ_in_they_meet_the_same_noise(cells, lines, monkeypatch):
    """In training (clips and noise) and in sampling (the noise a sample starts from and its condition)."""
    seen = []

    def spied(owner, name, told):
        real = getattr(owner, name)

        def spy(self, *args, **kwargs):
            answer = real(self, *args, **kwargs)
            seen[-1].append((name, *(x.double().sum().item() for x in told(answer, *args))))
            return answer

        monkeypatch.setattr(owner, name, spy)

    spied(Objective, "draw_noise", lambda noise, random, x0: (x0, noise))
    spied(Sampling, "noise", lambda noise: (noise,))
    for cell in cells(f"set: {{attention: math}}\n{lines}"):
        seen.append([])
        made = plan(cell.config)
        diffuser = build_diffuser(cell.config, made.dataset)
        for step in range(2):
            rows = list(range(6 * step, 6 * step + 6))
            random = Random(0, "train", rows=rows, first=rows[0], total=6)
            assert diffuser(collate([made.dataset[i] for i in rows]), random)["loss"].isfinite()
        told = conditions_of(made, [0, 1])
        draw(diffuser, made.grid, made.sampler, made.guidance, seed=0, rows=[0, 1], conditions=told)
        seen[-1] = [*seen[-1], ("labels", [c.get("label") for c in told])]
    names = ["draw_noise", "draw_noise", "noise", "labels"]
    assert len(seen) > 1 and all([name for name, *_ in events] == names for events in seen)
    assert all(events[:3] == seen[0][:3] for events in seen)
    assert "conditioner" in lines or all(events[3] == seen[0][3] for events in seen)


def test_cells_meet_the_same_clips_noise_and_panel(cells, tmp_path, monkeypatch, single_thread):
    """Common random numbers: cells that differ in the learning rate differ in the weights only."""
    seen = []
    loss_at = Objective.loss_at

    def recorded(self, net, x0, noise, t, cond):
        seen[-1].append((x0.sum().item(), noise.sum().item(), t.sum().item(), torch.is_grad_enabled()))
        return loss_at(self, net, x0, noise, t, cond)

    monkeypatch.setattr(Objective, "loss_at", recorded)
    made = cells(
        "grid: {optimizer.lr: [1.0e-3, 0.01]}\nseeds: [0, 1]\n"
        "set: {train.steps: 4, callbacks: {validation: {every: 2, num: 5}, x0_error: {every: 2, num: 5}}}"
    )
    weights = []
    for cell in made:
        seen.append([])
        folder = RunFolder(tmp_path / cell.run)
        folder.open(cell.config)
        console = Console(folder.path / "log.txt", quiet=True)
        train(plan(cell.config), folder, world("cpu"), console, "none", 0.0)
        folder.close()
        weights.append((folder.path / "checkpoints/step_00000004/model.safetensors").read_bytes())
    slow0, slow1, fast0, fast1 = seen
    training, validation = ([d for d in slow0 if d[3] is grad] for grad in (True, False))
    assert len(training) == 4 and len(validation) == 4
    assert slow0 == fast0 and slow1 == fast1
    assert len(set(weights)) == 4
    assert [d for d in slow1 if d[3]] != training  # another seed, other draws
    assert [d for d in slow1 if not d[3]] == validation  # but the same panel
