"""The field bugs can be planted, and (slowly) each is noticed: see tests/field_bugs.py and docs/field_bugs.md."""

from pathlib import Path

import pytest

from tests.field_bugs import BUGS, copy_sources, noticed

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_list_fits_the_sources(bug):
    assert (ROOT / bug.file).read_text(encoding="utf-8").count(bug.right) == 1 and bug.wrong != bug.right
    assert all((ROOT / word).is_file() for word in bug.tests.split() if word.startswith("tests/"))


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_noticed(bug, tmp_path):
    copy_sources(tmp_path)
    assert noticed(tmp_path, bug) is not None, f"{bug.name} survives {bug.tests}"
