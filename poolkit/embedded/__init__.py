"""Real servers from wheels, private to a block: for a laptop, a test, a demo."""

from .postgres import PostgresServer, postgres
from .process import EmbeddedError

__all__ = ["EmbeddedError", "PostgresServer", "postgres"]
