"""One page about a run: curves, samples, configuration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vidiff.cli import execute, parser
from vidiff.engine.report import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser("report", __doc__, ["runs/nano_sora_cpu", "runs/nano_sora_cpu --quiet"])
    made.add_argument("run", metavar="RUN", help="a run folder")
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    page = write_report(Path(arguments.run))
    if not arguments.quiet:
        print(f"report: {page}")
