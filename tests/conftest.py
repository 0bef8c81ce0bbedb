"""`--project FILE.yaml`: run the contract suites on a project's own components as well."""

from pathlib import Path

import pytest

import zoo  # noqa: F401  (registers the components before the suites list them)
from vidiff.config.importing import import_components
from vidiff.config.merging import read_layers
from vidiff.registry import KINDS


def pytest_addoption(parser):
    parser.addoption("--project", metavar="YAML", help="test this project's components (and only those)")


def pytest_configure(config):
    """Import the project's components before collection; the suites then list them like any other."""
    config.project_components = None
    project = config.getoption("--project")
    if project:
        before = {(kind, name) for kind, registry in KINDS.items() for name in registry.names()}
        for file in read_layers(Path(project)).imports:
            import_components(file)
        after = {(kind, name) for kind, registry in KINDS.items() for name in registry.names()}
        config.project_components = {name for _, name in after - before}
        if not config.project_components:
            raise pytest.UsageError(f"{project} imports no component of its own")


def pytest_collection_modifyitems(config, items):
    """With --project, keep the tests whose parameters name one of its components."""
    names = config.project_components
    if names is None:
        return

    def about_project(item):
        parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
        return any(str(p) in names or getattr(p, "name", None) in names for p in parameters)

    kept = [item for item in items if about_project(item)]
    config.hook.pytest_deselected(items=[i for i in items if i not in kept])
    items[:] = kept
