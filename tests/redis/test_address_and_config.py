"""Corners of addresses and settings that test_config.py leaves: odd passwords, what is told twice, lists."""

from __future__ import annotations

import dataclasses

import pytest

from poolkit import ConfigError, RedisConfig, RedisPool, RetryPolicy
from poolkit.redis.address import Server, parse_list, parse_url

SECRET = "s3cret"


@pytest.mark.parametrize("special", list("/?#[]@:%&=+ ;,"))
@pytest.mark.parametrize("template", ["12{}s3cret", "12{}s3cret=x", "s3cret{}12", "s3cret{}"])
def test_a_password_with_special_characters_is_right_or_refused_but_never_shown(template, special):
    url = f"redis://app:{template.format(special)}@cache:6380/0"

    for given in ({"url": url}, {"nodes": [url]}, {"sentinels": [url]}):
        made = made_of(given)
        if isinstance(made, ConfigError):
            assert str(made).startswith(next(iter(given)))
            assert SECRET not in str(made)
            assert made.__suppress_context__ or made.__context__ is None
        else:
            assert SECRET not in repr(made) + repr(RedisPool(made)) + made.name
            assert made.servers == (Server("cache", 6380),)


def made_of(settings):
    """Return the config that *settings* make, or why there is none."""
    try:
        return RedisConfig(**settings)
    except ConfigError as error:
        return error


@pytest.mark.parametrize(
    ("server", "text"),
    [
        (Server("cache", 6379), "cache:6379"),
        (Server("::1", 6379), "[::1]:6379"),
        (Server(path="/run/redis.sock"), "/run/redis.sock"),
    ],
    ids=str,
)
def test_a_server_is_written_as_it_is_read(server, text):
    assert str(server) == text


def test_a_socket_has_a_user_a_password_and_a_database():
    address = parse_url("unix://app:p%40ss@/run/my%20redis.sock?db=3")

    assert address.servers == (Server(path="/run/my redis.sock"),)
    assert (address.username, address.password, address.db) == ("app", "p@ss", 3)
    assert "p@ss" not in repr(address)


@pytest.mark.parametrize("given", ["  redis://cache ", "REDIS://cache/", "redis://CACHE:6379"])
def test_space_around_a_url_capitals_and_a_last_slash_do_not_matter(given):
    assert parse_url(given).servers == (Server("cache", 6379),)


@pytest.mark.parametrize("given", [["a", "b:7"], ("a", "b:7"), "a,b:7", " redis://a , b:7"])
def test_a_list_of_servers_may_be_written_in_many_ways(given):
    assert parse_list("nodes", given).servers == (Server("a", 6379), Server("b", 7))


def test_sentinels_have_a_port_of_their_own():
    config = RedisConfig(sentinels=["a", "b:1", "[::1]"])

    assert config.servers == (Server("a", 26379), Server("b", 1), Server("::1", 26379))
    assert config.has_sentinels
    assert not config.is_cluster
    assert config.name == "redis mymaster"


