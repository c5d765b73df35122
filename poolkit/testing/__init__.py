"""What tests of programs that use poolkit need. Fixtures for pytest are in :mod:`poolkit.testing.plugin`."""

from .faults import Faulty
from .held import assert_nothing_held
from .pauses import no_pauses
from .recording import Recorder

__all__ = ["Faulty", "Recorder", "assert_nothing_held", "no_pauses"]
