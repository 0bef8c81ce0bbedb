"""A tool that is started with a Python that has no torch."""

import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def test_a_python_without_torch_is_told_what_to_type_and_ends_with_2():
    ended = subprocess.run([sys.executable, "-S", TOOLS / "sample.py", "run"], capture_output=True, encoding="utf-8")
    assert ended.returncode == 2
    assert ended.stderr == (
        "vidiff: error: torch is not installed here. Type: make setup  (then .venv/bin/python tools/…)\n"
    )
