"""gunicorn for the Flask app beside this file, as in production::

    export FLASK_POOLKIT_POSTGRES_CONNINFO=postgresql://app@db/shop FLASK_POOLKIT_REDIS_URL=redis://cache:6379/0
    gunicorn -c examples/gunicorn.conf.py 'examples.flask_app:create_app()'

How the numbers belong together is in docs/hosts/gunicorn.rst.
"""

from __future__ import annotations

import os
from typing import Any

bind = os.environ.get("BIND", "127.0.0.1:8000")

# PostgreSQL sees workers × max_size connections at most, twice that while HUP has both generations running.
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))

# More threads than can hold a connection or wait for one (max_size + max_waiting): so one is free to refuse at once.
worker_class = "gthread"
threads = 32
os.environ.setdefault("FLASK_POOLKIT_POSTGRES_MAX_SIZE", "16")
os.environ.setdefault("FLASK_POOLKIT_POSTGRES_MAX_WAITING", "8")

# The app is loaded once, and shared by the workers. Pools made before a fork open in each worker, on first use.
preload_app = True

# A worker is replaced after so many requests, not all at the same time.
max_requests = 10_000
max_requests_jitter = 1_000

# In seconds. A request ends by itself before its worker has to (POOLKIT_DEADLINE, 2 s in the app), and
# the worker before it is killed.
graceful_timeout = 20
timeout = 30


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's
    """Give the worker's connections back now, and not when its interpreter has ended as well."""
    worker.wsgi.extensions["poolkit"].kit.close()
