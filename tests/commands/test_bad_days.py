"""Disks that are full, readers that leave, terminals that close, folders that are taken: one line, nothing lost."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import zoo  # noqa: F401
from tests.commands.test_cli import TINY
from vidiff import cli
from vidiff.commands import sample, train
from vidiff.engine import memory
from vidiff.engine.log import Console, read_journal
from vidiff.engine.run import RunFolder
from vidiff.engine.signals import Signals
from vidiff.errors import Refused

ROOT = Path(__file__).resolve().parents[2]
HOLD = "import fcntl,sys; f=open(sys.argv[1],'a+'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); input()"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained tiny run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    argv = [str(folder / "tiny.yaml"), "log.tensorboard=false", "--out", str(folder / "run"), "--device", "cpu"]
    assert train.main([*argv, "--quiet"]) == 0
    return folder / "run"


@pytest.fixture
def draw(trained, capsys):
    """draw(*argv): (exit code, errors) of sample on that run, two samples as .npy."""

    def call(*argv):
        words = [trained, "--num", "2", "--format", "npy", "--device", "cpu", "--quiet", *argv]
        code = sample.main([str(word) for word in words])
        err = capsys.readouterr().err
        assert "Traceback" not in err and len(err.splitlines()) <= 1
        return code, err

    return call


@pytest.fixture
def held(tmp_path):
    """held(folder): another process holds it until the test ends."""
    holders = []

    def hold(folder):
        folder.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-c", HOLD, str(folder / ".lock")]
        holders.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert holders[-1].stdout.readline() == "held\n"

    yield hold
    for holder in holders:
        holder.kill()
        holder.wait()


# ---- where samples go ----


def test_two_calls_do_not_draw_into_one_folder(draw, held, tmp_path):
    held(tmp_path / "s")
    code, err = draw("--out", tmp_path / "s")
    assert code == 2 and "is in use by" in err and [p.name for p in (tmp_path / "s").iterdir()] == [".lock"]


def test_what_an_interrupted_call_left_is_not_mixed_with_new_ones(draw, tmp_path):
    out = tmp_path / "s"
    out.mkdir()
    (out / "sample_0007.gif").write_bytes(b"old")
    (out / "notes.txt").write_text("mine")
    code, err = draw("--out", out)
    assert code == 2 and "sample_0007.gif, perhaps of a call that was interrupted" in err and "--overwrite" in err
    assert draw("--out", out, "--overwrite") == (0, "")
    there = {p.name for p in out.iterdir()} - {".lock"}
    assert there == {"sample_0000.npy", "sample_0001.npy", "samples.json", "notes.txt"}


def test_a_smaller_number_leaves_no_old_ones(draw, tmp_path):
    assert draw("--out", tmp_path / "s", "--grid")[0] == 0
    assert draw("--out", tmp_path / "s", "--num", "1", "--overwrite")[0] == 0
    assert {p.name for p in (tmp_path / "s").iterdir()} - {".lock"} == {"sample_0000.npy", "samples.json"}


def test_samples_stay_when_the_new_ones_fail(draw, tmp_path, monkeypatch):
    assert draw("--out", tmp_path / "s")[0] == 0
    before = (tmp_path / "s/sample_0001.npy").read_bytes()
    drawn = sample.draw
    monkeypatch.setattr(sample, "draw", lambda *a, **k: SimpleNamespace(**{**vars(drawn(*a, **k)), "broken": [1]}))
    code, err = draw("--out", tmp_path / "s", "--overwrite")
    assert code == 1 and "NaN" in err and (tmp_path / "s/sample_0001.npy").read_bytes() == before


@pytest.mark.parametrize("kind", ["gif", "mp4", "png", "npy"])
def test_a_disk_that_takes_no_more_samples_is_one_line(draw, tmp_path, kind):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        code, err = draw("--out", tmp_path / "s", "--format", kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 3 and err.startswith(f"vidiff: stopped: samples cannot be written to {tmp_path / 's'}: ")
    assert not (tmp_path / "s/samples.json").exists()


def test_what_no_memory_holds_is_refused_before_weights_are_read(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "load_weights", None)
    monkeypatch.setattr(memory, "machine_bytes", lambda: 400_000)
    code, err = draw("--out", tmp_path / "s", "--num", "40", "--batch-size", "40")
    assert code == 2 and "--batch-size" in err and not (tmp_path / "s").exists()
    code, err = draw("--out", tmp_path / "s", "--num", "1000")
    assert code == 2 and "--num" in err


# ---- disks ----


def test_an_error_of_the_disk_is_one_line(capsys):
    for error, code in ((OSError(errno.ENOSPC, "No space left on device"), 3), (OSError(errno.EBADF, "bug"), None)):
        made = cli.parser("train", "", ["x"])

        def fail(arguments, error=error):
            raise error

        if code is None:
            with pytest.raises(OSError, match="bug"):
                cli.execute(made, fail, [])
        else:
            assert cli.execute(made, fail, []) == code
            assert capsys.readouterr().err == "vidiff: stopped: No space left on device\n"


def test_only_what_can_be_gone_on_with_says_so(capsys):
    for goes_on, told in ((True, "; the same command goes on from here"), (False, "")):
        made = cli.parser("sample", "", ["x"])
        made.set_defaults(**({"goes_on": True} if goes_on else {}))
        assert cli.execute(made, lambda arguments: os.kill(os.getpid(), signal.SIGTERM), []) == 75
        assert capsys.readouterr().err == f"vidiff: interrupted: SIGTERM received{told}\n"


@pytest.mark.parametrize(("kib", "board"), [(2, "false"), (40, "false"), (8, "true")])
def test_a_disk_that_takes_no_more_stops_a_run_in_one_line(tmp_path, kib, board):
    """Files may not grow beyond so much: the log or the checkpoint cannot be written."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, kib * 1024))

    argv = [sys.executable, str(ROOT / "tools/train.py"), "tiny.yaml", f"log.tensorboard={board}", "--device", "cpu"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, preexec_fn=small, timeout=300)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("vidiff: stopped: ") and "File too large" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("runs/tiny/checkpoints/step_*"))


