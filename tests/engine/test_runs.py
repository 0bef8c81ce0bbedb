"""A component that needs another run's model: found, checked, frozen, and nobody's parameters."""

import copy
import json
import re
import shutil

import pytest
import torch

from vidiff.building import build_diffuser, build_sampling, plan
from vidiff.building.builder import run_folder
from vidiff.commands import train
from vidiff.config import ConfigError, load
from vidiff.diffusion.guidance import Guidance
from vidiff.engine.checkpoint import read_tensors, sha256
from vidiff.engine.data import collate
from vidiff.engine.parallel import world
from vidiff.engine.preflight import preflight
from vidiff.engine.runs import find_checkpoint, read_run
from vidiff.errors import Refused
from vidiff.random import Random
from vidiff.registry import GUIDANCE, OBJECTIVES, build
from vidiff.types import Load, Run
from zoo.objectives.rectified_flow import RectifiedFlow


class Imitation(RectifiedFlow):
    """The teacher's x0 in the place of the data."""

    def __init__(self, teacher: Run, path: str = "linear", *, load: Load):
        super().__init__(*(build(kind, name) for kind, name in (
            ("path", path), ("prediction", "velocity"), ("weighting", "uniform"), ("times", "uniform"),
            ("noise", "gaussian"))))  # fmt: skip
        self.teacher = load(teacher)

    def loss_at(self, net, x0, noise, t, cond):
        believed = self.teacher.estimator(cond)(self.path.point(x0, noise, t), t).x0
        return super().loss_at(net, believed, noise, t, cond)


@pytest.fixture(autouse=True)
def imitation():
    OBJECTIVES.register("imitation", parts={})(Imitation)
    yield
    OBJECTIVES.remove("imitation")


@pytest.fixture
def teacher(start, tmp_path):
    start("train.steps=4", out="teacher")
    return tmp_path / "teacher"


def student(yaml_file, teacher, *overrides):
    name = str(teacher)
    return load(yaml_file, [f"objective={{name: imitation, teacher: {name}}}", *overrides])


def batch_of(dataset, num=3):
    return collate([dataset[i] for i in range(num)])


def test_the_teacher_is_asked_with_its_average_and_its_own_condition(yaml_file, teacher):
    made = plan(student(yaml_file, teacher), read=read_run)
    diffuser = build_diffuser(made.config, made.dataset, read_run)
    theirs = build_diffuser(load(teacher / "config.yaml"), made.dataset)
    file = find_checkpoint(teacher)[1] / "ema.safetensors"
    theirs.load_state_dict(read_tensors(file))
    batch, drop = batch_of(made.dataset), torch.tensor([False, True, False])
    x, t = torch.randn(3, *made.grid), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    cond = diffuser.condition({**batch, "latent": x}, drop)
    found = diffuser.objective.teacher.estimator(cond)(x, t)
    with torch.no_grad():
        theirs.eval()
        wanted = theirs.objective.estimate(theirs.backbone, x, t, theirs.conditioner(batch, drop))
    assert torch.equal(found.x0, wanted.x0) and not found.x0.requires_grad
    assert not torch.allclose(wanted.x0, diffuser.objective.estimate(diffuser.backbone, x, t, cond).x0)


def test_guidance_guides_the_teacher_on_its_own_conditions(yaml_file, teacher):
    made = plan(student(yaml_file, teacher), read=read_run)
    frozen = build_diffuser(made.config, made.dataset, read_run).objective.teacher
    batch = batch_of(made.dataset)
    x, t = torch.randn(3, *made.grid), torch.full((3,), 0.6, dtype=torch.float64)
    diffuser = build_diffuser(made.config, made.dataset)
    given, null = diffuser.conditions(batch, 3)
    u, c = (frozen.estimator(cond)(x, t).x0 for cond in (null, given))
    guided = frozen.estimator(given, build("guidance", {"name": "cfg", "scale": 2.5}))(x, t).x0
    assert torch.allclose(guided, u + 2.5 * (c - u), atol=1e-5) and not torch.allclose(u, c)


