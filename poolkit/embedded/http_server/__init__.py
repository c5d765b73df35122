"""Serve what a client of HTTP is tried with, on a loopback port and a Unix socket.

As a process of its own, by :data:`COMMAND`, it imports only the standard library and what is in this folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

_RUN = """
import sys
sys.path.append(sys.argv.pop(1))  # last: beside this package there is a module named http
from http_server.process import main
main()
"""

COMMAND = (sys.executable, "-I", "-S", "-c", _RUN, str(Path(__file__).parents[1]))
"""The command that serves, but for its arguments."""
