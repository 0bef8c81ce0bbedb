"""A run folder made before a setting existed: the same experiment as long as the setting has its default."""

import pytest
import yaml

from vidiff.config import completed, load
from vidiff.engine.run import RunFolder
from vidiff.errors import Refused


def forget(tree, dotted):
    """Take a key out of a tree, as if it had not existed when the tree was written."""
    *around, last = dotted.split(".")
    for word in around:
        tree = tree[int(word) if word.isdecimal() else word]
    del tree[last]


@pytest.fixture
def older(yaml_file, tmp_path):
    """older(forgotten, *overrides): (the folder of a run made before these keys existed, its configuration today)."""

    def make(forgotten, *overrides):
        config = load(yaml_file, overrides)
        tree = yaml.safe_load(config.to_yaml())
        for key in forgotten:
            forget(tree, key)
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir()
        (folder.path / "config.yaml").write_text(yaml.safe_dump(tree))
        return folder, config

    return make


@pytest.mark.parametrize(
    ("forgotten", "overrides"),
    [
        (["backbone.dropout"], ["backbone.dropout=0.0"]),  # of a component
        (["objective.path.beta_max"], ["objective.path=vp"]),  # of a part of a component
        (["objective.weighting"], []),  # a part itself
        (["cache", "task"], []),  # a whole kind
        (["train.init", "schedule.reference_steps"], []),  # of the engine
        (["callbacks.validation.split"], ["callbacks={validation: {num: 3}}"]),  # of a callback
        (
            ["conditioner.parts.0.drop", "conditioner.drop_all"],
            ["conditioner={name: several, parts: [label, {name: fps, drop: 0.2}]}"],
        ),  # of a component in a list
    ],
    ids=lambda v: ",".join(v) if v and "=" not in v[0] else "",
)
def test_a_setting_that_did_not_exist_then_had_its_default(older, forgotten, overrides):
    folder, config = older(forgotten, *overrides)
    assert folder.changed(config) == {}
    folder.open(config)
    folder.close()
    assert load(folder.path / "config.yaml") == config  # and now it is written out


def test_a_new_setting_with_another_value_is_another_experiment(older):
    folder, config = older(["backbone.mlp_ratio"], "backbone.mlp_ratio=3.0")
    with pytest.raises(Refused, match=r"another experiment \(backbone.mlp_ratio: 4.0 -> 3.0\)"):
        folder.open(config)


def test_a_setting_that_exists_no_more_is_another_experiment(older):
    folder, config = older([])
    file = folder.path / "config.yaml"
    file.write_text(file.read_text().replace("  dropout: 0.1\n", "  dropout: 0.1\n  twist: 3\n"))
    assert folder.changed(config) == {"backbone.twist": (3, None)}


def test_a_complete_tree_is_left_as_it_is(yaml_file):
    tree = load(yaml_file).to_dict()
    assert completed(tree) == tree