def test_it_is_no_part_of_its_holder(yaml_file, teacher):
    made = plan(student(yaml_file, teacher), read=read_run)
    diffuser = build_diffuser(made.config, made.dataset, read_run)
    plain = build_diffuser(load(yaml_file), made.dataset)
    before = diffuser.state_dict().keys()
    diffuser(batch_of(made.dataset), Random(0, "train", rows=range(3)))["loss"].backward()
    assert diffuser.state_dict().keys() == before == plain.state_dict().keys()
    assert len(list(diffuser.parameters())) == len(list(plain.parameters()))
    frozen = diffuser.objective.teacher
    assert copy.deepcopy(diffuser).objective.teacher is frozen
    assert all(p.grad is None and not p.requires_grad for p in frozen.model(torch.device("cpu")).parameters())


def test_another_path_is_reached_by_matching_log_snr(yaml_file, teacher):
    """On gvp the teacher of a linear path is asked at the time and scale of equal noise: x0 is the same."""
    straight = plan(student(yaml_file, teacher), read=read_run)
    curved = plan(student(yaml_file, teacher, "objective.path=gvp"), read=read_run)
    models = [build_diffuser(made.config, made.dataset, read_run) for made in (straight, curved)]
    batch = batch_of(straight.dataset)
    x, t = torch.randn(3, *straight.grid), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    linear, gvp = (m.objective.path for m in models)
    s = gvp.time(linear.logsnr(t))
    scale = (gvp.norm(s) / linear.norm(t)).float()[:, None, None, None, None]
    cond = models[0].conditions(batch, 3)[0]
    a = models[0].objective.teacher.estimator(cond)(x, t)
    b = models[1].objective.teacher.estimator(cond)(scale * x, s)
    assert torch.allclose(a.x0, b.x0, atol=1e-4)


def test_training_with_a_teacher_resumes_with_the_same_bits(start, yaml_file, teacher, tmp_path):
    settings = [f"objective={{name: imitation, teacher: {teacher}}}"]
    whole = start(*settings, out="whole")
    start(*settings, "train.steps=3", "schedule.name=constant", out="part")
    assert (whole / "checkpoints/step_00000007/ema.safetensors").is_file()
    once = start(*settings, "schedule.name=constant", out="once")
    start(*settings, "schedule.name=constant", out="part", allow_change=True)
    files = [read_tensors(run / "checkpoints/step_00000007/model.safetensors") for run in (once, tmp_path / "part")]
    assert all(torch.equal(files[0][k], files[1][k]) for k in files[0])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["tokenizer.size=[2, 8, 8]"], ["tokenizer tubelet", r"size \[2, 4, 8\]", r"size \[2, 8, 8\]"]),
        (["data.frames=8"], ["clips of 1x4x16x16", "latent 64x2x4x2", "1x8x16x16"]),
    ],
    ids=["tokenizer", "frames"],
)
def test_what_does_not_fit_is_refused_in_one_line(yaml_file, teacher, overrides, words):
    with pytest.raises(ConfigError) as refused:
        plan(student(yaml_file, teacher, *overrides), read=read_run)
    assert len(refused.value.problems) == 1 and "\n" not in str(refused.value)
    for word in [*words, "objective imitation", teacher.name]:
        assert re.search(word, str(refused.value)), (word, str(refused.value))


def test_a_missing_run_is_named_and_its_neighbour_proposed(yaml_file, teacher):
    with pytest.raises(ConfigError, match="neither a run folder nor a checkpoint. Did you mean 'teacher'?"):
        plan(student(yaml_file, teacher.with_name("teachr")), read=read_run)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("run/checkpoints", r"Its run is .*run\.$"),
        ("run/checkpoints/step_00000003/ema.safetensors", r"Its run is .*run\.$"),
        ("my_project.yaml", "trained first, into runs/my_project where --out is not given"),
    ],
)
def test_what_is_no_run_is_told_with_the_run_that_was_meant(tmp_path, path, told):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    with pytest.raises(Refused, match=told):
        run_folder(tmp_path / path)


