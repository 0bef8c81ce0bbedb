"""How a run ends other than well, and the exit code of each ending."""

from __future__ import annotations

DONE, FAILED, REFUSED, STOPPED, INTERRUPTED = 0, 1, 2, 3, 75


class Refused(ValueError):
    """Input that cannot be used: one line, exit code 2, nothing written, no traceback."""


class Failed(RuntimeError):
    """A part of what was asked for failed and the rest went on: exit code 1."""


class Stopped(RuntimeError):
    """Training stopped by a rule (non-finite numbers, too many bad clips, disk): exit code 3."""


class Interrupted(RuntimeError):
    """Asked to stop by a signal, after a checkpoint: resumable, exit code 75."""
