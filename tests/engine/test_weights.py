"""Which weights a command takes, from runs that were really trained; averages survive an interruption bit for bit."""

import hashlib
import json

import pytest
import torch

from vidiff.commands import convert, sample
from vidiff.engine.checkpoint import load
from vidiff.engine.posthoc import exponent, power_decay
from vidiff.engine.train import Trainer
from vidiff.engine.weights import parse_weights, read_weights
from vidiff.errors import Interrupted, Refused

MANY = [
    "schedule.name=constant",
    "ema.decays=[0.5]",
    "ema.sigma_rel=[0.05,0.1]",
    "ema.snapshot_every=2",
    "checkpoint.every=1",
    "checkpoint.keep=9",
]


def at(run, step=7):
    return run / "checkpoints" / f"step_{step:08d}"


def bits(run):
    files = sorted([*at(run).glob("*.safetensors"), *(run / "averages").rglob("*.safetensors")])
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture
def run(start):
    return start(*MANY)


def test_every_average_is_that_of_the_weights(run):
    """From the raw weights of every step, in float64; one step of AdamW moves a weight by about 1e-3."""
    raw = [read_weights(at(run, s), "raw").tensors for s in range(1, 8)]
    decays = {
        "ema": lambda s: min(0.999, (1 + s) / (10 + s)),
        "ema:0.5": lambda s: min(0.5, (1 + s) / (10 + s)),
        "posthoc:0.05": lambda s: power_decay(s, exponent(0.05)),
        "posthoc:0.1": lambda s: power_decay(s, exponent(0.1)),
    }
    first = load(at(run, 1)).tensors["ema"]  # after one step: 2/11 of the initial weights
    for asked, decay in decays.items():
        found = read_weights(at(run), asked)
        for name in ("backbone.blocks.1.mlp.fc1.weight", "conditioner.embedding.weight"):
            initial = (first[name].double() - (1 - 2 / 11) * raw[0][name].double()) / (2 / 11)
            expected = initial
            for s in range(1, 8):
                expected = torch.lerp(expected, raw[s - 1][name].double(), 1 - decay(s))
            assert torch.allclose(found.tensors[name].double(), expected, rtol=0, atol=1e-6), asked
            assert not torch.allclose(raw[6][name].double(), expected, rtol=0, atol=1e-5), asked


def test_interrupted_and_resumed(start, run, monkeypatch):
    step = Trainer.train_step

    def stop(trainer, batches):
        step(trainer, batches)
        if trainer.step == 3:
            trainer.interrupted = "a test"

    monkeypatch.setattr(Trainer, "train_step", stop)
    with pytest.raises(Interrupted):
        start(*MANY, out="cut")
    monkeypatch.setattr(Trainer, "train_step", step)
    assert bits(start(*MANY, out="cut")) == bits(run)


def test_words(run):
    assert parse_weights("ema:0.9999") == ("ema", 0.9999) and parse_weights("raw") == ("raw", None)
    for wrong in ("emma", "ema:", "ema:2", "posthoc", "posthoc:0.5", "posthoc:x", "raw:1"):
        with pytest.raises(Refused, match="write raw, ema, ema:DECAY or posthoc:WIDTH"):
            parse_weights(wrong)
    with pytest.raises(Refused, match=r"has raw, ema:0.999, ema:0.5, posthoc:0.05, posthoc:0.1. Train with ema.decays"):
        read_weights(at(run), "ema:0.7")
    assert read_weights(at(run), "ema").label == read_weights(at(run), "ema:0.999").label == "ema:0.999"


def test_a_checkpoint_from_before_there_were_several(run):
    """Its state names no averages, and its file holds every weight."""
    state = at(run) / "state.json"
    old = {k: v for k, v in json.loads(state.read_text()).items() if k != "averages"}
    for file in at(run).glob("*_0*.safetensors"):
        file.unlink()
    state.write_text(json.dumps(old))
    manifest = json.loads((at(run) / "manifest.json").read_text())
    keep = {f.name for f in at(run).iterdir()}
    manifest["files"] = {k: v for k, v in manifest["files"].items() if k in keep}
    manifest["files"]["state.json"] = {
        "bytes": state.stat().st_size,
        "sha256": hashlib.sha256(state.read_bytes()).hexdigest(),
    }
    (at(run) / "manifest.json").write_text(json.dumps(manifest))
    assert read_weights(at(run), "ema").label == "ema"
    assert read_weights(at(run), "raw").label == "raw"
    with pytest.raises(Refused, match="kept no|out of reach"):
        read_weights(at(run), "posthoc:0.07")


def test_a_run_folder_from_before_goes_on(start):
    """Its configuration does not know the settings that came since."""
    run = start("train.steps=3", out="old")
    text = (run / "config.yaml").read_text()
    lines = text.splitlines()
    ema = lines.index(next(line for line in lines if line.startswith("ema:")))
    end = next(i for i in range(ema + 1, len(lines) + 1) if i == len(lines) or not lines[i].startswith(" "))
    old = [*lines[:ema], "ema: {decay: 0.999, warmup: true}", *lines[end:]]
    (run / "config.yaml").write_text("\n".join(old) + "\n")
    assert start("train.steps=3", out="old") == run


def test_no_average_is_the_raw_weights(start):
    run = start("ema.decay=0", "train.steps=3")
    assert read_weights(at(run, 3), "ema").label == "raw"


def test_drawn_from_and_made_a_run_of_its_own(run, tmp_path, capsys):
    words = ["--num", "1", "--steps", "2", "--format", "npy", "--quiet", "--device", "cpu"]
    for asked, label in [("posthoc:0.07", "posthoc:0.07"), ("ema:0.5", "ema:0.5"), ("raw", "raw")]:
        out = tmp_path / asked.replace(":", "_")
        assert sample.main([str(run), *words, "--weights", asked, "--out", str(out)]) == 0
        record = json.loads((out / "samples.json").read_text())
        assert (record["weights"], record["average"]) == (asked, label)
        assert (record["profile_error"] > 0) == (label == "posthoc:0.07")
    assert sample.main([str(run), *words, "--weights", "emma", "--out", str(tmp_path / "no")]) == 2
    new = tmp_path / "new"
    assert convert.main([str(run), "--weights", "posthoc:0.07", "--out", str(new)]) == 0
    assert "posthoc:0.07 of" in capsys.readouterr().out
    made, asked = read_weights(at(new, 0), "ema").tensors, read_weights(at(run), "posthoc:0.07").tensors
    assert made.keys() == asked.keys() and all(torch.equal(made[k], v) for k, v in asked.items())
    assert json.loads((at(new, 0) / "state.json").read_text())["converted"]["weights"] == "posthoc:0.07"
    assert sample.main([str(new), *words, "--out", str(tmp_path / "drawn")]) == 0
    assert convert.main([str(run), "--weights", "posthoc:0.07", "--out", str(new)]) == 2
    assert "is a run already" in capsys.readouterr().err
