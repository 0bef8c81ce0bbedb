"""docs/projects.md says what is counted."""

import pytest

from tests.projects_page import PROJECTS, ROOT, page

WRITTEN = ROOT / "docs/projects.md"


def test_every_project_stands_on_the_page():
    text = WRITTEN.read_text(encoding="utf-8")
    assert [path.name for path in PROJECTS if f"(../projects/{path.name})" not in text] == []


@pytest.mark.slow
def test_the_page_is_what_is_counted():
    assert WRITTEN.read_text(encoding="utf-8") == page(), "type: python -m tests.projects_page docs/projects.md"