def test_weights_that_do_not_fit_are_named(yaml_file, teacher, start, tmp_path):
    start("backbone.dim=48", "train.steps=3", out="wide")
    file = "checkpoints/step_00000003"
    shutil.rmtree(teacher / "checkpoints")
    shutil.copytree(tmp_path / "wide" / file, teacher / file)
    with pytest.raises(ConfigError, match=r"does not fit this model: .*is \(.*48.*\), expected \(.*24"):
        plan(student(yaml_file, teacher), read=read_run)


def test_a_damaged_run_is_refused_before_anything_starts(yaml_file, teacher):
    for file in teacher.glob("checkpoints/step_*/ema.safetensors"):
        data = bytearray(file.read_bytes())
        data[-5] ^= 8
        file.write_bytes(data)
    with pytest.raises(ConfigError, match="no checkpoint of this run is intact"):
        plan(student(yaml_file, teacher), read=read_run)


def test_a_student_is_sampled_without_its_teacher(yaml_file, teacher, start):
    run = start(f"objective={{name: imitation, teacher: {teacher}}}", "train.steps=3", out="student")
    shutil.rmtree(teacher)
    config = load(run / "config.yaml")
    made = plan(config, read=read_run, training=False)
    diffuser = build_diffuser(config, made.dataset)
    read_run(diffuser, str(run))
    label = {"label": torch.tensor([1, 2])}
    video = diffuser.sample(made.grid, made.sampler, made.guidance, Random(0, "sample", rows=[0, 1]), label)
    assert video.isfinite().all()
    with pytest.raises(ConfigError, match="neither a run folder"):
        plan(config, read=read_run)


def test_an_empty_name_is_no_run(yaml_file):
    with pytest.raises(ConfigError, match="objective.teacher is '': it must be the folder of a run"):
        load(yaml_file, ["objective={name: imitation, teacher: ''}"])


class Weaker(Guidance):
    """Away from a weaker self: autoguidance in one line."""

    needs_uncond = False

    def __init__(self, weak: Run, *, load: Load):
        self.weak = load(weak)

    def __call__(self, evaluate, given):
        return self.weak.estimator(given.cond.cond)


def test_guidance_gets_runs_too(yaml_file, teacher):
    GUIDANCE.register("weaker")(Weaker)
    try:
        config = load(yaml_file, [f"guidance={{name: weaker, weak: {teacher}}}"])
        made = plan(config, read=read_run, training=False)
        diffuser = build_diffuser(config, made.dataset)
        for guidance in (made.guidance, build_sampling(config, read_run)[1]):
            random = Random(0, "sample", rows=[0, 1])
            video = diffuser.sample(made.grid, made.sampler, guidance, random, {"label": torch.tensor([1, 2])})
            assert video.isfinite().all()
        assert set(made.runs) == {str(teacher)} and len(made.runs[str(teacher)]["sha256"]) == 64
    finally:
        GUIDANCE.remove("weaker")


# ---- starting from another run ----


def test_a_run_starts_from_the_average_of_another(start, teacher, tmp_path):
    frozen_lr = ["optimizer.lr=1.0e-12", "train.steps=1", "schedule.name=constant", "schedule.warmup_steps=0"]
    run = start(f"train.init={teacher}", *frozen_lr, out="student")
    theirs = read_tensors(find_checkpoint(teacher)[1] / "ema.safetensors")
    own = {g: read_tensors(find_checkpoint(run)[1] / f"{g}.safetensors") for g in ("model", "ema")}
    assert all(torch.allclose(own[g][k], theirs[k], atol=1e-8) for g in own for k in own[g])
    other = start(*frozen_lr, out="other")
    fresh = read_tensors(find_checkpoint(other)[1] / "model.safetensors")
    assert not all(torch.allclose(fresh[k], theirs[k], atol=1e-4) for k in fresh)


def test_another_start_is_another_experiment(start, teacher):
    start(f"train.init={teacher}", "train.steps=3", out="student")
    with pytest.raises(Refused, match=r"another experiment \(train.init: .* -> null"):
        start("train.steps=3", out="student")