def test_a_damaged_record_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    for name, look in (("env.json", lambda: folder.check_runs({})), ("buckets.json", lambda: folder.record_shapes({}))):
        (tmp_path / name).write_text('{"runs": {"a"')
        with pytest.raises(Refused, match=f"{name} is damaged. Delete it to go on"):
            look()


def test_a_journal_cut_anywhere_is_read_as_far_as_it_goes(tmp_path):
    whole = b"".join(json.dumps({"step": s, "train/loss": s / 7, "note": "\u00fc"}).encode() + b"\n" for s in (1, 2))
    for end in range(len(whole)):
        (tmp_path / "m.jsonl").write_bytes(whole[:end] + b"\xff")
        assert [e["step"] for e in read_journal(tmp_path / "m.jsonl")] in ([], [1], [1, 2])
    (tmp_path / "m.jsonl").write_bytes(b'3\n[]\n{}\n{"step": 5}\n')
    assert read_journal(tmp_path / "m.jsonl") == [{"step": 5}]


# ---- readers and terminals ----


def test_a_run_outlives_its_reader(tmp_path):
    read, write = os.pipe()
    out = os.fdopen(write, "w")
    os.close(read)
    console = Console(tmp_path / "log.txt", out=out)
    for k in range(3):
        console.say(f"line {k}")
    console.close()
    out.close()
    assert (tmp_path / "log.txt").read_text() == "line 0\nline 1\nline 2\n"


def test_a_listing_whose_reader_leaves_ends_in_silence(tmp_path):
    read, write = os.pipe()
    os.close(read)
    for words in ([], ["tokenizer", "tubelet"]):  # more than a pipe's buffer holds, and less
        argv = [sys.executable, str(ROOT / "tools/list_zoo.py"), *words]
        done = subprocess.run(argv, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    os.close(write)
    with open("/dev/full", "w") as full:
        done = subprocess.run(argv, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (3, "vidiff: stopped: No space left on device\n")


@pytest.mark.parametrize("after_s", [0.3, 1.5])
def test_ctrl_c_while_everything_is_imported_is_no_traceback(tmp_path, after_s):
    argv = [sys.executable, str(ROOT / "tools/list_zoo.py"), "optimizers"]
    process = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode in (0, 75, -signal.SIGINT) and err in ("", "vidiff: interrupted\n")


def test_a_terminal_that_closes_asks_to_stop_unless_it_is_ignored(tmp_path):
    asked = SimpleNamespace(interrupted="", console=Console(quiet=True))
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Signals(asked):
            os.kill(os.getpid(), signal.SIGHUP)
        assert asked.interrupted == "SIGHUP received"
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        asked.interrupted = ""
        with Signals(asked):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not asked.interrupted
    finally:
        signal.signal(signal.SIGHUP, before)
