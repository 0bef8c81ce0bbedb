"""A local queue: commands in processes of their own, over devices; a failure stays where it happened.

The first signal asks the children to save and stop, the second stops them at once. They have sessions of their own,
so Ctrl-C in a terminal reaches them once, through the queue; when the queue itself is killed, Linux tells them to stop.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from vidiff.engine.log import Console, duration
from vidiff.errors import DONE, INTERRUPTED

POLL_S, TELL_S = 0.1, 30.0
TAIL = 8
"""How many last lines of its log a failed job shows."""


@dataclass(frozen=True)
class Seat:
    """A place for one process: a device, and its share of the CPU's threads."""

    device: str
    threads: int


def seats_of(devices: Sequence[str], per_device: int, jobs: int | None = None) -> list[Seat]:
    """`per_device` places on each device, or `jobs` places in turn; each with cores/places threads.

    OMP_NUM_THREADS of the environment, where it is set, is taken instead.
    """
    count = jobs or len(devices) * per_device
    told = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(told) if told.isdigit() and int(told) else max(1, cores() // count)
    return [Seat(devices[i % len(devices)], threads) for i in range(count)]


def cores() -> int:
    """The CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Job:
    """Commands to run one after the other on one device, all with one log."""

    name: str
    commands: Callable[[str], Sequence[Sequence[str]]]
    """The commands for a device; asked for when the job starts."""
    log: Path
    weight: float = 1.0
    done: Callable[[], float] = lambda: 0.0
    """How far it is, in [0, 1]."""
    busy: Callable[[], bool] = lambda: False
    """Whether another process is at it: it waits."""
    goes_on: Callable[[], bool] = lambda: False
    """Whether the commands after one that has failed can still run."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended: the exit code of the command that failed first, or of the last one."""

    code: int
    seconds: float
    last_lines: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """`exit code 3`, `killed by SIGKILL`."""
        if self.code >= 0:
            return f"exit code {self.code}"
        hint = " (out of memory?)" if self.code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-self.code).name}{hint}"


@dataclass
class _Running:
    job: Job
    seat: Seat
    commands: list[Sequence[str]]
    began: float = field(default_factory=time.perf_counter)
    process: subprocess.Popen | None = None
    told: int = 0
    """How often it was asked to stop."""
    failed: Outcome | None = None
    """The first command that failed, where others went on."""

    def start_next(self) -> None:
        """Start the next command, its output appended to the job's log."""
        command = self.commands.pop(0)
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.seat.threads), "PYTHONUNBUFFERED": "1"}
        with open(self.job.log, "ab") as log:
            log.write(f"$ OMP_NUM_THREADS={self.seat.threads} {shlex.join(command)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True, preexec_fn=_end_with_parent(os.getpid()),
            )  # fmt: skip


class Queue:
    """Runs jobs on seats until all have ended or a signal came. `ended` is told each outcome as it happens."""

    def __init__(self, jobs: Sequence[Job], seats: Sequence[Seat], console: Console):
        self.waiting, self.seats, self.console = list(jobs), list(seats), console
        self.jobs, self.running = list(jobs), list[_Running]()
        self.ended_jobs: dict[str, Outcome] = {}
        self.asked = 0

    def run(self, ended: Callable[[Job, Outcome], str] = lambda job, outcome: "") -> dict[str, Outcome]:
        """The outcome of every job that ended; those a signal kept from ending are missing, or have exit code 75.

        `ended(job, outcome)` returns words to add to the line about a job that is done.
        """
        self.progress = _Progress(self)
        old = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        try:
            while self.running or (self.waiting and not self.asked):
                self._start()
                self._pass_on(self.asked)
                self._poll(ended)
                self.progress.tell()
                time.sleep(POLL_S)
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            self.progress.close()
            self._pass_on(1)  # nothing is left to ask, but after an error of our own
        return self.ended_jobs

    @property
    def interrupted(self) -> bool:
        """Whether a signal has asked to stop."""
        return self.asked > 0

    # ---- inside ----

    def _start(self) -> None:
        taken = [r.seat for r in self.running]
        for seat in self.seats:
            if seat in taken:
                taken.remove(seat)
                continue
            job = next((j for j in self.waiting if not j.busy()), None)
            if job is None or self.asked:
                return
            self.waiting.remove(job)
            running = _Running(job, seat, list(job.commands(seat.device)))
            self.running.append(running)
            if running.commands:
                running.start_next()
            threads = f"{seat.threads} thread{'s' * (seat.threads > 1)}"
            self.progress.say(f"start   {job.name}  ({seat.device}, {threads})")

    def _poll(self, ended: Callable[[Job, Outcome], str]) -> None:
        for running in list(self.running):
            code = running.process.poll() if running.process else DONE
            if code is None:
                continue
            if running.commands and not self.asked and (code == DONE or self._passed_over(running, code)):
                running.start_next()
                continue
            self.running.remove(running)
            stopped = self.asked and (code < 0 or running.commands)
            self._end(running, INTERRUPTED if stopped else code, ended)

    def _passed_over(self, running: _Running, code: int) -> bool:
        """Whether a job goes on behind a command that failed, which is remembered."""
        running.failed = running.failed or _failure(running, code)
        return code != INTERRUPTED and running.job.goes_on()

    def _end(self, running: _Running, code: int, ended: Callable[[Job, Outcome], str]) -> None:
        job, seconds = running.job, time.perf_counter() - running.began
        failed = running.failed or (_failure(running, code) if code not in (DONE, INTERRUPTED) else None)
        outcome = replace(failed, seconds=seconds) if failed and code != INTERRUPTED else Outcome(code, seconds)
        code = outcome.code
        self.ended_jobs[job.name] = outcome
        words = ended(job, outcome)
        if code == DONE:
            self.progress.say(f"done    {job.name}  {duration(seconds)}{f'  {words}' if words else ''}")
        elif code == INTERRUPTED:
            self.progress.say(f"stopped {job.name}  it goes on from its last checkpoint")
        else:
            self.progress.say(
                f"FAILED  {job.name}  {outcome.words} after {duration(seconds)}; the last lines of {job.log}:"
            )
            for line in outcome.last_lines:
                self.progress.say(f"        | {line}")

    def _ask(self, number: int, _: object) -> None:
        self.asked += 1
        what = "they save and stop (once more to stop at once)" if self.asked == 1 else "they stop at once"
        self.progress.say(f"{signal.Signals(number).name}: {len(self.running)} running, {what}")

    def _pass_on(self, asked: int) -> None:
        """Ask the children to stop as often as we were. Not in the handler: it may meet one half started."""
        for running in self.running:
            while running.process and running.told < asked:
                running.told += 1
                running.process.send_signal(signal.SIGTERM)


