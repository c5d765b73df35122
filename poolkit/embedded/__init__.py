"""Real servers from wheels, private to a block: for a laptop, a test, a demo."""

from .postgres import PostgresServer, postgres
from .process import EmbeddedError
from .redis import RedisServer, redis
from .redis_cluster import RedisCluster, redis_cluster
from .redis_sentinel import RedisSentinel, redis_sentinel

__all__ = [
    "EmbeddedError",
    "PostgresServer",
    "postgres",
    "RedisServer",
    "redis",
    "RedisCluster",
    "redis_cluster",
    "RedisSentinel",
    "redis_sentinel",
]
