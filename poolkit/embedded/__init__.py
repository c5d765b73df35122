"""Real servers, private to a block: for a laptop, a test, a demo."""

from .firestore import FirestoreServer, firestore
from .http import Counts, HttpServer, http
from .postgres import PostgresServer, postgres
from .postgres_standby import PostgresStandby, postgres_standby
from .process import EmbeddedError
from .redis import RedisServer, redis
from .redis_cluster import RedisCluster, redis_cluster
from .redis_sentinel import RedisSentinel, redis_sentinel

__all__ = [
    "EmbeddedError",
    "FirestoreServer",
    "firestore",
    "PostgresServer",
    "postgres",
    "PostgresStandby",
    "postgres_standby",
    "HttpServer",
    "http",
    "Counts",
    "RedisServer",
    "redis",
    "RedisCluster",
    "redis_cluster",
    "RedisSentinel",
    "redis_sentinel",
]
