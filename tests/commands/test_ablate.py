"""A grid from the keyboard: found wrong before anything runs, run with a failing cell, gone on with, reported."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import zoo  # noqa: F401
from vidiff.commands import ablate, train

ROOT = Path(__file__).resolve().parents[2]

TINY = """\
name: tiny
data: {name: moving_digits, size: 16, frames: 4, digits: 1, digit_size: 8, length: 40}
tokenizer: {name: tubelet, size: [2, 4, 8]}
backbone: {name: dit_joint, dim: 24, depth: 2, num_heads: 3}
conditioner: label
positions: learned
sampler: {name: euler, steps: 3}
train: {steps: 4, batch_size: 6}
schedule: {warmup_steps: 2}
checkpoint: {every: 2}
log: {every: 1}
"""

GRID = """\
base: tiny.yaml
set: {callbacks.x0_error: {every: 2, num: 5}}
grid: {optimizer.lr: [1.0e-3, 1.0e+30], sampler.steps: [2, 3]}
exclude: [{optimizer.lr: 1.0e+30, sampler.steps: 3}]
report: {samples: 2}
"""
"""Two runs: one sampled in two ways, and one whose loss is not finite after its second step."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, exit code, output) of the grid, run once."""
    here = tmp_path_factory.mktemp("ablate")
    (here / "tiny.yaml").write_text(TINY)
    (here / "g.yaml").write_text(GRID)
    argv = [sys.executable, str(ROOT / "tools/ablate.py"), "g.yaml", "--device", "cpu", "--jobs", "2"]
    done = subprocess.run(argv, cwd=here, capture_output=True, text=True, timeout=900)  # a busy machine
    return here, done.returncode, done.stdout, done.stderr


@pytest.fixture
def call(ran, monkeypatch, capsys):
    """call(*argv): (exit code, output, errors) of ablate in that folder."""

    def go(*argv):
        monkeypatch.chdir(ran[0])
        code = ablate.main([*argv, "--device", "cpu"])
        return code, *capsys.readouterr()

    return go


def test_a_failed_run_is_told_and_the_rest_is_done(ran):
    here, code, out, err = ran
    runs = sorted(p.name for p in (here / "runs/ablations/g").iterdir() if (p / "config.yaml").is_file())
    good, bad = next(r for r in runs if r.startswith("lr0.001-s0-")), next(r for r in runs if r.startswith("lr1e+30"))
    assert code == 1 and len(runs) == 2
    assert f"FAILED  {bad}  exit code 3" in out and "not finite" in out and f"done    {good}" in out
    assert err.startswith(f"vidiff: failed: 1 of 2 runs: {bad}") and "--retry-failed" in err and "Traceback" not in err
    remembered = json.loads((here / "runs/ablations/g/queue.json").read_text())
    assert remembered[good]["exit"] == 0 and remembered[bad]["exit"] == 3


def test_cells_that_differ_in_sampling_are_one_training_sampled_twice(ran):
    folder = ran[0] / "runs/ablations/g"
    draws = sorted((folder).glob("lr0.001-*/samples/euler*/samples.json"))
    assert [json.loads(d.read_text())["evaluations"] for d in draws] == [2, 3]
    assert len({json.loads(d.read_text())["sha256"] for d in draws}) == 1
    assert len((folder / "logs" / f"{draws[0].parents[2].name}.log").read_text().split("$ OMP_NUM_THREADS=")) == 4


def test_the_report_has_what_there_is_and_what_failed(ran):
    report = ran[0] / "runs/ablations/g/report"
    lines = list(csv.DictReader((report / "table.csv").open()))
    assert [(line["optimizer.lr"], line["sampler.steps"], line["seeds"]) for line in lines] == [
        ("lr=0.001", "steps=2", "1"), ("lr=0.001", "steps=3", "1"), ("lr=1e+30", "steps=2", "0"),
    ]  # fmt: skip
    assert float(lines[1]["difference"]) == 0.0 and float(lines[0]["mean"]) > 0
    page = (report / "index.html").read_text()
    assert "Failed" in page and "not finite" in page and "data:image/gif;base64," in page
    assert (report / "samples.gif").is_file() and (report / "plots/curves.png").is_file()


