"""``python -m poolkit.cli`` is ``poolkit``."""

from . import main

if __name__ == "__main__":
    main()
