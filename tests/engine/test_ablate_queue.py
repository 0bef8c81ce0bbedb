"""The queue: failures stay where they are, signals are passed on once, processes get their share of threads."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from vidiff.engine.ablate.queue import Job, Queue, cores, describe, seats_of
from vidiff.engine.log import Console

ROOT = Path(__file__).resolve().parents[2]


class Lines:
    """A console's output as a list."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        """Nothing is kept back."""


@pytest.fixture
def out():
    return Lines()


@pytest.fixture
def queue(tmp_path, out):
    """queue({name: code or list of codes}, seats): a queue of `python -c` jobs."""

    def make(codes, jobs=1, **options):
        def job(name, code):
            listed = [code] if isinstance(code, str) else code
            commands = [[sys.executable, "-c", textwrap.dedent(c)] for c in listed]
            return Job(name, lambda device: commands, tmp_path / f"{name}.log", **options.get(name, {}))

        return Queue([job(n, c) for n, c in codes.items()], seats_of(["cpu"], 1, jobs), Console(out=out))

    return make


def test_a_failure_shows_its_last_lines_and_the_rest_goes_on(queue, out):
    bad = "print('one'); print('two'); raise SystemExit(3)"
    outcomes = queue({"a": bad, "b": ["print('x')", "import os; os.kill(os.getpid(), 9)"], "c": "print('fine')"}).run()
    assert {name: o.code for name, o in outcomes.items()} == {"a": 3, "b": -9, "c": 0}
    assert outcomes["a"].last_lines[-2:] == ("one", "two") and outcomes["a"].words == "exit code 3"
    assert outcomes["b"].words == "killed by SIGKILL (out of memory?)"
    assert "FAILED  a  exit code 3" in out.text and "        | two\n" in out.text
    assert "[3/3] done    c" in out.text


def test_the_commands_of_a_job_come_one_after_the_other_until_one_fails(queue, tmp_path):
    mark = "import sys; open(r'{}', 'a').write('{}'); sys.exit({})"
    file = tmp_path / "marks"
    steps = [mark.format(file, i, code) for i, code in ((1, 0), (2, 5), (3, 0))]
    assert queue({"a": steps}).run()["a"].code == 5
    assert file.read_text() == "12"
    assert (tmp_path / "a.log").read_text().count("$ OMP_NUM_THREADS=") == 2


def test_a_job_goes_on_behind_a_failure_where_it_can_and_remembers_the_first(queue, tmp_path):
    ready = tmp_path / "ready"
    steps = ["print('not yet'); raise SystemExit(4)", "print('never')"]
    sampled = [f"open(r'{ready}', 'w')", "print('bad'); print('  ^^^^'); raise SystemExit(5)", "raise SystemExit(6)",
               f"open(r'{ready}', 'w').write('drawn')"]  # fmt: skip
    options = {name: {"goes_on": ready.is_file} for name in ("a", "b")}
    outcomes = queue({"a": steps, "b": sampled}, **options).run()
    assert {name: o.code for name, o in outcomes.items()} == {"a": 4, "b": 5}
    assert outcomes["a"].last_lines[-1] == "not yet" and outcomes["b"].last_lines[-1] == "bad"
    assert ready.read_text() == "drawn"


def test_seats_share_devices_and_threads(monkeypatch, queue, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seats = seats_of(["cuda:0", "cuda:1"], per_device=2)
    assert [s.device for s in seats] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert {s.threads for s in seats} == {max(1, cores() // 4)}
    assert [s.device for s in seats_of(["cuda:0", "cuda:1"], 1, jobs=3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert seats_of(["cpu"], 1)[0].threads == cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert describe(seats_of(["cpu"], 1, jobs=5)) == "5 at a time on cpu, 7 threads each"
    queue({"a": "import os; print('threads', os.environ['OMP_NUM_THREADS'])"}).run()
    assert "threads 7" in (tmp_path / "a.log").read_text()


def test_as_many_at_a_time_as_there_are_seats(queue, tmp_path):
    """Each job waits for the other's file: alone neither could end."""
    meet = """
        import pathlib, sys, time
        mine, other = (pathlib.Path(r"{}") / name for name in ("{}", "{}"))
        mine.touch()
        for _ in range(200):
            if other.exists():
                sys.exit(0)
            time.sleep(0.05)
        sys.exit(1)
    """
    jobs = {"a": meet.format(tmp_path, "fa", "fb"), "b": meet.format(tmp_path, "fb", "fa")}
    assert {o.code for o in queue(jobs, jobs=2).run().values()} == {0}


def test_a_held_run_waits_and_the_others_do_not(queue, out):
    free_at = time.perf_counter() + 1.0
    made = queue({"held": "print(1)", "free": "print(2)"}, held={"busy": lambda: time.perf_counter() < free_at})
    assert {o.code for o in made.run().values()} == {0}
    assert out.text.index("done    free") < out.text.index("start   held")


def test_the_time_left_is_weighted_by_work(queue):
    made = queue({"small": "pass", "large": "pass"}, small={"weight": 1.0, "done": lambda: 1.0},
                 large={"weight": 3.0, "done": lambda: 0.5})  # fmt: skip
    from vidiff.engine.ablate.queue import _Progress

    assert _Progress(made).share() == pytest.approx((1 + 1.5) / 4)


SLOW = """
    import signal, sys, time
    def save(*_):
        print("sav" + "ed", flush=True)
        time.sleep({})
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    print("rea" + "dy", flush=True)
    time.sleep(60)
"""


def test_the_first_signal_lets_children_save_and_starts_nothing_more(queue, tmp_path, out):
    """One child ends at once, the other a second later: the seat that is free in between stays free."""
    made = queue({"a": SLOW.format(0), "b": SLOW.format(1), "c": "print('never')"}, jobs=2)

    def interrupt():
        logs = [tmp_path / "a.log", tmp_path / "b.log"]
        while not all(log.exists() and "ready" in log.read_text() for log in logs):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    outcomes = made.run()
    assert made.interrupted and {n: o.code for n, o in outcomes.items()} == {"a": 75, "b": 75}
    assert [(tmp_path / f"{n}.log").read_text().count("saved") for n in "ab"] == [1, 1]
    assert not (tmp_path / "c.log").exists()
    assert "SIGINT: 2 running, they save and stop" in out.text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_children_save_and_stop_when_the_queue_is_killed(tmp_path):
    (tmp_path / "slow.py").write_text(textwrap.dedent(SLOW.format(0)))
    script = f"""
        import pathlib, sys
        from vidiff.engine.ablate.queue import Job, Queue, seats_of
        from vidiff.engine.log import Console
        command = [sys.executable, r"{tmp_path / "slow.py"}"]
        Queue([Job("a", lambda d: [command], pathlib.Path(r"{tmp_path / "a.log"}"))], seats_of(["cpu"], 1), Console()).run()
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.DEVNULL)
    log, deadline = tmp_path / "a.log", time.perf_counter() + 60
    while not (log.exists() and "ready" in log.read_text()) and time.perf_counter() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while "saved" not in log.read_text() and time.perf_counter() < deadline:
        time.sleep(0.05)
    assert "saved" in log.read_text()
