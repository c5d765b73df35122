"""Settings are checked when they are given, and no password is ever shown."""

from __future__ import annotations

import ssl

import pytest
from redis.credentials import UsernamePasswordCredentialProvider

from poolkit import ConfigError, RedisConfig, RedisPool, RetryPolicy
from poolkit.redis.address import Server


@pytest.mark.parametrize(
    ("url", "server", "db"),
    [
        ("redis://cache", Server("cache", 6379), 0),
        ("redis://cache:7000/3", Server("cache", 7000), 3),
        ("redis://[::1]:7000", Server("::1", 7000), 0),
        ("redis://cache?db=2", Server("cache", 6379), 2),
        ("unix:///run/redis.sock?db=4", Server(path="/run/redis.sock"), 4),
        ("rediss://cache", Server("cache", 6379), 0),
    ],
)
def test_a_url_is_understood(url, server, db):
    config = RedisConfig(url=url)

    assert config.servers == (server,)
    assert config.db == db
    assert (config.context is not None) == url.startswith("rediss")


def test_user_and_password_are_decoded():
    config = RedisConfig(url="redis://app:p%40ss%2F@cache")

    assert (config.username, config.password) == ("app", "p@ss/")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of url, nodes and sentinels; there is none of them"),
        ({"url": "redis://a", "nodes": ["b:1"]}, "there is url and nodes"),
        ({"url": "http://a"}, "url: it must begin with redis://"),
        ({"url": "redis://"}, "url: it names no host"),
        ({"url": "redis://:s3cret/@cache:80"}, "url: "),
        ({"url": "redis://u:s3cret@cache:port"}, "percent-encode"),
        ({"url": "redis://cache/one"}, "the database must be a number"),
        ({"url": "redis://cache?ssl_cert_reqs=none"}, "the option 'ssl_cert_reqs' is not known"),
        ({"url": "redis://:s3cret#@cache"}, "url: "),
        ({"url": "unix://"}, "needs the path of a socket"),
        ({"url": 5}, "url must be a string, not a value of type int"),
        ({"nodes": [7]}, "nodes must have strings"),
        ({"nodes": {"a": 1}}, "nodes must be a list"),
        ({"nodes": ["redis://a/3"]}, "without a database"),
        ({"nodes": ["redis://a", "rediss://b"]}, "the same scheme, user and password"),
        ({"nodes": ["a:1"], "db": 2}, "a cluster has only database 0"),
        ({"sentinels": ["a:1"], "service": ""}, "service must be the name"),
        ({"url": "redis://a", "username": "app"}, "username is given, but no password"),
        ({"url": "redis://:s3cret@a", "password": "other"}, "password is given twice"),
        ({"url": "redis://a", "ca_file": "x"}, "ca_file is for TLS"),
        ({"url": "redis://a", "verify": False}, "verify is for TLS"),
        ({"url": "rediss://a", "ca_file": "/no/such/file"}, "ca_file can't be used"),
        ({"url": "rediss://a", "key_file": "x"}, "key_file needs cert_file"),
        ({"url": "redis://a", "max_size": 0}, "max_size must be 1 or more"),
        ({"url": "redis://a", "command_timeout": 0}, "command_timeout must be more than 0"),
        ({"url": "redis://a", "connect_timeout": "5"}, "connect_timeout must be a number"),
        ({"url": "redis://a", "max_retries": -1}, "max_retries must be 0 or more"),
        ({"url": "redis://a", "offline_queue": 1}, "offline_queue must be True or False"),
        ({"url": "redis://a", "client_name": "a b"}, "client_name must have no spaces"),
        ({"url": "redis://a", "credential_provider": "me"}, "credential_provider must be"),
        ({"url": "redis://a", "retry": 3}, "retry must be a RetryPolicy"),
        ({"url": "redis://a", "listeners": 3}, "listeners must be a list"),
        ({"url": "redis://a", "max_sise": 3}, "did you mean 'max_size'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_without_a_secret(settings, message):
    with pytest.raises(ConfigError) as caught:
        RedisPool(**settings)

    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_password_and_a_provider_exclude_each_other():
    provider = UsernamePasswordCredentialProvider("app", "s3cret")

    with pytest.raises(ConfigError, match="not both"):
        RedisConfig(url="redis://:x@a", credential_provider=provider)


def test_no_secret_is_in_a_repr():
    provider = UsernamePasswordCredentialProvider("app", "s3cret")
    for config in (
        RedisConfig(url="redis://app:s3cret@cache"),
        RedisConfig(url="redis://cache", password="s3cret"),
        RedisConfig(nodes=["redis://app:s3cret@cache"]),
        RedisConfig(sentinels="redis://:s3cret@a,redis://:s3cret@b", password="s3cret"),
        RedisConfig(url="redis://cache", credential_provider=provider),
    ):
        pool = RedisPool(config)
        assert "s3cret" not in repr(config) + repr(pool) + pool.name + repr(pool.stats())
        assert "cache" in repr(config) or "'a:26379'" in repr(config)


def test_sentinels_have_a_user_and_password_of_their_own():
    config = RedisConfig(sentinels=["redis://guard:one@a"], password="two")

    assert (config.sentinel_username, config.sentinel_password) == ("guard", "one")
    assert (config.username, config.password) == ("", "two")


def test_nodes_may_be_one_string_with_commas():
    assert RedisConfig(nodes="a:1, b:2,c").servers == (
        Server("a", 1),
        Server("b", 2),
        Server("c", 6379),
    )


def test_max_retries_is_short_for_the_attempts_of_the_policy():
    assert RedisConfig(url="redis://a").policy == RetryPolicy(attempts=4)
    assert RedisConfig(url="redis://a", max_retries=0).policy.attempts == 1
    assert RedisConfig(url="redis://a", retry=RetryPolicy(attempts=7)).policy.attempts == 7
    slow = RedisConfig(url="redis://a", retry=RetryPolicy(base=1), max_retries=9)
    assert slow.policy == RetryPolicy(attempts=10, base=1)


def test_certificates_are_verified_unless_told_otherwise():
    strict = RedisConfig(url="rediss://a").context
    loose = RedisConfig(nodes=["a:1"], tls=True, verify=False).context

    assert strict is not None
    assert strict.check_hostname
    assert strict.verify_mode is ssl.CERT_REQUIRED
    assert loose is not None
    assert loose.verify_mode is ssl.CERT_NONE
