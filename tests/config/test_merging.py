"""Layers: bases left to right, then the file, then overrides; a new component drops the old one's settings."""

import pytest

from vidiff.config.merging import Change, merge, read_layers
from vidiff.errors import Refused


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        ({"name": "a", "x": 1}, {"x": 2, "y": 3}, {"name": "a", "x": 2, "y": 3}),
        ({"name": "a", "x": 1}, {"name": "a", "y": 3}, {"name": "a", "x": 1, "y": 3}),
        ({"name": "a", "x": 1}, {"name": "b"}, {"name": "b"}),
        ({"name": "a", "x": 1}, "b", {"name": "b"}),
        ({"name": "a", "x": 1}, "a", {"name": "a", "x": 1}),
        ("a", {"x": 1}, {"name": "a", "x": 1}),
        ("a", {"name": "b", "x": 1}, {"name": "b", "x": 1}),
        ({"name": "o", "path": {"name": "vp", "k": 1}}, {"path": "linear"}, {"name": "o", "path": {"name": "linear"}}),
        ({"x": {"y": 1, "z": 2}}, {"x": {"y": 5}}, {"x": {"y": 5, "z": 2}}),
        ({"size": [1, 2]}, {"size": [3]}, {"size": [3]}),
    ],
)
def test_merge(old, new, merged):
    before = repr(old), repr(new)
    assert merge(old, new) == merged
    assert (repr(old), repr(new)) == before


def test_another_name_of_the_run_is_no_other_component(tmp_path):
    """At the top `name` names the run: a base's settings stay, in a file as in an override."""
    write(tmp_path, one="name: one\ntrain: {steps: 1}\n", two="base: one.yaml\nname: two\nseed: 3\n")
    assert read_layers(tmp_path / "two.yaml").tree == {"name": "two", "train": {"steps": 1}, "seed": 3}
    assert read_layers(tmp_path / "one.yaml", ["name=x"]).tree == {"name": "x", "train": {"steps": 1}}


def test_a_change_from_another_file_keeps_its_place(tmp_path):
    write(tmp_path, one="train: {steps: 1}\n")
    layers = read_layers(tmp_path / "one.yaml", [Change("train.clip", 2.0, "grid.yaml:7"), "train.steps=5"])
    assert layers.tree == {"train": {"steps": 5, "clip": 2.0}}
    assert layers.where("train.clip") == "grid.yaml:7" and layers.where("train.steps") == "'train.steps=5'"


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_bases_then_file_then_overrides_and_where_each_came_from(tmp_path):
    write(
        tmp_path,
        one="train: {steps: 1, clip: 1}\nseed: 1\n",
        two="train:\n  steps: 2\n",
        top="base: [one.yaml, two.yaml]\n\nseed: 3\n",
    )
    layers = read_layers(tmp_path / "top.yaml", ["train.clip=4"])
    assert layers.tree == {"train": {"steps": 2, "clip": 4}, "seed": 3}
    assert layers.where("train.steps").endswith("two.yaml:2")
    assert layers.where("seed").endswith("top.yaml:3")
    assert layers.where("train.clip") == "'train.clip=4'"


def test_dropped_settings_leave_no_place_behind(tmp_path):
    write(tmp_path, x="backbone:\n  name: a\n  depth: 3\n")
    layers = read_layers(tmp_path / "x.yaml", ["backbone.name=b"])
    assert layers.tree == {"backbone": {"name": "b"}}
    assert "backbone.depth" not in layers.origin


@pytest.mark.parametrize(
    "override", ["sampler=dpmpp_2m", "sampler.name=dpmpp_2m", "sampler={name: dpmpp_2m, steps: 7}"]
)
def test_a_component_named_on_the_command_line_has_its_place_there(tmp_path, override):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 3\nsampler:\n  name: euler\n  steps: 5\n")
    layers = read_layers(file, [override])
    for key in ("sampler", "sampler.name", "sampler.spacing"):
        assert layers.where(key) == f"'{override}'", key
    assert layers.where("seed") == f"{file}:1"


def test_a_setting_of_the_command_line_moves_nothing_else(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("sampler:\n  name: euler\n  steps: 5\n")
    layers = read_layers(file, ["sampler.path=vp"])
    assert layers.where("sampler.path") == "'sampler.path=vp'"
    assert layers.where("sampler") == f"{file}:1" and layers.where("sampler.steps") == f"{file}:3"


def test_an_empty_mapping_on_the_command_line_says_that_it_changes_nothing(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("callbacks: {samples: {every: 5}}\n")
    with pytest.raises(Refused, match="changes nothing.*callbacks=null"):
        read_layers(file, ["callbacks={}"])
    assert read_layers(file, ["callbacks=null"]).tree == {"callbacks": None}
    file.write_text("seed: 1\n")
    assert read_layers(file, ["callbacks={}"]).tree == {"seed": 1, "callbacks": {}}


def test_a_circle_of_bases(tmp_path):
    write(tmp_path, a="base: b.yaml\n", b="base: a.yaml\n")
    with pytest.raises(Refused, match=r"circle: a.yaml -> b.yaml -> a.yaml"):
        read_layers(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "word"),
    [("base: nowhere.yaml", "does not exist"), ("base: {a: 1}", "file name"), ("imports: [../x.py]", "beside this YAML"),
     ("imports: x.txt", "must be a .py"), ("imports: gone.py", "does not exist"), ("base: [1]", "file name")],
)  # fmt: skip
def test_broken_bases_and_imports(tmp_path, text, word):
    write(tmp_path, x=text)
    with pytest.raises(Refused, match=word):
        read_layers(tmp_path / "x.yaml")


def test_base_and_imports_cannot_come_from_the_command_line(tmp_path):
    write(tmp_path, x="seed: 1")
    for key in ("base=y.yaml", "imports=z.py"):
        with pytest.raises(Refused, match="not on the command line"):
            read_layers(tmp_path / "x.yaml", [key])
