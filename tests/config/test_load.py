"""Checked configurations: every problem at once, each with its place, the nearest name and what is allowed."""

import pytest

import zoo  # noqa: F401
from vidiff.config import ConfigError, differences, load
from vidiff.config.checking import takes_several
from vidiff.errors import Refused
from vidiff.registry import KINDS

GOOD = """\
data: {name: moving_digits, size: 32, frames: 16, digits: 1}
tokenizer:
  name: tubelet
  size: [2, 8, 8]
backbone: {name: dit_joint, dim: 48, depth: 2, num_heads: 4}
train: {steps: 10, batch_size: 4}
"""


def loaded(tmp_path, text=GOOD, *overrides):
    (tmp_path / "x.yaml").write_text(text)
    return load(tmp_path / "x.yaml", overrides)


def problems(tmp_path, text=GOOD, *overrides):
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, *overrides)
    return caught.value.problems


def test_the_complete_configuration_holds_every_default(tmp_path):
    config = loaded(tmp_path)
    assert config.name == "x"
    assert config.components["objective"]["path"] == {"name": "linear"}
    assert config.components["sampler"]["name"] == "euler"
    assert config.components["attention"] == {"name": "auto"}
    assert config.train.batch_size == 4
    assert config.optimizer.betas == (0.9, 0.99)


def test_the_written_configuration_loads_to_itself(tmp_path):
    config = loaded(tmp_path, GOOD, "objective.path=vp", "objective.path.beta_max=18", "callbacks.samples.every=7")
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load(tmp_path / "again.yaml") == config


def test_overrides_reach_nested_parts_and_fill_their_name(tmp_path):
    config = loaded(tmp_path, GOOD, "objective.path=vp", "objective.path.beta_max=12.5")
    assert config.components["objective"]["path"]["beta_max"] == 12.5


def test_a_new_component_drops_the_old_settings(tmp_path):
    config = loaded(tmp_path, GOOD, "tokenizer=frame_patch")
    assert "size" not in config.components["tokenizer"] or config.components["tokenizer"]["size"] != [2, 8, 8]


def test_numbers_beyond_the_machine_and_empty_files_are_refused(tmp_path):
    for key, value in (("optimizer.lr", "1e300"), ("train.steps", 10**20), ("optimizer.betas", "[0.5, 1e-400]"),
                       ("objective.path", "{name: vp, beta_max: 1e39}"), ("data.speed", "[1, 1e39]")):  # fmt: skip
        if key == "optimizer.betas":
            assert loaded(tmp_path, GOOD, f"{key}={value}").optimizer.betas == (0.5, 0.0)
            continue
        [problem] = problems(tmp_path, GOOD, f"{key}={value}")
        assert "no number of the machine is as large" in problem
    assert loaded(tmp_path, GOOD, f"seed={10**20}").seed == 10**20  # any name of a stream of dice will do
    with pytest.raises(Refused, match="x.yaml is empty: a configuration names data"):
        loaded(tmp_path, "# nothing yet\n")


