"""Pictures of objectives from the command line."""

import pytest
from PIL import Image

import zoo  # noqa: F401
from vidiff.commands import show

TINY = """\
data: {name: stand_in, shape: [3, 4, 8, 8]}
tokenizer: {name: tubelet, size: [2, 4, 4]}
backbone: {name: dit_joint, dim: 16, depth: 1, num_heads: 2}
"""
EDM2 = "objective: {name: edm, weighting: {name: uncertainty, weighting: edm}}"


@pytest.fixture
def files(tmp_path):
    """Two configurations."""
    for name, objective in (("edm2", EDM2), ("learned_range", "objective: iddpm")):
        (tmp_path / f"{name}.yaml").write_text(f"{TINY}{objective}\n")
    return [str(tmp_path / f"{name}.yaml") for name in ("edm2", "learned_range")]


def test_one_picture_of_weightings_and_one_of_errors_for_each_configuration(files, tmp_path, capsys):
    folder = tmp_path / "new" / "plots"
    overlay = ["--overlay", "objective.weighting=min_snr", "--overlay", files[1]]
    assert show.main([files[0], "--plot", str(folder), *overlay]) == 0
    said = capsys.readouterr().out
    assert "weighting and density of edm2, objective.weighting=min_snr, learned_range" in said
    assert sorted(f.name for f in folder.iterdir()) == ["gain_0.png", "gain_1.png", "gain_2.png", "weighting.png"]
    with Image.open(folder / "weighting.png") as picture:
        assert picture.size[0] > 1000 and len(set(picture.convert("RGB").resize((40, 20)).getdata())) > 20
    before = (folder / "gain_0.png").read_bytes()
    assert show.main([files[0], "--plot", str(folder)]) == 2
    assert "is there already. Name another folder." in capsys.readouterr().err
    assert (folder / "gain_0.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--overlay", "objective.path=gvp"], "there is nothing to lay it over. Add --plot DIR."),
        (["--plot", "x", "--overlay", "objective.weighting=min_snrr"], "Did you mean 'min_snr'?"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(files, arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show.main([files[0], *arguments]) == 2
    assert text in capsys.readouterr().err and not (tmp_path / "x").exists()
