"""Lets a tool run from a clone: puts the repository on the path, and says what to type when something is missing."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while torch is imported ends it without a traceback

try:
    import torch  # noqa: F401
except ModuleNotFoundError:
    sys.stderr.write("vidiff: error: torch is not installed here. Type: make setup  (then .venv/bin/python tools/…)\n")
    raise SystemExit(2) from None
