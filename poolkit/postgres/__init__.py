"""PostgreSQL, on psycopg_pool."""

try:
    import psycopg as psycopg
except ImportError as error:
    raise ImportError(
        "psycopg finds no libpq here: pip install 'poolkit[binary]' brings one, "
        "or install the system's (Debian: libpq5)"
    ) from error
