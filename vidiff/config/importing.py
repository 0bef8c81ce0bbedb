"""A project's own components: the files its YAML lists under `imports:`."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

from vidiff.errors import Refused


def import_components(file: Path) -> None:
    """Run a component file once, so that it registers what it defines.

    The module is known by its content: a run folder's copy of a file that is already
    imported is the same components, not a second registration. Raises Refused, in one line,
    when the file cannot be imported.
    """
    name = f"vidiff_project_{file.stem}_{content_hash(file)[:12]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise Refused(f"imports: {file} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise Refused(f"imports: {file.name} fails on import: {type(error).__name__}: {error}") from error


def content_hash(file: Path) -> str:
    """SHA-256 of a file, as hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
