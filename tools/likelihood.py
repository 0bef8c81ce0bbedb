"""See `python tools/likelihood.py --help`."""

import _clone  # noqa: F401  (first: it puts the repository on the path)
import zoo  # noqa: F401  (fills the registries)
from vidiff.commands.likelihood import main

if __name__ == "__main__":
    raise SystemExit(main())