def test_what_only_an_objective_has_may_be_missing(start, teacher, tmp_path):
    """A shortcut model begins as the flow model it starts from, and a flow model may begin as a shortcut model's."""
    short = start("objective=shortcut", f"train.init={teacher}", "train.steps=3", out="short")
    assert any(k.startswith("objective.step.") for k in read_tensors(find_checkpoint(short)[1] / "model.safetensors"))
    start(f"train.init={short}", "train.steps=3", out="back")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["objective=progressive_distillation"], "objective progressive_distillation: .*for step or velocity, .*consistency tell end only"),
        (["objective=consistency_distillation"], "objective consistency_distillation: .*for velocity, .*tell end only"),
        (["objective=reflow", "objective.sampler=heun"], "objective reflow: .* for velocity, .*tell end only"),
        (["objective=reflow", "objective.sampler=jump"], "objective reflow: .* for jump, .*tell end only"),
        (["guidance=autoguidance"], "guidance autoguidance: .*for velocity, .*tell end only"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)  # fmt: skip
def test_a_run_is_not_taken_for_what_it_does_not_tell(yaml_file, start, overrides, words):
    """A consistency model's answer is the end of its trajectory, no belief whose ODE could be followed."""
    other = start("train.steps=3", "objective=consistency", "sampler=consistency", out="other")
    key = "guidance.weak" if "guidance" in overrides[0] else "objective.teacher"
    with pytest.raises(ConfigError, match=words) as refused:
        plan(load(yaml_file, [*overrides, f"{key}={other}"]))
    assert len(refused.value.problems) == 1


def test_reflow_takes_the_ends_of_a_consistency_model_from_a_sampler_that_can(yaml_file, start):
    other = start("train.steps=3", "objective=consistency", "sampler=consistency", out="other")
    plan(load(yaml_file, ["objective=reflow", "objective.sampler=euler", f"objective.teacher={other}"]))


@pytest.mark.parametrize("override", ["backbone.dim=48", "backbone.depth=3", "conditioner=none"])
def test_weights_of_another_shape_are_named_before_anything_starts(start, teacher, yaml_file, override):
    made = plan(load(yaml_file, [f"train.init={teacher}", override]), read=read_run)
    with pytest.raises(
        ConfigError, match=r"train.init .*teacher.* does not fit this model: (missing|unknown|\S+ is \()"
    ):
        preflight(made, world("cpu"))


def test_the_weights_a_run_needs_are_recorded_and_may_not_change_under_it(yaml_file, teacher, tmp_path, start, capsys):
    argv = [str(yaml_file), "objective=reflow", f"objective.teacher={teacher}", "objective.sampler.steps=2"]
    argv += [f"train.init={teacher}", "--out", str(tmp_path / "student"), "--quiet", "--device", "cpu"]
    assert train.main([*argv, "--steps", "3"]) == 0
    record = json.loads((tmp_path / "student/env.json").read_text())["runs"]
    file = find_checkpoint(teacher)[1] / "ema.safetensors"
    assert record == {str(teacher): {"checkpoint": str(file.parent), "weights": "ema", "sha256": sha256(file)}}
    start("train.steps=6", out="teacher", allow_change=True)  # the teacher goes on
    capsys.readouterr()
    assert train.main([*argv, "--steps", "5", "--allow-change"]) == 2
    error = capsys.readouterr().err
    assert "is not what" in error and "step_00000004 then" in error and "step_00000006 now" in error
    named = [a.replace(str(teacher), str(file.parent)) if "teacher=" in a or "init=" in a else a for a in argv]
    assert train.main([*named[:-5], "--out", str(tmp_path / "fresh"), "--device", "cpu", "--steps", "3"]) == 0


def test_straightness_of_model_and_teacher_is_recorded(start, teacher):
    run = start(
        "objective=reflow", f"objective.teacher={teacher}", "objective.sampler.steps=2", "train.steps=3",
        "callbacks={straightness: {every: 3, num: 3, steps: 4, batch_size: 2}}", out="student",
    )  # fmt: skip
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = {key: value for line in lines for key, value in line.items() if "straightness" in str(key)}
    values = values or {line["tag"]: line["value"] for line in lines if "straightness" in str(line.get("tag", ""))}
    assert set(values) == {"straightness/model", "straightness/teacher"} and min(values.values()) > 0
