"""PostgreSQL, on psycopg_pool."""
