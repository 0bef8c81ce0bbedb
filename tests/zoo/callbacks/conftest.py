"""Callbacks are tested on the engine's tiny run."""

from tests.engine.conftest import start, yaml_file  # noqa: F401