def test_one_tensorboard_overlays_the_cells(ran):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    tags = {}
    for folder in sorted((ran[0] / "runs/ablations/g").glob("lr*/tb")):
        events = EventAccumulator(str(folder))
        events.Reload()
        tags[folder.parent.name] = set(events.Tags()["scalars"])
        if "lr0.001" in folder.parent.name:
            [row] = [s for s in events.summary_metadata if s == "_hparams_/session_start_info"]
            told = plugin_data_pb2.HParamsPluginData.FromString(events.summary_metadata[row].plugin_data.content)
            assert told.session_start_info.hparams["optimizer.lr"].number_value == 1e-3
            assert told.session_start_info.hparams["backbone.name"].string_value == "dit_joint"
    first, second = tags.values()
    assert {"train/loss", "val/x0_error"} <= first
    assert second & first >= {"train/loss", "train/lr"}  # the failed one has the steps before


def test_the_same_command_again_runs_nothing_and_still_tells_of_the_failure(call):
    code, out, err = call("g.yaml")
    assert code == 1 and "0 to do" in out and "start" not in out and "lr1e+30" in err


def test_only_the_good_cells_are_well(call):
    code, out, _ = call("g.yaml", "--only", "optimizer.lr=0.001")
    assert code == 0 and "2 cells, 1 runs, 0 to do" in out


def test_failed_runs_are_tried_again_when_asked(call, ran):
    code, out, _ = call("g.yaml", "--retry-failed", "--limit", "1")
    assert code == 1 and "1 to do" in out and "start   lr1e+30" in out


def test_a_shortened_grid_has_a_folder_of_its_own(call):
    code, out, _ = call("g.yaml", "train.steps=3", "seeds=[3]", "--list")
    lines = out.strip().splitlines()
    assert code == 0 and "waiting" in lines[0] and "0/3" in lines[0] and "seed 3" in lines[0]
    assert "runs/ablations/g+train.steps3/lr0.001-s3-" in lines[0]


def test_the_list_of_cells(call):
    code, out, _ = call("g.yaml", "--list")
    lines = out.strip().splitlines()
    assert code == 0 and len(lines) == 4
    assert lines[0].startswith("lr=0.001, steps=2, seed 0  finished") and "4/4" in lines[0]
    assert "val/x0_error" in lines[0] and "lr=1e+30, steps=2, seed 0  failed" in lines[2]
    assert lines[3] == "3 cells, 2 runs to train (cells that differ in sampling share one)"


def test_the_report_alone(call, ran):
    page = ran[0] / "runs/ablations/g/report/index.html"
    page.unlink()
    code, out, _ = call("g.yaml", "--report-only", "--only", "optimizer.lr=0.001")
    assert code == 0 and page.is_file() and "start" not in out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_queue_reports_what_is_finished(tmp_path, monkeypatch, capsys, sent):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "g.yaml").write_text("base: tiny.yaml\ngrid: {optimizer.lr: [0.1, 0.2]}\nreport: {samples: 0}\n")

    class Asked(ablate.Queue):
        def _end(self, running, code, ended):
            os.kill(os.getpid(), sent)  # while the first one is taken in, with the second still waiting
            super()._end(running, code, ended)

    monkeypatch.setattr(ablate, "Queue", Asked)
    assert ablate.main(["g.yaml", "--device", "cpu", "--jobs", "1"]) == 75
    out, err = capsys.readouterr()
    assert "report of what is finished so far: runs/ablations/g/report/index.html" in out
    assert "1 of 2 runs are done, 1 are left; the same command goes on from here" in err and "Traceback" not in err
    lines = list(csv.DictReader((tmp_path / "runs/ablations/g/report/table.csv").open()))
    assert [line["seeds"] for line in lines] == ["1", "0"]
    page = (tmp_path / "runs/ablations/g/report/report.md").read_text()
    assert "1 of 2 cells finished" in page and "waiting" in page


