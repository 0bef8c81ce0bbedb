"""The exact answer in whole runs: it trains nothing, reports the least loss, samples the law, and is refused elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import zoo  # noqa: F401
from vidiff.building import build_diffuser, law_of, plan
from vidiff.commands import sample, show, train
from vidiff.config import ConfigError, load
from vidiff.diffusion.floor import floor
from vidiff.random import Random
from vidiff.registry import build

PROJECT = Path(__file__).resolve().parents[2] / "projects/oracle.yaml"
SMALL = ["data.shape=[1,3,2,4]", "tokenizer.size=[3,1,2]", "train.batch_size=64", "train.steps=4"]


def planned(*overrides):
    return plan(load(PROJECT, [*SMALL, *overrides]))


def test_a_run_learns_nothing_and_measures_the_least_loss(tmp_path, capsys):
    argv = [str(PROJECT), *SMALL, "callbacks.validation.num=512", "callbacks.validation.every=4", "ema.decay=0.9"]
    assert train.main([*argv, "callbacks.x0_error.every=4", "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert "nothing to learn" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = next(line["val/loss"] for line in lines if "val/loss" in line)
    made = planned()
    least = floor(made.diffuser.objective, made.dataset.law, made.grid, told=1.0)
    assert measured == pytest.approx(least.loss.item(), rel=0.08)
    assert train.main([*argv, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0  # finished already
    out = tmp_path / "drawn"
    argv = [str(tmp_path / "run"), "guidance=cfg", "--num", "3", "--format", "npy", "--out", str(out)]
    assert sample.main([*argv, "--device", "cpu"]) == 0
    assert np.load(next(out.glob("*.npy"))).dtype == np.uint8


@pytest.mark.parametrize("label", [None, 1])
def test_samples_are_of_the_law_or_of_the_class(label):
    """Mean and covariance of 600 draws, with every element in its place of the video."""
    made = planned("sampler=heun", "sampler.steps=24")
    diffuser, num = build_diffuser(made.config, made.dataset).eval(), 600
    batch = {"label": torch.full((num,), label)} if label is not None else {"label": torch.zeros(num).long()}
    law = made.dataset.law if label is None else made.dataset.law.of_class(label)
    guidance = build("guidance", {"name": "cfg", "scale": 0.0 if label is None else 1.0})  # 0: without the class
    video = diffuser.sample(made.grid, made.sampler, guidance, Random(0, "sample", rows=range(num)), batch)
    drawn = video.flatten(1).double()
    deviation = (law.covariance.diagonal() / num).sqrt()
    assert ((drawn.mean(0) - law.mean).abs() / deviation).max() < 4.5
    assert (drawn.T.cov() - law.covariance).norm() / law.covariance.norm() < 0.2


def test_two_classes_differ_and_the_law_follows_the_tokenizer():
    made = planned()
    law, dataset = law_of(made.dataset, made.diffuser.tokenizer), made.dataset
    video = torch.stack([torch.as_tensor(dataset[i]["video"]) for i in range(5)]).double()
    z = made.diffuser.tokenizer.encode(video).flatten(1)
    ones = torch.ones(5, dtype=torch.float64)
    direct = dataset.law.believe(0.6 * video.flatten(1), 0.6 * ones, 0.8 * ones)
    there = law.believe(0.6 * z, 0.6 * ones, 0.8 * ones)
    moved = made.diffuser.tokenizer.encode(direct.x0.reshape(video.shape)).flatten(1)
    assert torch.allclose(there.x0, moved, atol=1e-12) and not torch.allclose(there.x0, direct.x0)
    mixed = build("dataset", {"name": "gaussian_mixture", "shape": [1, 2, 8, 8]}, seed=0, split="train")
    assert law_of(mixed, build("tokenizer", {"name": "haar3d"})) is None


def test_the_data_are_draws_of_their_law():
    data = build("dataset", {"name": "gaussian_mixture", "shape": [1, 3, 2, 2]}, seed=3, split="train")
    clips = [data[i] for i in range(3000)]
    x = torch.stack([c["video"].flatten() for c in clips]).double()
    assert (x.mean(0) - data.law.mean).abs().max() < 0.1 and x.dtype == torch.float64
    assert (x.T.cov() - data.law.covariance).norm() / data.law.covariance.norm() < 0.1
    assert data.law.mean.abs().max() < 1e-12 and data.law.covariance.diagonal().mean().item() == pytest.approx(1)
    for label in range(3):
        mine = x[[c["label"] == label for c in clips]]
        share = data.law.weights[data.law.classes == label].sum()
        assert len(mine) / 3000 == pytest.approx(share.item(), abs=0.04)
        assert (mine.mean(0) - data.law.of_class(label).mean).abs().max() < 0.2


@pytest.mark.parametrize(("override", "reason"), [
    (["data=moving_digits", "tokenizer.size=[1,1,1]", "data.size=8", "data.frames=4"], "the law of these latents is not known"),
    (["data.shape=[1,4,8,8]", "tokenizer=haar3d"], "the law of these latents is not known"),
    (["conditioner=label"], "no width that a learned condition could have. Use conditioner one_hot"),
    (["objective=consistency"], "has no closed form. Use an objective that tells the velocity alone"),
    (["objective.noise=offset"], "it knows the answer for independent noise. Use objective.noise: gaussian"),
    (["data.shape=[3,16,8,8]"], "3,072 elements: at most 1,024"),
    (["data.components=2"], "3 classes of 2 components: give each class one at least"),
])  # fmt: skip
def test_what_has_no_exact_answer_is_refused_with_the_way_out(override, reason):
    with pytest.raises(ConfigError) as caught:
        plan(load(PROJECT, override if override[0].startswith("data") else [*SMALL, *override]))
    assert any(reason in problem for problem in caught.value.problems), caught.value.problems
    assert all("\n" not in problem for problem in caught.value.problems)


def test_show_prints_the_floor_or_says_why_not(capsys, tmp_path):
    assert show.main([str(PROJECT), "objective=v_prediction", "--floor"]) == 0
    out = capsys.readouterr().out
    assert "least loss of all training" in out and out.splitlines()[-1].split()[0] == "-10"
    assert show.main([str(PROJECT), "objective=iddpm", "--floor"]) == 2
    assert "not a weighted square alone" in capsys.readouterr().err
    file = tmp_path / "digits.yaml"
    file.write_text(yaml.safe_dump({"data": "moving_digits", "tokenizer": "tubelet", "backbone": "dit_joint"}))
    assert show.main([str(file), "--floor"]) == 2
    assert "the law of these latents is not known" in capsys.readouterr().err
