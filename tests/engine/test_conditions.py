"""Conditions that come from clips: what plan asks of the data, and what sampling takes from held-out clips."""

import json

import pytest
import torch

from vidiff.building import build_dataset, build_diffuser, plan
from vidiff.config import ConfigError, load
from vidiff.engine.sample import conditions_of
from vidiff.errors import Refused


def planned(file, *overrides):
    return plan(load(file, overrides))


def test_entries_that_clips_do_not_have_are_refused_with_both_names(yaml_file):
    with pytest.raises(ConfigError, match=r"conditioner camera.*reads 'camera'.*data moving_digits have") as error:
        planned(yaml_file, "conditioner=camera")
    assert "Use other data, or another conditioner" in str(error.value)


def test_a_route_that_a_backbone_cannot_take_names_those_that_can(yaml_file):
    with pytest.raises(ConfigError, match=r"tokens that conditioner text_bytes gives.*Use .*backbone dit_cross or"):
        planned(yaml_file, "backbone.name=unet3d_basic", "backbone.dim=24", "conditioner=text_bytes")


def test_labels_alone_are_taken_in_turn_and_no_clip_is_read(yaml_file):
    assert conditions_of(planned(yaml_file), range(3)) == [{"label": 0}, {"label": 1}, {"label": 2}]


def test_what_else_is_read_comes_from_held_out_clips(yaml_file):
    made = planned(yaml_file, "conditioner.name=frames", "conditioner.frames=[0]")
    clips = build_dataset(made.config, "val")
    given = conditions_of(made, range(2))
    assert [set(entries) for entries in given] == [{"video"}] * 2
    assert all((entries["video"] == clips[i]["video"]).all() for i, entries in enumerate(given))


def test_a_class_that_is_asked_for_goes_before_that_of_the_clip(yaml_file):
    made = planned(yaml_file, "conditioner={name: several, parts: [label, fps]}")
    given = conditions_of(made, range(2), label=7)
    assert [entries["label"] for entries in given] == [7, 7] and all(entries["fps"] == 8 for entries in given)
    with pytest.raises(Refused, match="label 99 is not a class"):
        conditions_of(made, range(2), label=99)


def test_a_class_that_nothing_reads_is_refused(yaml_file):
    made = planned(yaml_file, "conditioner=none")
    with pytest.raises(Refused, match="conditioner none reads no label, so --label would change nothing"):
        conditions_of(made, range(2), label=3)


def test_what_is_optional_is_not_asked_for_and_is_taken_where_there_is_any(yaml_file):
    """Encoded texts with and without a mask; the size a clip was made in, where the data say one."""
    text = ("backbone={name: dit_cross, dim: 32, depth: 2, num_heads: 2}", "positions=sincos",
            "conditioner={name: text_embeddings, dim: 10, length: 5}")  # fmt: skip
    shape = "shape: [1, 4, 16, 16]"
    without = planned(yaml_file, *text, f"data={{name: stand_in, {shape}, entries: {{text_tokens: [5, 10]}}}}")
    assert [set(entries) for entries in conditions_of(without, range(2))] == [{"text_tokens"}] * 2
    masked = planned(yaml_file, *text, f"data={{name: stand_in, {shape}, texts: [5, 10]}}")
    assert [set(entries) for entries in conditions_of(masked, range(2))] == [{"text_tokens", "text_mask"}] * 2
    sized = planned(yaml_file, "conditioner=size", f"data={{name: stand_in, {shape}, entries: {{size: [2]}}}}")
    assert set(conditions_of(sized, range(1))[0]) == {"video", "size"}


def test_no_condition_is_dropped_while_sampling(yaml_file):
    """However often it is in training: every row is told its own label, and its null condition that of nobody."""
    made = planned(yaml_file, "conditioner={name: label, drop: 0.5}")
    diffuser = build_diffuser(made.config, made.dataset).eval()
    labels = torch.arange(64) % 10
    cond, null = diffuser.conditions({"label": labels}, len(labels))
    table = diffuser.conditioner.embedding.weight
    assert torch.equal(cond.vector, table[labels]) and torch.equal(null.vector, table[-1:].expand(64, -1))


@pytest.mark.parametrize(
    "conditioner",
    [
        "{name: frames, frames: [0]}",
        "{name: several, parts: [label, fps, motion, {name: frames, route: tokens}], drop_all: 0.2}",
    ],
)
def test_a_run_trains_resumes_and_samples(start, conditioner):
    """Bit by bit the same with and without an interruption, with drops of their own for each condition."""
    shared = (f"conditioner={conditioner}", "callbacks.samples={every: 4, num: 2}", "schedule.name=constant")
    whole = start(*shared, "train.steps=4", out="whole")
    start(*shared, "train.steps=2", out="cut")
    cut = start(*shared, "train.steps=4", out="cut", allow_change=True)
    files = [next((run / "checkpoints").glob("*4/model.safetensors")) for run in (whole, cut)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert list((cut / "samples").glob("*.gif"))


def test_image_to_video_in_one_file(start):
    """Text, a picture's tokens and the first frame beside the latent, as Wan has them: trained, drawn from, guided."""
    parts = (
        "{name: text_bytes, dim: 12, depth: 1, num_heads: 2, gives: tokens}, image_patches, {name: frames, frames: [0]}"
    )
    run = start(
        f"conditioner={{name: several, parts: [{parts}]}}", "positions=rotary", "guidance={name: cfg, scale: 2.0}",
        "backbone={name: dit_cross, dim: 48, depth: 1, num_heads: 2}", "train.steps=2", "schedule.name=constant",
        "callbacks.samples={every: 2, num: 2}",
    )  # fmt: skip
    assert list((run / "samples").glob("step*.gif"))


def test_the_run_records_how_its_attention_was_checked(start):
    run = start("train.steps=3", "attention={name: sdpa, kernel: math}")
    checks = json.loads((run / "env.json").read_text())["attention"]
    (case,) = [c for c in checks if c.startswith("sdpa kernel=math on cpu, float32, head_dim 8")]
    assert checks[case]["values"] < 3e-5 and checks[case]["refused"] == ""
    assert f"attention {case}: checked against the formula" in (run / "log.txt").read_text()
