"""A program with a fault of the usual kind: it takes a connection and never gives it back."""

from __future__ import annotations

from threading import Event

from poolkit import PoolTimeout, PostgresPool


def monthly_report(db: PostgresPool, holding: Event, finish: Event) -> None:
    """Take a connection without ``with``, and go on to something else until told to *finish*."""
    block = db.connection()
    conn = block.__enter__()
    conn.execute("select count(*) from customers")
    holding.set()
    send_by_mail(finish)
    block.__exit__(None, None, None)


def send_by_mail(finish: Event) -> None:
    """Be busy with anything but the connection."""
    finish.wait()


def front_page(db: PostgresPool) -> PoolTimeout:
    """Use a connection properly, ask for one more meanwhile, and return the error that gives."""
    with db.connection():
        try:
            db.query("select 1")
        except PoolTimeout as error:
            return error
    raise RuntimeError("a pool of two connections lent a third")