def test_references(tmp_path):
    config = loaded(tmp_path, GOOD + "schedule: {warmup_steps: '${train.steps}'}\n")
    assert config.schedule.warmup_steps == 10
    with pytest.raises(Refused, match="nowhere"):
        loaded(tmp_path, GOOD + "schedule: {warmup_steps: '${nowhere.steps}'}\n")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("backbone=late", "backbone 'late' is not registered."),
        ("backbone=dit_jont", "Did you mean 'dit_joint'?"),
        (
            "backbone.dept=3",
            "backbone.dept is not a setting of dit_joint (zoo/backbones/dit_joint.py). Did you mean 'depth'?",
        ),
        ("backbone.grid=3", "backbone.grid is wiring"),
        ("backbone.dim=two", "backbone.dim is 'two': it must be an integer at least 1."),
        ("backbone.depth=0", "backbone.depth is 0: it must be an integer at least 1 and at most 1000."),
        ("backbone.dim=1.5", "backbone.dim is 1.5: it must be an integer at least 1."),
        ("backbone.depth=true", "backbone.depth is true"),
        ("tokenizer.size=[2,8]", "it must be a list of 3 values"),
        ("objective.path=liner", "path 'liner' is not registered. Did you mean 'linear'?"),
        ("objective.path.bta=3", "objective.path.bta is not a setting of linear"),
        ("objective.noise=3", "objective.noise is 3: write the name of a noise"),
        ("objective.path=[]", "objective.path is []: write the name of a path"),
        ("objective.path=[linear]", "objective.path is ['linear']: write the name of a path"),
        ("objective={name: repa, encoder: []}", "objective.encoder is []: write the name of an encoder"),
        ("objective={name: repa, encoder: [dct]}", "objective.encoder is ['dct']: write the name of an encoder"),
        ("objective={name: repa, encoder: {dim: 8, name: {}}}", "objective.encoder.name is {}: name an encoder"),
        (
            "samplr.steps=20",
            "'samplr.steps=20' changes nothing: there is no key 'samplr'. Did you mean 'sampler.steps'?",
        ),
        ("train.stepz=20", "Did you mean 'steps'?"),
        ("data.batch_size=3", "There is train.batch_size."),
        ("train.clip=.nan", "train.clip is nan"),
        ("train.clip=-1", "at least 0"),
        ("ema.decay=1.5", "at most 1"),
        ("train.precision=fp8", "one of fp32, bf16, fp16"),
        ("optimizer.lr=0", "above 0"),
        ("callbacks.sample.every=3", "Did you mean 'samples'?"),
        ("callbacks.samples=3", "write a mapping"),
        ("train=3", "train is 3: it holds"),
        ("seed=-1", "seed is -1"),
        ("sampler.steps=null", "sampler.steps is null"),
        ("backbone.depth=1000000000", "at most 1000"),
        ("name=../../x", "it names a folder"),
    ],
)
def test_one_mistake_one_line(tmp_path, override, text):
    found = problems(tmp_path, GOOD, override)
    assert len(found) == 1
    assert text in found[0]
    assert "\n" not in found[0]


def test_every_setting_that_is_a_component_says_whether_it_takes_several():
    """One that does not say (Any) lets `[]` pass; the only list of components is the conditioners of `several`."""
    several = {
        f"{component.name}.{name}"
        for kind in KINDS.values()
        for component in kind
        for name, setting in component.settings.items()
        if setting.part and takes_several(setting.annotation) and component.target.__module__.startswith("zoo.")
    }
    assert several == {"several.parts"}


def test_all_problems_together_with_file_and_line(tmp_path):
    text = GOOD.replace("size: [2, 8, 8]", "sise: [2, 8, 8]").replace("depth: 2", "dept: 2") + "samplr: euler\n"
    found = problems(tmp_path, text, "train.clip=x")
    assert len(found) == 4
    joined = "\n".join(found)
    for place in (
        "x.yaml:4: tokenizer.sise",
        "x.yaml:5: backbone.dept",
        "x.yaml:7: there is no key 'samplr'",
        "train.clip",
    ):
        assert place in joined


def test_a_missing_component_lists_what_there_is(tmp_path):
    found = problems(tmp_path, "data: moving_digits\n")
    assert any("'tokenizer' is missing" in p and "tubelet" in p for p in found)
    assert any("'backbone' is missing" in p and "dit_joint" in p for p in found)


def test_differences():
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}
    assert differences(old, new) == {"a.c": (2, 5), "d": (3, None), "e": (None, 4)}
    assert differences(old, old) == {}


def test_null_switches_a_callback_of_a_base_off(tmp_path):
    (tmp_path / "base.yaml").write_text(GOOD + "callbacks: {samples: {every: 3}}\n")
    config = loaded(tmp_path, "base: base.yaml\ncallbacks: {samples: null}\n")
    assert config.callbacks == {}
