"""The published parameters and costs, by the command that prints them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("word", ["S/8", "Nano-Sora", pytest.param("Latte-1", marks=pytest.mark.slow)])
def test_the_command_finds_no_difference(word):
    command = [sys.executable, "benchmarks/published_flops.py", "--only", word]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DIFFERS" not in done.stdout and word.split("/")[0] in done.stdout
