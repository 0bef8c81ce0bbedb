"""Freed memory stays with the process, which page faults show."""

import subprocess
import sys

import pytest

from vidiff.engine.allocator import OWN_WORD, keep_freed_memory

FAULTS = """
import resource, sys
import numpy
from vidiff.engine.allocator import keep_freed_memory
taken = keep_freed_memory() if sys.argv[1] == "kept" else False
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
numpy.ones(6_000_000)  # 48 MB, freed at once
before = faults()
for _ in range(3): numpy.ones(6_000_000)
print(faults() - before, taken)
"""


def faults(word, monkeypatch):
    for name in OWN_WORD:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True)
    number, taken = done.stdout.split()
    return int(number), taken == "True"


def test_the_second_step_pays_no_page_faults(monkeypatch):
    kept, taken = faults("kept", monkeypatch)
    if not taken:
        pytest.skip("no glibc here")
    plain, _ = faults("plain", monkeypatch)
    # numpy asks for huge pages, so a plain map costs few faults; the kept heap costs none worth counting
    assert kept < 20 <= plain


@pytest.mark.parametrize("name", OWN_WORD)
def test_an_allocator_chosen_by_hand_is_left_alone(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    assert keep_freed_memory() is False
