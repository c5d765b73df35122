"""RedisPool and what it is made of."""
