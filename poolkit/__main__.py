"""``python -m poolkit`` is ``poolkit``."""

from .cli import main

if __name__ == "__main__":
    main()