def test_a_report_alone_needs_no_queue_to_end(call, ran):
    hold = (
        "import fcntl,sys; f=open(sys.argv[1],'a+'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    folder = ran[0] / "runs/ablations/g"
    typed = (folder / "command.txt").read_bytes()
    for locked, code in ((folder, 1), (folder / "report", 2)):
        holder = subprocess.Popen(
            [sys.executable, "-c", hold, str(locked / ".lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout.readline() == "held\n"
        (folder / "report/table.csv").write_text("old")
        got, _, err = call("g.yaml", "--report-only")
        assert got == code and ((folder / "report/table.csv").read_text() == "old") == (code == 2), err
        assert code == 1 or "report is in use by" in err
        holder.kill()
        holder.wait()
    assert (folder / "command.txt").read_bytes() == typed
    call("g.yaml", "--report-only")


def test_samples_that_are_gone_are_drawn_again_and_not_reported(call, ran):
    npy = next((ran[0] / "runs/ablations/g").glob("lr0.001-*/samples/euler2-*/sample_0001.npy"))
    kept = npy.read_bytes()
    npy.unlink()
    try:
        assert "unfinished" in call("g.yaml", "--list", "--only", "sampler.steps=2")[1]
        assert call("g.yaml", "--report-only")[0] == 1
    finally:
        npy.write_bytes(kept)
        call("g.yaml", "--report-only")


def test_a_changed_base_is_noticed_and_nothing_is_run(call, ran):
    base = ran[0] / "tiny.yaml"
    base.write_text(TINY.replace("depth: 2", "depth: 3"))
    try:
        code, _, err = call("g.yaml")
    finally:
        base.write_text(TINY)
    assert code == 2 and "was trained with other values of backbone.depth" in err


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """refused(grid text, *flags): the error lines of a call that must end with exit code 2 and write nothing."""

    def go(text, *argv):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "tiny.yaml").write_text(TINY)
        (tmp_path / "g.yaml").write_text(text)
        assert ablate.main(["g.yaml", "--device", "cpu", *argv]) == 2
        assert {p.name for p in tmp_path.iterdir()} == {"tiny.yaml", "g.yaml"}
        return capsys.readouterr().err.strip().splitlines()

    return go


def test_every_impossible_cell_is_found_before_anything_runs(refused):
    lines = refused(
        "base: tiny.yaml\ngrid:\n  objective: [v_prediction, late]\n  train.batch_size: [6, 7]\nset: {train.accumulate: 2}\n"
    )
    assert len(lines) == 1 and lines[0].startswith("vidiff: error: g.yaml:3: objective 'late' is not registered.")
    lines = refused(
        "base: tiny.yaml\ngrid:\n  objective: [v_prediction, epsilon]\n  train.batch_size: [6, 7]\n"
        "  objective.interval: [[0.0, 1.0], [0.3, 1.0]]\nset: {train.accumulate: 2}\n"
    )
    assert len(lines) >= 2 and all("[" in line for line in lines)
    assert any("does not split" in line and "batch_size=7" in line for line in lines)
    assert any("g.yaml:1: callback x0_error: log-SNR 2 is not reached" in line for line in lines)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--jobs", "0"], "--jobs is 0: it must be at least 1."),
        (["--only", "optimizer.lrr=1"], "no cell has a key 'optimizer.lrr'. Did you mean 'optimizer.lr'?"),
        (["--report-only"], "runs/ablations/g is no ablation yet"),
        (["--out", "tiny.yaml"], "tiny.yaml cannot be written"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_flags_that_cannot_be(refused, argv, told):
    lines = refused(GRID, *argv)
    assert len(lines) == 1 and told in lines[0]


def test_a_device_beside_a_list_of_devices_would_be_ignored(refused):
    [line] = refused(GRID + "jobs: {devices: [cpu, cpu]}\n")
    assert line.endswith("--device cpu is for jobs.devices: auto, and g.yaml lists cpu, cpu.")


def test_a_dry_run_tries_every_arm_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "g.yaml").write_text("base: tiny.yaml\ngrid: {optimizer.lr: [0.001, 0.01]}\n")
    assert ablate.main(["g.yaml", "--device", "cpu", "--dry-run"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("lr=0.001: loss ") and lines[1].startswith("lr=0.01: loss ") and len(lines) == 3
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.yaml", "g.yaml"}


def weights(run):
    """SHA-256 of the last weights, the average and the optimizer's state."""
    folder = run / "checkpoints" / (run / "checkpoints/last").read_text().strip()
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.glob("*.safetensors"))}


@pytest.mark.slow
def test_a_killed_queue_goes_on_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    """SIGKILL of the queue in the middle of a run, then the same command: as if nothing had been."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("steps: 4,", "steps: 120,").replace("every: 2}", "every: 10}"))
    (tmp_path / "g.yaml").write_text("base: tiny.yaml\nreport: {samples: 0}\n")
    argv = [sys.executable, str(ROOT / "tools/ablate.py"), "g.yaml", "--device", "cpu", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(argv, env=environment)
    folder, deadline = tmp_path / "runs/ablations/g", time.perf_counter() + 120
    while not list(folder.glob("tiny-*/checkpoints/step_*")) and time.perf_counter() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = next(folder.glob("tiny-*"))
    assert json.loads((run / "status.json").read_text())["step"] < 120
    again = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert "resuming from" in (run / "log.txt").read_text()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert train.main([str(run / "config.yaml"), "--out", "whole", "--device", "cpu", "--quiet"]) == 0
    torch.set_num_threads(before)
    assert weights(run) == weights(tmp_path / "whole")
