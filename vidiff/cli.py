"""The keyboard's side: one grammar for all tools, one line per error, the exit codes.

    vidiff <command> CONFIG-or-RUN [key=value ...] [--flags]

Dotted key=value changes the configuration; flags change only how the tool runs.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from typing import NoReturn, TextIO

from vidiff.errors import DONE, FAILED, INTERRUPTED, REFUSED, STOPPED, Failed, Interrupted, Refused, Stopped
from vidiff.registry import UnknownName, did_you_mean

COMMANDS = {
    "train": "train a configuration, or go on with it",
    "sample": "draw videos from a run or a checkpoint",
    "likelihood": "bits per dimension of held-out clips under the probability-flow ODE of a run",
    "show": "what a configuration builds: shapes, parameters, FLOPs, and what its data look like",
    "list_zoo": "every component that a YAML file can name",
    "profile_flops": "what networks cost: parameters, FLOPs by module and kind, sweeps, plots",
    "check": "the contract checks on a component of your own, in words",
    "convert": "read a published checkpoint into a run folder, or write one back",
    "ablate": "run a grid of configurations and compare them",
    "report": "one page about a run: curves, samples, configuration",
}

Command = Callable[[argparse.Namespace], None]


class _Parser(argparse.ArgumentParser):
    """argparse with the house's one-line errors."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2 and one line."""
        print(f"vidiff: error: {message}; see --help", file=sys.stderr)
        raise SystemExit(REFUSED)


def parser(name: str, description: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    """The parser all tools share: common flags, and help that ends with commands to copy."""
    made = _Parser(
        prog=f"tools/{name}.py",
        description=description,
        epilog="examples:\n" + "\n".join(f"  python tools/{name}.py {e}" for e in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    made.add_argument("--quiet", action="store_true", help="print errors only")
    return made


def add_run_flags(made: argparse.ArgumentParser, seed: str = "the same as seed=N") -> None:
    """--out, --device and --seed."""
    made.add_argument("--out", type=named, metavar="DIR", help="where to write")
    made.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps")
    made.add_argument("--seed", type=int, metavar="N", help=seed)


def named(text: str) -> str:
    """The name of a file or folder: an empty one is a variable that nobody set, not the default."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return text


OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "can't allocate memory")
"""How torch and Python say so, on a GPU and on a CPU."""


OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EMFILE)
"""Errors of writing that name no file: the disk is full, a quota is used up …"""


def execute(made: argparse.ArgumentParser, command: Command, argv: Sequence[str] | None = None) -> int:
    """Parse, run, and turn how it ended into an exit code.

    0 done, 1 a part failed, 2 refused, 3 stopped by a rule, 75 interrupted.
    """
    arguments = made.parse_intermixed_args(argv)
    threading.excepthook = _in_a_thread
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as the tools have it while they import
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in (signal.SIGTERM, signal.SIGUSR1):  # until a trainer asks for more: nothing to save yet
        signal.signal(name, _interrupt)
    try:
        command(arguments)
        if sys.stdout is not None:  # now, and not when the interpreter ends: then nobody could say what is wrong
            sys.stdout.flush()
    except (Refused, UnknownName) as error:
        return _report("error", error, arguments, REFUSED)
    except Failed as error:
        return _report("failed", error, arguments, FAILED)
    except Stopped as error:
        return _report("stopped", error, arguments, STOPPED)
    except Interrupted as error:
        then = "; the same command goes on from here" if made.get_default("goes_on") else ""
        return _report("interrupted", error, arguments, INTERRUPTED, then)
    except KeyboardInterrupt:
        print("vidiff: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        mute(sys.stdout)
    except (MemoryError, RuntimeError) as error:
        if not any(words in f"{type(error).__name__}: {error}" for words in OUT_OF_MEMORY):
            raise
        asked = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
        much = f" (asked for {asked[1]})" if asked else ""
        text = f"out of memory{much}: use smaller batches, shapes or numbers of steps"
        return _report("stopped", Stopped(text), arguments, STOPPED)
    except OSError as error:
        if not error.filename and error.errno not in OF_THE_DISK:
            raise
        if not error.filename:
            mute(sys.stdout)  # what could not be written is not tried again
        place = f"{error.filename}: " if error.filename else ""
        return _report("stopped", Stopped(f"{place}{error.strerror}"), arguments, STOPPED)
    return DONE


def _in_a_thread(failed: threading.ExceptHookArgs) -> None:
    """A full disk is told once, by the main thread; TensorBoard's writer is not to print a traceback beside it."""
    if getattr(failed.exc_value, "errno", None) not in OF_THE_DISK:
        threading.__excepthook__(failed)


def mute(stream: TextIO) -> None:
    """Let what is written to a stream from here on go nowhere: its reader is gone."""
    with suppress(OSError, ValueError, AttributeError):  # closed already, or none at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """The `vidiff` console script: dispatches to the functions the tools call."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: vidiff COMMAND ...\n\n" + "\n".join(f"  {n:<14} {d}" for n, d in COMMANDS.items()))
        return DONE
    if argv[0] not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(
            f"vidiff: error: no command '{argv[0]}'.{did_you_mean(argv[0], COMMANDS)} There is {known}.",
            file=sys.stderr,
        )
        return REFUSED
    for plugin in entry_points(group="vidiff.components"):
        plugin.load()
    return importlib.import_module(f"vidiff.commands.{argv[0]}").main(argv[1:])


def _interrupt(number: int, _: object) -> NoReturn:
    raise Interrupted(f"{signal.Signals(number).name} received")


def _report(word: str, error: Exception, arguments: argparse.Namespace, code: int, then: str = "") -> int:
    if arguments.traceback:
        traceback.print_exc()
    lines = str(error).splitlines() or [type(error).__name__]
    for line in lines:
        print(f"vidiff: {word}: {line}{then}", file=sys.stderr)
    return code
