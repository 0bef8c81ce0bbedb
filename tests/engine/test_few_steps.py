"""Few-step objectives in whole runs: what they tell the network, which samplers they go with, and what is refused."""

import pytest
import torch

from vidiff.building import build_diffuser, count_parameters, plan
from vidiff.commands import sample
from vidiff.config import ConfigError, load
from vidiff.engine.checkpoint import read_tensors
from vidiff.engine.parallel import world
from vidiff.engine.preflight import preflight
from vidiff.engine.profile import cost, fvcore_macs
from vidiff.random import Random
from vidiff.registry import BACKBONES, build
from vidiff.types import CondSpec

JUMPS = {"shortcut": [], "meanflow": ["attention=matmul"]}


def made(yaml_file, *overrides):
    return plan(load(yaml_file, overrides))


def guided(diffuser, scale, seen):
    """The estimator of a model, noting what its network is told beside the time."""
    inner = diffuser.backbone.forward

    def forward(x, time, cond):
        seen.append((len(x), cond.vector))
        return inner(x, time, cond)

    diffuser.backbone.forward = forward
    return diffuser.estimator(build("guidance", {"name": "cfg", "scale": scale}), {"label": torch.tensor([1, 2])}, 2)


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.parametrize("conditioner", ["label", "none"])
def test_every_branch_of_guidance_is_told_where_the_step_ends(yaml_file, name, conditioner):
    planned = made(yaml_file, f"objective={name}", f"conditioner={conditioner}", *JUMPS[name])
    assert planned.diffuser.conditioner.spec == CondSpec(vector=24 if conditioner == "label" else 0)
    diffuser, seen = build_diffuser(planned.config, planned.dataset).eval(), []
    with torch.no_grad():
        diffuser.objective.step.embedding.mlp[-1].weight.normal_()
    scale = 2.0 if conditioner == "label" else 1.0
    estimate = guided(diffuser, scale, seen)
    x, t = torch.randn(2, *planned.grid), torch.tensor([0.9, 0.5], dtype=torch.float64)
    with torch.no_grad():
        estimate(x, t)
        estimate.toward(t / 2)(x, t)
        estimate(x, t)
    (rows, plain), (_, aimed), (_, again) = seen
    assert rows == (4 if scale == 2 else 2) and torch.equal(plain, again), "nothing is left of the aim afterwards"
    told = diffuser.objective.step.embedding(t / 2) - diffuser.objective.step.embedding(0 * t)
    assert torch.allclose(aimed - plain, torch.cat([told] * (rows // 2)), atol=1e-5) and told.abs().max() > 0.01


@pytest.mark.parametrize("name", JUMPS)
def test_a_run_trains_averages_keeps_and_draws(start, tmp_path, name):
    run = start(f"objective={name}", *JUMPS[name], "sampler=jump", "sampler.steps=2", "train.steps=4")
    tensors = [read_tensors(run / "checkpoints/step_00000004" / f"{g}.safetensors") for g in ("model", "ema")]
    assert all("objective.step.embedding.mlp.2.weight" in t for t in tensors)
    assert tensors[0]["objective.step.embedding.mlp.2.weight"].abs().max() > 0, "it learns"
    for sampler in ("jump", "euler", "heun", "consistency"):
        argv = [str(run), f"sampler={sampler}", "sampler.steps=2", "--num", "2", "--format", "npy", "--device", "cpu"]
        assert sample.main([*argv, "--out", str(tmp_path / sampler), "--quiet"]) == 0


def test_the_backbone_starts_as_it_does_without_a_second_time(yaml_file):
    plain, short = (made(yaml_file, f"objective={name}") for name in ("rectified_flow", "shortcut"))
    one, other = (build_diffuser(p.config, p.dataset).state_dict() for p in (plain, short))
    assert all(torch.equal(one[key], other[key]) for key in one) and len(other) > len(one)


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.parametrize("conditioner", ["label", "none"])
def test_costs_are_counted_with_the_second_time(yaml_file, name, conditioner):
    planned = made(yaml_file, f"objective={name}", f"conditioner={conditioner}", *JUMPS[name])
    counted = cost(planned)
    assert counted.parameters == count_parameters(planned.diffuser) == sum(p.parameters for p in counted.parts)
    assert fvcore_macs(planned) > 0


REFUSED = [
    (["objective=consistency", "sampler=heun"], r"sampler heun: it asks a model for velocity, .* tell end only. Use .*sampler consistency or sampler euler"),
    (["objective=consistency", "sampler=jump"], "sampler jump: it asks a model for jump"),
    (["sampler=jump"], r"tell velocity only. Use another sampler, such as euler, heun or dpmpp_2m\.$"),
    (["objective=meanflow"], "objective meanflow: it differentiates the network in forward mode.*Use attention: math or attention: matmul"),
    (["objective=meanflow", "attention=math", "objective.path=gvp"], "average velocity moves along a straight line"),
    (["objective=shortcut", "objective.times=per_frame"], "one length for all frames"),
    (["objective=shortcut", "sampler=jump", "sampler.steps=3"], r"sampler jump: a jump from 1 to 0.6667 was not trained: this model has learned 1, 2, 4, … 128 uniform steps. Use such sampler.steps with spacing: uniform, or sampler: euler\.$"),
    (["objective=shortcut", "sampler={name: jump, steps: 4, spacing: shifted}"], "sampler jump: a jump from 1 to .* was not trained"),
    (["objective=shortcut", "sampler={name: jump, steps: 4, path: gvp}"], "sampler jump: a jump from 1 to .* was not trained"),
    (["objective=shortcut", "sampler={name: consistency, steps: 3}"], "sampler consistency: a jump from 0.6667 to 0 was not trained"),
    (["objective=shortcut", "sampler={name: clipped, sampler: jump, steps: 3}"], "sampler clipped: a jump from 1 to 0.6667 was not trained"),
    (["objective=shortcut", "sampler={name: stopped, sampler: jump, steps: 4, last: 0.1}"], "sampler stopped: a jump from 0.25 to 0.1 was not trained"),
    (["objective=shortcut", "sampler={name: stopped, sampler: consistency, steps: 3}"], "sampler stopped: a jump from 0.6667 to 0 was not trained"),
    (["objective=meanflow_guided", "attention=math", "conditioner=none"], "objective meanflow_guided: its targets are guided away from no condition, and there is none. Use conditioner label"),
    (["objective=shortcut_guided", "conditioner.drop=0"], "objective shortcut_guided: its targets are guided away from .*conditioner.drop is 0.*Use conditioner.drop: 0.1"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "words"), REFUSED, ids=[" ".join(o) for o, _ in REFUSED])
def test_what_does_not_go_together_is_refused_in_one_line(yaml_file, overrides, words):
    with pytest.raises(ConfigError, match=words) as refused:
        made(yaml_file, *overrides)
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize(
    "sampler",
    ["{name: jump, steps: 1}", "{name: jump, steps: 8}", "{name: jump, steps: 128}", "{name: jump, steps: 200}",
     "{name: consistency, steps: 2}", "{name: euler, steps: 7}", "{name: heun, steps: 3, spacing: karras}"],
)  # fmt: skip
def test_steps_that_a_shortcut_model_has_learned_are_taken(yaml_file, sampler):
    made(yaml_file, "objective=shortcut", f"sampler={sampler}")


def test_average_velocities_jump_from_anywhere_to_anywhere(yaml_file):
    made(yaml_file, "objective=meanflow", "attention=matmul", "sampler={name: jump, steps: 3, spacing: shifted}")


def test_a_student_takes_the_steps_it_was_distilled_to_and_so_does_who_learns_from_it(start, yaml_file, capsys):
    four = [f"objective={{name: progressive_distillation, teacher: {start('train.steps=3', out='teacher')}, steps: 4}}",
            "sampler=euler", "guidance=none"]  # fmt: skip
    others = (
        r"this student has learned 4 uniform steps and no others; asked are {} .*Use steps: 4 with spacing: uniform\.$"
    )
    for settings, asked in ((["sampler.steps=5"], 5), (["sampler.steps=4", "sampler.spacing=shifted"], 4)):
        with pytest.raises(ConfigError, match=f"sampler euler: {others.format(asked)}"):
            made(yaml_file, *four, *settings)
    student = start(*four, "sampler.steps=4", "train.steps=3", out="student")
    assert sample.main([str(student), "--steps", "2", "--num", "1", "--device", "cpu"]) == 2
    assert "this student has learned 4 uniform steps" in capsys.readouterr().err
    learning = ["objective=progressive_distillation", f"objective.teacher={student}"]
    made(yaml_file, *learning, "objective.steps=2", "sampler=euler", "sampler.steps=2")
    with pytest.raises(ConfigError, match=f"objective progressive_distillation: the model of .*: {others.format(6)}"):
        made(yaml_file, *learning, "objective.steps=3", "sampler=euler", "sampler.steps=3")
    reflow = ["objective=reflow", f"objective.teacher={student}", "objective.sampler.name=euler",
              "objective.path=cosine", "objective.prediction=v"]  # fmt: skip
    made(yaml_file, *reflow, "objective.sampler.steps=4")
    with pytest.raises(ConfigError, match=f"objective reflow: the model of .*: {others.format(20)}"):
        made(yaml_file, *reflow, "objective.sampler.steps=20")


@pytest.mark.parametrize("name", ["meanflow_guided", "shortcut_guided"])
def test_targets_are_guided_by_the_conditioners_own_null(yaml_file, name):
    planned = made(yaml_file, f"objective={name}", "attention=matmul", "sampler=jump")
    diffuser = build_diffuser(planned.config, planned.dataset)
    seen, loss = [], diffuser.objective.loss
    diffuser.objective.loss = lambda net, z, cond, random: seen.append(cond) or loss(net, z, cond, random)
    batch = {"video": torch.stack([planned.dataset[i]["video"] for i in range(3)]), "label": torch.tensor([1, 2, 0])}
    losses = diffuser(batch, Random(0, "train", rows=range(3)))
    losses["loss"].backward()
    null = diffuser.conditions({"label": batch["label"]}, 3)[1]
    assert torch.equal(seen[0].without.vector, null.vector) and not seen[0].without.vector.requires_grad
    assert losses["mse"].isfinite().all()


def test_targets_of_an_average_need_one_and_resume_with_the_same_bits(start, yaml_file, tmp_path):
    settings = ["objective={name: consistency, target: average}", "sampler=consistency", "schedule.name=constant"]
    with pytest.raises(ConfigError, match="objective consistency: target=average needs an average. Use ema.decay"):
        preflight(made(yaml_file, *settings, "ema.decay=0"), world("cpu"))
    start(*settings, "train.steps=3", out="part")
    runs = [start(*settings, out="whole"), start(*settings, out="part", allow_change=True)]
    runs.append(start(*settings, "objective.target=online", out="online"))
    whole, part, online = (read_tensors(run / "checkpoints/step_00000007/model.safetensors") for run in runs)
    assert all(torch.equal(whole[key], part[key]) for key in whole)
    assert not all(torch.equal(whole[key], online[key]) for key in whole)


def test_a_backbone_without_a_vector_is_refused(yaml_file, monkeypatch):
    monkeypatch.setattr(BACKBONES["dit_joint"].target, "uses", frozenset({"channels"}))
    with pytest.raises(
        ConfigError,
        match=r"objective shortcut: it tells the network a second time by .* vector, which backbone dit_joint does not",
    ):
        made(yaml_file, "objective=shortcut", "conditioner=none")


def test_a_dry_run_of_the_samples_is_the_same_whatever_else_is_drawn(yaml_file):
    """Sample i of a jump does not depend on its company."""
    planned = made(yaml_file, "objective=shortcut", "sampler=jump", "sampler.steps=2")
    diffuser = build_diffuser(planned.config, planned.dataset).eval()
    with torch.no_grad():
        for p in diffuser.parameters():
            p.normal_(std=0.1)

    def drawn(rows):
        labels = {"label": torch.tensor([r % 3 for r in rows])}
        return diffuser.sample(planned.grid, planned.sampler, planned.guidance, Random(0, "sample", rows=rows), labels)

    assert torch.allclose(drawn([0, 1, 2])[1:2], drawn([1]), atol=1e-5)
