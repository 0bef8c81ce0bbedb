"""Signals: the first asks to stop after the step, the second stops at once."""

from __future__ import annotations

import signal
from typing import Protocol

from vidiff.engine.log import Console
from vidiff.errors import INTERRUPTED


class Interruptible(Protocol):
    """What can be asked to stop: it looks at `interrupted` between steps."""

    interrupted: str
    console: Console


class Signals:
    """SIGINT, SIGTERM, SIGUSR1 and SIGHUP (a terminal that is closed; nohup ignores it) ask to stop after the step.

    A second one exits at once.
    """

    def __init__(self, trainer: Interruptible):
        self.trainer, self.old = trainer, {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self.old[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        name = signal.Signals(number).name
        if self.trainer.interrupted:
            raise SystemExit(INTERRUPTED)
        self.trainer.interrupted = f"{name} received"
        self.trainer.console.say(f"{name}: stopping after this step (once more to stop at once)")
