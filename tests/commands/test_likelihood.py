"""tools/likelihood.py: bits per dimension of held-out clips."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributions import MultivariateNormal

from tests.commands.test_cli import TINY
from vidiff.building import build_dataset
from vidiff.commands import likelihood, train
from vidiff.commands.likelihood import scale_of
from vidiff.config import load
from vidiff.registry import build


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("likelihood")
    (folder / "tiny.yaml").write_text(TINY)
    assert train.main([str(folder / "tiny.yaml"), "--out", str(folder / "run"), "--device", "cpu", "--quiet"]) == 0
    return folder / "run"


def test_bits_with_their_protocol(trained, capsys):
    """The same clips have the same bits whatever the batch; nothing is overwritten unasked."""
    argv = [str(trained), "--num", "3", "--rtol", "0.01", "--device", "cpu"]
    assert likelihood.main([*argv, "--batch-size", "3"]) == 0
    out = capsys.readouterr().out
    assert "bits per latent element" in out and "bits per 8-bit pixel value" in out and "rtol 0.01" in out
    file = next((trained / "eval").glob("likelihood_*.json"))
    bits = json.loads(file.read_text())["bits"]
    assert likelihood.main(argv) == 2 and "--overwrite" in capsys.readouterr().err
    other = trained / "other.json"
    assert likelihood.main([*argv, "--batch-size", "1", "--out", str(other)]) == 0
    for kind, found in json.loads(other.read_text())["bits"].items():
        assert found["clips"] == pytest.approx(bits[kind]["clips"], abs=2e-3), kind
    assert likelihood.main([*argv, "--num", "1"]) == 2 and "--num is 1" in capsys.readouterr().err


def test_wrong_flags_are_refused_before_anything_is_measured(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(likelihood, "measure", None)
    (tmp_path / "file").write_text("x")
    for words, told in ((["--seed", "-1"], "--seed is -1"), (["--rtol", "nan"], "--rtol is nan"),
                        (["--out", str(tmp_path), "--overwrite"], "name a file in a folder"),
                        (["--out", str(tmp_path / "file/x.json")], "name a file in a folder"),
                        (["--out", ""], "the name is empty")):  # fmt: skip
        try:
            code = likelihood.main([str(trained), "--num", "2", "--device", "cpu", *words])
        except SystemExit as left:
            code = left.code
        assert code == 2 and told in capsys.readouterr().err


def test_where_the_ode_ends_is_told(tmp_path, capsys):
    """A network that answers x0 = 0 has dx/dt = x / t on the linear path: from t = s on x grows by 1/s."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    argv = [
        str(tmp_path / "tiny.yaml"),
        "objective.prediction=x0",
        "optimizer.lr=1e-20",
        "--out",
        str(tmp_path / "run"),
    ]
    assert train.main([*argv, "--device", "cpu", "--quiet"]) == 0
    ends = []
    for start in ("0.25", "0.5"):
        argv = [str(tmp_path / "run"), "--num", "2", "--device", "cpu", "--start", start, "--overwrite"]
        assert likelihood.main(argv) == 0
        record = json.loads(next((tmp_path / "run/eval").glob("likelihood_*.json")).read_text())
        assert record["start"] == float(start) and f"from t = {start}" in record["protocol"]
        ends.append(record["end"])
    assert ends[0] == pytest.approx(2 * ends[1], rel=1e-3)
    capsys.readouterr()
    assert likelihood.main([*argv, "--start", "0.01"]) == 0
    assert "no likelihood to compare: the ODE ends at" in capsys.readouterr().out
    assert likelihood.main([*argv, "--start", "1"]) == 2
    assert "--start is 1: it must be at least 1e-05 and less than 1" in capsys.readouterr().err


def test_noise_that_is_not_independent_is_refused(trained, tmp_path, capsys):
    """N(0, sigma^2 1) is not what its ODE ends in: the number would be off by the noise's own log-determinant."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["objective"]["noise"] = "frame_mixed"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert likelihood.main([str(run), "--num", "2", "--overwrite", "--device", "cpu"]) == 2
    assert "for independent noise only" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "scale"), [("pixels", 1.0), ("tubelet", 1.0)])
def test_the_scale_of_an_encoding(name, scale):
    tokenizer, video = (
        build("tokenizer", {"name": name}),
        torch.rand(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(1)),
    )
    assert scale_of(tokenizer.encode, video) == pytest.approx(scale, rel=1e-3)


def test_an_encoding_that_stretches_some_directions_more_has_no_scale():
    weights = torch.ones(16)
    weights[0] = 2
    video = torch.rand(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    assert scale_of(lambda v: v * weights, video) is None
    assert scale_of(lambda v: 3 * v, video) == pytest.approx(3, rel=1e-4)
    assert scale_of(lambda v: v[:, :2], video) is None


def test_exact_beliefs_have_the_likelihood_of_the_law(tmp_path, capsys):
    """Clips that are no bytes are taken as they are: log p of each clip in its class, in closed form."""
    project = Path(__file__).resolve().parents[2] / "projects/oracle.yaml"
    small = ["data={name: gaussian_mixture, shape: [1, 3, 2, 4], components: 5, num_classes: 2}", "train.steps=1"]
    run = tmp_path / "run"
    argv = [str(project), *small, "tokenizer.size=[3,1,2]", "train.batch_size=4", "--out", str(run)]
    assert train.main([*argv, "--device", "cpu", "--quiet"]) == 0
    argv = [str(run), "--num", "4", "--exact", "--rtol", "1e-6", "--device", "cpu"]
    assert likelihood.main(argv) == 0
    printed = capsys.readouterr().out
    record = json.loads(next((run / "eval").glob("*.json")).read_text())
    assert "8-bit" not in printed and "numbers of the clips as they are" in record["protocol"]
    assert record["protocol"].endswith("raw weights")  # the run keeps no average
    dataset, expected = build_dataset(load(run / "config.yaml"), "val"), []
    for i in range(4):
        x, law = dataset[i]["video"].flatten().double(), dataset.law.of_class(dataset[i]["label"])
        each = [MultivariateNormal(m, s).log_prob(x) for m, s in zip(law.means, law.covariances, strict=True)]
        nats = torch.logsumexp(torch.stack(each) + law.weights.log(), 0)
        expected.append(-nats.item() / math.log(2) / 24)
    assert record["bits"]["latent element"]["clips"] == pytest.approx(expected, abs=2e-3)
