"""The command ``poolkit``. It needs the ``cli`` extra; the rest of the package does not."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command ``poolkit`` with the arguments of the process, and exit."""
    # Looked for, not imported: rich takes a tenth of a second, and --help has no use for it.
    if any(find_spec(name) is None for name in ("click", "rich")):
        print("The command poolkit needs: pip install 'poolkit[cli]'", file=sys.stderr)
        sys.exit(2)
    from .app import app

    app(prog_name="poolkit")