def test_nodes_with_tls_have_it_for_all():
    config = RedisConfig(nodes=["rediss://:pw@a", "rediss://:pw@b"])

    assert config.tls
    assert config.context is not None
    assert config.is_cluster
    assert (config.password, config.name) == ("pw", "redis cluster a:6379")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "redis://a:99999"}, "url: it can't be read"),
        ({"url": "redis://a:-1"}, "url: it can't be read"),
        ({"url": "redis://a/-1"}, "url: the database must be a number"),
        ({"url": "redis://a/\N{SUPERSCRIPT TWO}"}, "url: the database must be a number"),
        ({"url": f"redis://a/{'9' * 5000}"}, "url: the database must be a number"),
        ({"url": "redis://a?password=s3cret"}, "the option 'password' is not known"),
        ({"url": "cache:6379"}, "url: it must begin with redis://"),
        ({"url": b"redis://:s3cret@a"}, "url must be a string, not a value of type bytes"),
        ({"nodes": "a:1,,b:2"}, "nodes: it names no host"),
        ({"nodes": "redis://u:,s3cret,@a"}, "nodes: it can't be read"),
        ({"nodes": "redis://u:1,s3cret,@a"}, "nodes: there is nothing before an '@'"),
        ({"nodes": b"a:1"}, "nodes must be a list of host:port or URLs, not a value of type bytes"),
        ({"nodes": ["redis://:s3cret@a", "redis://:s3cret2@b"]}, "nodes: all must have the same"),
        ({"nodes": ["unix:///a"]}, "nodes must be host:port, without a database or a socket"),
        ({"sentinels": ["http://:s3cret@a"]}, "sentinels: it must begin with redis://"),
        ({"sentinels": {"a"}}, "sentinels must be a list"),
        ({"sentinels": ["a"], "service": 5}, "service must be a string"),
        ({"nodes": ["a"], "sentinels": ["b"]}, "there is nodes and sentinels"),
        ({"url": "redis://u:s3cret@a", "username": "v"}, "username is given twice"),
        (
            {"sentinels": ["redis://:s3cret@a"], "sentinel_password": "other"},
            "sentinel_password is given twice",
        ),
        ({"url": "redis://a", "password": 5}, "password must be a string, not a value of type int"),
        ({"url": "redis://a", "db": -1}, "db must be 0 or more"),
        ({"url": "redis://a", "db": "1"}, "db must be a whole number"),
        ({"url": "redis://a", "cert_file": "x"}, "cert_file is for TLS"),
        ({"url": "redis://a", "key_file": "x"}, "key_file is for TLS"),
        ({"url": "rediss://a", "cert_file": "/no/such"}, "cert_file and key_file can't be used"),
        ({"url": "rediss://a", "verify": 0}, "verify must be True or False"),
        ({"url": "redis://a", "tls": "yes"}, "tls must be True or False"),
        ({"url": "redis://a", "lazy_connect": None}, "lazy_connect must be True or False"),
        ({"url": "redis://a", "connect_timeout": float("nan")}, "connect_timeout must be"),
        ({"url": "redis://a", "command_timeout": float("inf")}, "command_timeout must be"),
        ({"url": "redis://a", "max_retries": 1.5}, "max_retries must be a whole number"),
        ({"url": "redis://a", "max_retries": True}, "max_retries must be a whole number"),
        ({"url": "redis://a", "client_name": "a\n"}, "client_name must have no spaces"),
        ({"url": "redis://a", "client_name": 5}, "client_name must be a string"),
        ({"url": "redis://a", "passwrod": "s3cret"}, "did you mean 'password'?"),
        ({"url": "redis://a", "qqqq": "s3cret"}, "the fields are acquire_timeout, ca_file"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_and_no_secret_shown(settings, message):
    with pytest.raises(ConfigError) as caught:
        RedisPool(**settings)

    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_password_that_is_given_twice_alike_is_no_contradiction():
    config = RedisConfig(url="redis://app:pw@a", username="app", password="pw")

    assert (config.username, config.password) == ("app", "pw")


def test_tls_may_be_asked_for_by_scheme_or_by_name():
    assert RedisConfig(url="redis://a").context is None
    assert RedisConfig(url="redis://a", tls=True).context is not None
    assert RedisConfig(url="rediss://a").tls


def test_retries_that_are_asked_for_are_made_also_if_they_are_as_many_as_by_default():
    policy = RetryPolicy(base=0.5)  # three attempts

    assert RedisConfig(url="redis://a", retry=policy, max_retries=2).policy.attempts == 3
    assert RedisConfig(url="redis://a", retry=policy, max_retries=4).policy.attempts == 5
    assert RedisConfig(url="redis://a", retry=policy, max_retries=3).policy.attempts == 4


def test_a_policy_that_replaces_another_is_the_one_that_holds():
    config = RedisConfig(url="redis://a", retry=RetryPolicy(attempts=7))

    changed = dataclasses.replace(config, retry=RetryPolicy(attempts=2))

    assert changed.policy.attempts == 2


def test_other_settings_are_replaced_without_touching_the_address():
    config = RedisConfig(url="redis://app:pw@a/3", max_retries=7)

    changed = dataclasses.replace(config, max_size=3)

    assert changed == dataclasses.replace(config, max_size=3)
    assert (changed.servers, changed.db, changed.username) == (config.servers, 3, "app")
    assert (changed.max_size, changed.policy.attempts) == (3, 8)
