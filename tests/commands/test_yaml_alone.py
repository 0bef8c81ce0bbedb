"""What a network costs is known from its YAML alone: no data, no other runs, in a folder where there is nothing."""

import csv
import json
from pathlib import Path

import pytest

import zoo  # noqa: F401
from vidiff.commands import list_zoo, profile_flops, show, train
from vidiff.registry import CONVERTERS, DATASETS, KINDS
from vidiff.types import Outline

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = [*sorted((ROOT / "projects").glob("*.yaml")), ROOT / "projects/example_idea/idea.yaml"]
NEED_SOMETHING = {
    "nano_sora": "moving_mnist",
    "video_folder": "video_folder",
    "reflow": "runs/nano_sora_cpu",
}
"""Projects whose training needs what a fresh clone has not, and what."""


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NEED_SOMETHING)
def test_what_is_missing_is_noted_beside_the_answer_and_not_refused(nowhere, capsys, name):
    file, missing = str(ROOT / f"projects/{name}.yaml"), NEED_SOMETHING[name]
    assert profile_flops.main([file, "--out", "json"]) == 0
    out, err = capsys.readouterr()
    [row] = json.loads(out)
    assert row["parameters"] > 1e6 and row["forward_flops"] == 2 * row["forward_macs"] > 0
    assert err.startswith("vidiff: note: ") and missing in err and len(err.splitlines()) == 1
    assert show.main([file]) == 0
    out, err = capsys.readouterr()
    assert f"{row['parameters']:,}" in out and missing in err
    assert train.main([file, "--device", "cpu"]) == 2, "training needs it all the same"
    assert missing in capsys.readouterr().err and not list(nowhere.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("file", PROJECTS, ids=lambda p: p.stem)
def test_every_project_is_profiled_and_shown(nowhere, capsys, file):
    assert profile_flops.main([str(file), "--by-module", "2", "--by-kind", "--out", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    [row], parts = record["networks"], [p for p in record["parts"] if p["by"] == "kind"]
    assert sum(p["forward_flops"] for p in parts) == pytest.approx(row["forward_flops"], rel=1e-6)
    assert show.main([str(file), "--depth", "2"]) == 0
    assert f"{row['parameters']:,}" in capsys.readouterr().out and not list(nowhere.iterdir())


def test_what_there_is_goes_before_what_is_promised(nowhere, capsys):
    import numpy as np

    (nowhere / "data/moving_mnist").mkdir(parents=True)
    np.save(nowhere / "data/moving_mnist/mnist_test_seq.npy", np.zeros((20, 30, 32, 48), np.uint8))
    assert profile_flops.main([str(ROOT / "projects/nano_sora.yaml"), "--out", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["video"] == "1x16x32x48" and not err
    (nowhere / "data/moving_mnist/mnist_test_seq.npy").write_text("no array")
    assert profile_flops.main([str(ROOT / "projects/nano_sora.yaml")]) == 2
    assert "not a readable .npy file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "settings", "shapes"),
    [
        ("moving_mnist", {"root": "x", "frames": 7}, [(1, 7, 64, 64)]),
        (
            "video_folder",
            {"root": "x", "frames": 5, "size": [6, 8], "more_shapes": [[3, 9, 7]]},
            [(3, 5, 6, 8), (3, 3, 9, 7)],
        ),
    ],
)
def test_outlines_say_what_the_data_would(nowhere, name, settings, shapes):
    settings = {s.name: s.default for s in DATASETS[name].settings.values()} | settings
    outline = DATASETS[name].target.outline(**settings)
    assert isinstance(outline, Outline) and list(dict.fromkeys([outline.shape, *outline.shapes])) == shapes
    assert tuple(outline[0]["video"].shape) == shapes[0] and outline.num_classes == 0


def test_classes_are_only_known_from_folders(nowhere, capsys):
    file = str(ROOT / "projects/video_folder.yaml")
    assert profile_flops.main([file, "data.labels=folder"]) == 2
    assert "the folder data/videos does not exist" in capsys.readouterr().err
    assert show.main([file, "--data", "clips.png"]) == 2
    assert "--data clips.png: there are no clips to show" in capsys.readouterr().err


def test_a_sweep_as_a_table_and_a_plot(nowhere, capsys):
    file = str(ROOT / "projects/nano_sora.yaml")
    argv = [file, "backbone.depth=2", "--sweep", "data.frames=4,8,16", "--plot", "plots/growth.png"]
    assert profile_flops.main([*argv, "--out", "table.csv"]) == 0
    rows = list(csv.DictReader((nowhere / "table.csv").open()))
    assert [row["data.frames"] for row in rows] == ["4", "8", "16"]
    assert [int(row["tokens"]) for row in rows] == [128, 256, 512]
    assert (nowhere / "plots/growth.png").read_bytes().startswith(b"\x89PNG")
    for words in (["--out", "table.csv"], ["--plot", "plots/growth.png"], ["--plot", "x.jpg"], ["--out", "table.xls"]):
        assert profile_flops.main([file, "--sweep", "data.frames=4", *words]) == 2
        assert len([line for line in capsys.readouterr().err.splitlines() if "error" in line]) == 1
    assert profile_flops.main([file, "--out", "md"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("| ---")


def test_files_of_one_name_are_told_apart_and_one_file_is_counted_once(nowhere, capsys):
    text = (ROOT / "projects/nano_sora.yaml").read_text()
    for folder, depth in (("a", 2), ("b", 3)):
        (nowhere / folder).mkdir()
        (nowhere / folder / "x.yaml").write_text(text.replace("depth: 8", f"depth: {depth}"))
    assert profile_flops.main(["a/x.yaml", "b/x.yaml", "a/x.yaml", "--out", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["config"] for row in rows] == ["a/x.yaml", "b/x.yaml"]


# ---- flags ----


@pytest.mark.parametrize("depth", ["-1", "0"])
def test_a_depth_is_at_least_one(nowhere, capsys, depth):
    assert show.main([str(ROOT / "projects/nano_sora.yaml"), "--depth", depth]) == 2
    assert capsys.readouterr().err == f"vidiff: error: --depth is {depth}: it must be at least 1.\n"
    assert profile_flops.main([str(ROOT / "projects/nano_sora.yaml"), "--by-module", depth]) == 2
    assert capsys.readouterr().err == f"vidiff: error: --by-module is {depth}: it must be at least 1.\n"


def test_a_kind_by_its_plural_its_folder_and_its_key(capsys):
    folders = {"noise": "noises", "times": "times", "positions": "positions", "attention": "attention"}
    for kind in [*KINDS, "converter"]:
        assert list_zoo.main([kind]) == 0
        told = capsys.readouterr().out
        assert list_zoo.main([folders.get(kind, f"{kind}s")]) == 0
        assert capsys.readouterr().out == told and told
    assert list_zoo.main(["data", "moving_digits"]) == 0
    assert "dataset moving_digits" in capsys.readouterr().out
    assert list_zoo.main(["converters", "dit"]) == 0 and "dit" in CONVERTERS
    for words, told in ((["samplrs"], "Did you mean 'sampler'?"), (["dit_joint"], "list_zoo.py backbone dit_joint"),
                        (["optimizers", "adamv"], "Did you mean 'adam"), (["sampler", "hein"], "Did you mean 'heun'?")):  # fmt: skip
        capsys.readouterr()
        assert list_zoo.main(words) == 2
        assert told in capsys.readouterr().err


def test_the_page_is_written_over_its_like_only(nowhere, capsys, monkeypatch):
    monkeypatch.setattr(list_zoo, "page", lambda: "# The zoo\n\nnew\n")
    (nowhere / "mine.md").write_text("# My thesis\n")
    assert list_zoo.main(["--markdown", "mine.md"]) == 2
    assert "is there already" in capsys.readouterr().err and (nowhere / "mine.md").read_text() == "# My thesis\n"
    for _ in range(2):
        assert list_zoo.main(["--markdown", "zoo.md"]) == 0
    assert (nowhere / "zoo.md").read_text() == "# The zoo\n\nnew\n"
