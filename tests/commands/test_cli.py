"""What the person at the keyboard meets: one line per error, exit code 2, no traceback, nothing written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import zoo  # noqa: F401
from vidiff.cli import COMMANDS
from vidiff.cli import main as vidiff
from vidiff.commands import ablate, likelihood, list_zoo, profile_flops, report, sample, show, train

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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the tiny configuration in it."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(here, capsys):
    """refused(main, *argv): the error lines of a call that must end with exit code 2 and write nothing."""

    def call(main, *argv):
        before = {p: p.stat().st_mtime_ns for p in here.rglob("*")}
        code = main([str(a) for a in argv])
        err = capsys.readouterr().err
        assert code == 2, err
        assert "Traceback" not in err
        assert {p: p.stat().st_mtime_ns for p in here.rglob("*")} == before
        return err

    return call


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["tiny.yaml", "backbone=late"], "backbone 'late' is not registered."),
        (["tiny.yaml", "backbone.dept=3"], "backbone.dept is not a setting of dit_joint"),
        (
            ["tiny.yaml", "samplr.steps=20"],
            "'samplr.steps=20' changes nothing: there is no key 'samplr'. Did you mean 'sampler.steps'?",
        ),
        (
            ["tiny.yaml", "tokenizer.size=[3,4,4]"],
            "4 frames of 16x16 do not split into tubelets of 3x4x4: 4 is not divisible by 3.",
        ),
        (["tiny.yaml", "backbone.num_heads=5"], "24"),
        (["tiny.yaml", "objective.prediction=eps"], "eps prediction on the linear path is impossible at t = 1"),
        (["tiny.yaml", "attention=xformers"], "xformers"),
        (["tiny.yaml", "conditioner=none", "guidance=cfg"], "guidance"),
        (["tiny.yaml", "data.labels=none", "conditioner=label"], "label"),
        (["tiny.yaml", "data=video_folder", "data.root=nowhere"], "nowhere"),
        (["tiny.yaml", "data=moving_mnist", "data.root=nowhere", "conditioner=none"], "moving_digits"),
        (["tiny.yaml", "train.batch_size=7", "train.accumulate=2"], "does not split"),
        (["tiny.yaml", "schedule.warmup_steps=9"], "warmup_steps is 9"),
        (["tiny.yaml", "optimizer.name=schedulefree_adamw"], "optimizer.name is 'schedulefree_adamw'"),
        (["tiny.yaml", "optimizer.extra={momentun: 0.9}"], "momentun"),
        (["tiny.yaml", "train.precision=fp16"], "fp16"),
        (["tiny.yaml", "--device", "cuda:7"], "cuda:7"),
        (["tiny.yaml", "--device", "gpu"], "gpu"),
        (["tiny.yml"], "Did you mean 'tiny.yaml'?"),
        (["tiny.yaml", "seed"], "not an override"),
        (["tiny.yaml", "--steps", "0"], "train.steps is 0"),
        (["tiny.yaml", "--resume", "nowhere"], "nowhere"),
        (["tiny.yaml", "--out", "tiny.yaml"], "not a folder"),
    ],
    ids=lambda v: " ".join(v[1:]) if isinstance(v, list) else "",
)
def test_refused_in_one_line_before_anything_heavy(refused, argv, text):
    err = refused(train.main, *argv)
    assert text in err
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("vidiff: error: ")


def test_all_impossibilities_are_listed_together(refused):
    err = refused(train.main, "tiny.yaml", "tokenizer.size=[3,4,4]", "objective.prediction=eps", "data.labels=none")
    assert "tubelets" in err and "impossible at t = 1" in err and "label" in err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained tiny run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    assert train.main([str(folder / "tiny.yaml"), "--out", str(folder / "run"), "--device", "cpu", "--quiet"]) == 0
    return folder / "run"


@pytest.mark.parametrize("device", ["cpu:3", "cuda:256", "meta"])
def test_no_tool_takes_a_device_that_is_not_there(trained, tmp_path, monkeypatch, capsys, device):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "grid.yaml").write_text("base: tiny.yaml\ngrid: {optimizer.lr: [0.001, 0.01]}\n")
    for tool, subject in ((train, "tiny.yaml"), (profile_flops, "tiny.yaml"), (ablate, "grid.yaml"),
                          (sample, str(trained)), (likelihood, str(trained))):  # fmt: skip
        assert tool.main([subject, "--device", device]) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert f"device '{device}' is not" in line
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.yaml", "grid.yaml"}


def test_what_a_run_leaves_behind(trained):
    there = {p.name for p in trained.iterdir()}
    assert {
        "config.yaml",
        "command.txt",
        "env.json",
        "log.txt",
        "metrics.jsonl",
        "status.json",
        "tb",
        "checkpoints",
    } <= there
    assert json.loads((trained / "status.json").read_text())["status"] == "finished"
    assert (trained / "checkpoints/last").read_text().strip() == "step_00000004"
    assert "step 4/4  loss" in (trained / "log.txt").read_text()
    assert "dit_joint" in (trained / "log.txt").read_text()
    events = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "train/grad_norm", "train/lr", "perf/clips_per_s", "perf/data_wait", "perf/tflops"} <= set(
        events[0]
    )


def test_the_same_command_again_says_finished(trained, capsys):
    assert train.main([str(trained.parent / "tiny.yaml"), "--out", str(trained), "--device", "cpu"]) == 0
    assert "is finished (4 steps)" in capsys.readouterr().out


def test_the_runs_own_configuration_reproduces_it(trained, tmp_path):
    assert (
        train.main([str(trained / "config.yaml"), "--out", str(tmp_path / "again"), "--device", "cpu", "--quiet"]) == 0
    )
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/step_00000004/{name}.safetensors"
        assert (trained / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


@pytest.mark.parametrize(
    ("override", "text"),
    [("backbone.depth=3", "holds another experiment (backbone.depth: 2 -> 3)"), ("seed=5", "seed: 0 -> 5"),
     ("train.steps=9", "--allow-change"), ("data.length=41", "data.length: 40 -> 41")],
)  # fmt: skip
def test_a_changed_configuration_is_refused_with_the_ways_out(trained, capsys, override, text):
    assert train.main([str(trained.parent / "tiny.yaml"), override, "--out", str(trained), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert text in err and "--out" in err and "--overwrite" in err


def test_a_second_process_is_refused(trained, capsys):
    hold = (
        "import fcntl,sys; f=open(sys.argv[1],'a+'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(trained / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    argv = [str(trained.parent / "tiny.yaml"), "--out", str(trained), "--device", "cpu"]
    assert train.main(argv) == 2
    assert "is in use by" in capsys.readouterr().err
    holder.kill()
    holder.wait()
    assert train.main(argv) == 0


def test_a_folder_that_is_no_run_is_left_alone(refused, here):
    (here / "mine").mkdir()
    (here / "mine/thesis.txt").write_text("years")
    assert "not a run folder" in refused(train.main, "tiny.yaml", "--out", "mine", "--overwrite")


def test_sampling_writes_every_format_and_a_record(trained, tmp_path):
    out = tmp_path / "s"
    argv = [trained, "--num", "3", "--format", "gif,mp4,png,npy", "--grid", "--compare", "--label", "3", "--out", out]
    assert sample.main([*map(str, argv), "--quiet", "--device", "cpu"]) == 0
    names = {p.name for p in out.iterdir()}
    assert {f"sample_{i:04d}.{k}" for i in range(3) for k in ("gif", "mp4", "png", "npy")} <= names
    assert {"grid.gif", "compare.gif", "compare.png", "samples.json"} <= names
    record = json.loads((out / "samples.json").read_text())
    assert record["evaluations"] == 3 and record["weights"] == "ema" and record["conditions"] == [{"label": 3}] * 3


def test_a_sample_is_the_same_in_any_company(trained, tmp_path):
    import numpy as np

    for name, num, size in (("a", 5, 2), ("b", 3, 3)):
        argv = [trained, "--num", num, "--batch-size", size, "--format", "npy", "--out", tmp_path / name, "--quiet"]
        assert sample.main([*map(str, argv), "--device", "cpu"]) == 0
    for i in range(3):
        a, b = (np.load(tmp_path / n / f"sample_{i:04d}.npy", allow_pickle=False).astype(int) for n in "ab")
        assert abs(a - b).max() <= 1


def test_drawn_alone_a_sample_has_the_same_bits_however_many_are_drawn(trained, tmp_path):
    for num in (2, 3):
        argv = [trained, "--num", num, "--batch-size", 1, "--format", "npy", "--out", tmp_path / str(num), "--quiet"]
        assert sample.main([*map(str, argv), "--device", "cpu"]) == 0
    for name in ("sample_0000.npy", "sample_0001.npy"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_sampling_refuses(trained, capsys):
    for argv, text in (
        ([trained, "backbone.depth=3"], "only sampler, guidance, cache, task and attention"),
        ([trained, "sampler.name=hein"], "Did you mean 'heun'?"),
        ([trained, "--format", "gif,avi"], "avi"),
        ([trained, "--label", "12"], "label 12 is not a class"),
        ([trained.parent / "rum"], "Did you mean 'run'?"),
        ([trained, "--num", "0"], "--num"),
    ):
        assert sample.main([*map(str, argv), "--device", "cpu"]) == 2
        assert text in capsys.readouterr().err


def test_sampling_twice_overwrites_only_when_asked(trained, capsys):
    argv = [str(trained), "--num", "1", "--device", "cpu", "--quiet"]
    assert sample.main(argv) == 0
    assert sample.main(argv) == 2
    assert "holds samples already" in capsys.readouterr().err
    assert sample.main([*argv, "--overwrite"]) == 0


def test_another_sampler_changes_the_picture_only(trained, tmp_path):
    argv = [
        str(trained),
        "sampler=heun",
        "sampler.steps=2",
        "--num",
        "1",
        "--out",
        str(tmp_path / "h"),
        "--device",
        "cpu",
    ]
    assert sample.main([*argv, "--quiet"]) == 0
    assert json.loads((tmp_path / "h/samples.json").read_text())["evaluations"] == 3


def test_dry_run_and_print_config_write_nothing(here, capsys):
    assert train.main(["tiny.yaml", "--dry-run", "--device", "cpu"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert train.main(["tiny.yaml", "--print-config"]) == 0
    (here / "again.yaml").write_text(capsys.readouterr().out)
    assert train.main(["again.yaml", "--print-config"]) == 0
    assert {p.name for p in here.iterdir()} == {"tiny.yaml", "again.yaml"}


def test_show_and_report(trained, tmp_path, capsys):
    png = tmp_path / "clips.png"
    assert show.main([str(trained / "config.yaml"), "--depth", "2", "--data", str(png)]) == 0
    out = capsys.readouterr().out
    assert "backbone.blocks" in out and "parameters" in out and png.stat().st_size > 100
    assert report.main([str(trained)]) == 0
    page = (trained / "report/index.html").read_text()
    assert "data:image/png;base64" in page and "dit_joint" in page and "http" not in page


def test_listings(capsys):
    assert list_zoo.main([]) == 0
    assert "dit_joint" in capsys.readouterr().out
    assert list_zoo.main(["backbone", "dit_joint"]) == 0
    out = capsys.readouterr().out
    assert "depth" in out and "an integer at least 1" in out
    assert list_zoo.main(["backbne"]) == 2
    assert "Did you mean 'backbone'?" in capsys.readouterr().err
    assert list_zoo.main(["backbone", "dit_jont"]) == 2
    assert "Did you mean 'dit_joint'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_tool_has_help_with_two_examples_and_runs_from_a_clone(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / f"tools/{name}.py"), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"python tools/{name}.py") >= 2


def test_the_console_script(capsys):
    assert vidiff(["--help"]) == 0
    assert vidiff(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_optimizer_and_schedule_are_refused_before_the_folder_is_made(refused, here):
    refused(train.main, "tiny.yaml", "optimizer.name=nope", "--out", "fresh")
    assert not (here / "fresh").exists()


@pytest.fixture
def clips(here):
    """A folder of two good clips between bad ones, the first file in order among them."""
    import torch

    from vidiff.video import write_mp4

    folder = here / "clips"
    folder.mkdir()
    for name in ("b", "d"):
        write_mp4(folder / f"{name}.mp4", torch.randint(0, 255, (3, 6, 16, 16), dtype=torch.uint8))
    (folder / "a.mp4").write_bytes(b"")
    (folder / "c.mp4").write_text("no video at all")
    whole = (folder / "b.mp4").read_bytes()
    (folder / "e.mp4").write_bytes(whole[: len(whole) // 3])
    text = TINY.replace("data: {name: moving_digits, size: 16, frames: 4, digits: 1, digit_size: 8, length: 40}",
                        "data: {name: video_folder, root: clips, size: [16, 16], frames: 4, splits: [1, 0, 0]}")  # fmt: skip
    (here / "clips.yaml").write_text(text.replace("conditioner: label\n", ""))
    return folder


def test_unreadable_clips_are_skipped_counted_and_named(clips, here, capsys):
    argv = ["clips.yaml", "train.max_bad_fraction=0.9", "train.workers=1", "--out", "run", "--device", "cpu", "--quiet"]
    assert train.main(argv) == 0
    named = {Path(json.loads(line)["path"]).name for line in (here / "run/bad_clips.jsonl").read_text().splitlines()}
    assert named == {"a.mp4", "c.mp4", "e.mp4"}


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable_clips_stop_the_run_in_one_line(clips, here, capsys, workers):
    argv = ["clips.yaml", "train.max_bad_fraction=0.1", f"train.workers={workers}", "--out", "run", "--device", "cpu"]
    assert train.main([*argv, "--quiet"]) == 3
    err = capsys.readouterr().err
    assert "clips cannot be read" in err and "10%" in err and len(err.strip().splitlines()) == 1
    assert (here / "run/bad_clips.jsonl").read_text()


def test_no_readable_clip_at_all_is_refused(clips, refused):
    for name in ("b", "d"):
        (clips / f"{name}.mp4").unlink()
    assert "cannot be read" in refused(train.main, "clips.yaml", "--out", "run")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["train.batch_size=100000000000"], "GiB"),
        (["backbone.depth=1000000000"], "at most 1000"),
        (["backbone.dim=3000000"], "GiB"),
        (["data.digits=200"], "at most 9"),
        (["data.size=1000000", "data.digit_size=8"], "GiB"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_absurd_sizes_are_refused_at_once(refused, overrides, text):
    assert text in refused(train.main, "tiny.yaml", *overrides)


def test_flags_of_sample_are_checked_before_anything_is_loaded(trained, capsys):
    for flag, value in (("--fps", "0"), ("--fps", "nan"), ("--scale", "-2"), ("--scale", "100000"), ("--format", ""),
                        ("--seed", "-1"), ("--batch-size", "0"), ("--out", str(trained / "log.txt" / "x"))):  # fmt: skip
        assert sample.main([str(trained), flag, value, "--device", "cpu"]) == 2, flag
        err = capsys.readouterr().err
        assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_a_wrong_flag_is_one_line(capsys):
    for argv in (["tiny.yaml", "--steps", "abc"], ["tiny.yaml", "--foo"], []):
        with pytest.raises(SystemExit) as caught:
            train.main(argv)
        err = capsys.readouterr().err
        assert caught.value.code == 2 and len(err.strip().splitlines()) == 1 and err.startswith("vidiff: error: ")


def test_a_plugin_that_exits_is_refused(refused, here):
    (here / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (here / "x.yaml").write_text("base: tiny.yaml\nimports: [exits.py]\n")
    assert "exits.py fails on import: SystemExit" in refused(train.main, "x.yaml")


def test_out_of_memory_is_one_line(trained, tmp_path, capsys):
    argv = [str(trained), "sampler.steps=1000000000000", "--num", "1", "--device", "cpu", "--quiet"]
    assert sample.main([*argv, "--out", str(tmp_path / "out")]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "vidiff: stopped: out of memory (asked for 80000" in err