def _failure(running: _Running, code: int) -> Outcome:
    return Outcome(code, 0.0, last_lines(running.job.log))


class _Progress:
    """A bar on a terminal, a line every half minute elsewhere; the time left is that of the whole grid."""

    def __init__(self, queue: Queue):
        self.queue, self.console = queue, queue.console
        self.began = self.told = time.perf_counter()
        self.first = self.share()
        self.bar = None
        if not self.console.quiet and sys.stdout.isatty():
            form = "{percentage:3.0f}%|{bar}| {postfix}"
            self.bar = tqdm(total=100, initial=100 * self.first, bar_format=form, file=sys.stdout, leave=False)

    def share(self) -> float:
        """How much of the whole grid is done, by weight, in [0, 1]."""
        ended = self.queue.ended_jobs
        total = sum(job.weight for job in self.queue.jobs) or 1.0
        return sum(job.weight * (1.0 if job.name in ended else job.done()) for job in self.queue.jobs) / total

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.bar is not None:
            self.bar.clear()
        count, total = len(self.queue.ended_jobs), len(self.queue.jobs)
        self.console.say(f"[{count:>{len(str(total))}}/{total}] {line}")

    def tell(self) -> None:
        """How far everything is, when it is time to say so."""
        now = time.perf_counter()
        if now - self.told < (1.0 if self.bar is not None else TELL_S):
            return
        self.told = now
        share = self.share()
        gained = share - self.first
        left = duration((1 - share) * (now - self.began) / gained) if gained > 1e-3 else "?"
        waits = "" if self.queue.running else ", waiting for other processes that hold the runs"
        line = f"{len(self.queue.running)} running, {len(self.queue.waiting)} to come, eta {left}{waits}"
        if self.bar is not None:
            self.bar.n = 100 * share
            self.bar.set_postfix_str(line)
        else:
            self.say(f"{share:.0%} of the grid, {line}")

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def last_lines(log: Path, count: int = TAIL) -> tuple[str, ...]:
    """The last lines of a log, none of them longer than a screen; marks under a traceback's lines are left out."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(line[:200] for line in lines if line.strip(" ^~"))[-count:]


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """Asks Linux to send the child SIGTERM when the queue dies, however that is: it saves, and leaves its folder."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    set_death_signal = 1  # PR_SET_PDEATHSIG

    def ask() -> None:
        libc.prctl(set_death_signal, signal.SIGTERM)
        if os.getppid() != parent:  # it died in between
            os._exit(INTERRUPTED)

    return ask


def describe(seats: Sequence[Seat]) -> str:
    """`2 at a time on cpu, 1 thread each`."""
    devices: Mapping[str, None] = dict.fromkeys(seat.device for seat in seats)
    threads = seats[0].threads
    return f"{len(seats)} at a time on {', '.join(devices)}, {threads} thread{'s' * (threads > 1)} each"
