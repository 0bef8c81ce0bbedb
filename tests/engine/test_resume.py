"""However a run is interrupted, observed or divided, it ends with the same bits."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vidiff.engine.log import read_journal
from vidiff.errors import Interrupted

ROOT = Path(__file__).resolve().parents[2]


def bits(run, step=7):
    """SHA-256 of weights, average and optimizer state at a step."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.glob("*.safetensors"))}


def losses(run):
    """(step, loss) of every log line."""
    return [(e["step"], e["train/loss"]) for e in read_journal(run / "metrics.jsonl") if "train/loss" in e]


@pytest.fixture(scope="module")
def threads():
    """One thread: bits depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture
def reference(start):
    return start(out="reference")


def test_two_runs_are_equal_and_seeds_differ(start, reference):
    assert bits(start(out="again")) == bits(reference)
    assert bits(start("seed=1", out="other")) != bits(reference)


@pytest.mark.parametrize("at", [1, 3, 4, 6])
def test_interrupted_anywhere_and_resumed(start, reference, monkeypatch, at):
    from vidiff.engine.train import Trainer

    step = Trainer.train_step

    def interrupted_step(self, batches):
        step(self, batches)
        if self.step == at:
            self.interrupted = "test"

    monkeypatch.setattr(Trainer, "train_step", interrupted_step)
    with pytest.raises(Interrupted):
        start("train.workers=1", "train.accumulate=3", out="run")
    status = json.loads((reference.parent / "run/status.json").read_text())
    assert status["status"] == "interrupted" and status["step"] == at
    monkeypatch.undo()
    run = start("train.workers=1", "train.accumulate=3", out="run")
    whole = start("train.accumulate=3", out="whole")
    assert bits(run) == bits(whole)
    assert [s for s, _ in losses(run)] == [s for s, _ in losses(whole)]


OBSERVERS = [
    ["log.every=1"],
    ["log.every=7", "log.tensorboard=true"],
    ["checkpoint.every=1"],
    ["train.workers=1"],
    ["train.workers=2", "callbacks.validation={every: 2, num: 5, batch_size: 2}"],
    ["callbacks.samples={every: 3, num: 2}", "sampler.steps=2"],
    ["callbacks.validation={every: 1, num: 3}", "callbacks.samples={every: 1, num: 1}", "checkpoint.every=2"],
]


@pytest.mark.parametrize("overrides", OBSERVERS, ids=lambda o: "+".join(x.partition("=")[0] for x in o))
def test_who_watches_does_not_change_the_weights(start, reference, overrides):
    assert bits(start(*overrides, out="watched")) == bits(reference)


def test_accumulation_equals_one_batch(start, reference):
    one = load_file(reference / "checkpoints/step_00000007/model.safetensors")
    for parts in (2, 3, 6):
        run = start(f"train.accumulate={parts}", "backbone.dropout=0.0", out=f"parts{parts}")
        whole = start("backbone.dropout=0.0", out=f"whole{parts}")
        split = load_file(run / "checkpoints/step_00000007/model.safetensors")
        one = load_file(whole / "checkpoints/step_00000007/model.safetensors")
        # Adam's first steps move a weight by lr * g/|g|: rounding of a near-zero gradient can show at 1e-6
        assert max((one[k] - split[k]).abs().max().item() for k in one) < 5e-6
        a, b = dict(losses(run)), dict(losses(whole))
        assert max(abs(a[s] - b[s]) for s in b) < 1e-6


def test_journal_has_each_step_once_after_resume(start):
    run = start("checkpoint.every=2", "log.every=1", "train.steps=4", out="run")
    again = start("checkpoint.every=2", "log.every=1", "train.steps=7", out="run", allow_change=True)
    assert run == again
    assert [s for s, _ in losses(run)] == [1, 2, 3, 4, 5, 6, 7]


def command(yaml_file, out, *overrides):
    return [
        sys.executable,
        str(ROOT / "tools/train.py"),
        str(yaml_file),
        "--out",
        str(out),
        "--device",
        "cpu",
        *overrides,
    ]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def steps_logged(out):
    try:
        return json.loads((out / "status.json").read_text())["step"]
    except (OSError, ValueError):
        return -1


def wait_for(process, out, step, limit_s=90):
    """Wait until the run has reached a step."""
    began = time.monotonic()
    while steps_logged(out) < step:
        assert process.poll() is None, "the run ended before it was interrupted"
        assert time.monotonic() - began < limit_s
        time.sleep(0.01)


LONG = ["train.steps=60", "checkpoint.every=4", "log.every=1", "train.workers=1", "train.accumulate=2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_checkpoint_and_exit_75(yaml_file, tmp_path, number):
    out = tmp_path / "signalled"
    process = subprocess.Popen(command(yaml_file, out, *LONG), env=environment(), stdout=subprocess.DEVNULL)
    wait_for(process, out, 5)
    process.send_signal(number)
    assert process.wait(30) == 75
    status = json.loads((out / "status.json").read_text())
    assert status["status"] == "interrupted"
    assert (out / "checkpoints" / f"step_{status['step']:08d}" / "manifest.json").is_file()


def kill_and_resume(yaml_file, tmp_path, kills, seed):
    """Kill a run at random instants, go on each time, and compare its end with an undisturbed run's."""
    rng = random.Random(seed)
    reference, out = tmp_path / "reference", tmp_path / "killed"
    assert subprocess.run(command(yaml_file, reference, *LONG), env=environment(), capture_output=True).returncode == 0
    for _ in range(kills):
        process = subprocess.Popen(command(yaml_file, out, *LONG), env=environment(), stdout=subprocess.DEVNULL)
        reached = steps_logged(out)
        try:
            wait_for(process, out, max(reached, 0) + rng.randrange(1, 8))
        except AssertionError:
            break
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.wait()
        assert len(list((out / "checkpoints").glob(".step_*"))) <= 1
    done = subprocess.run(command(yaml_file, out, *LONG), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert bits(out, 60) == bits(reference, 60)
    assert losses(out) == losses(reference)


def test_killed_twice_and_resumed(yaml_file, tmp_path):
    kill_and_resume(yaml_file, tmp_path, kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_many_times(yaml_file, tmp_path, seed):
    kill_and_resume(yaml_file, tmp_path, kills=8, seed=seed)
