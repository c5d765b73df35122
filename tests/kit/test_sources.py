"""Where the settings of a kit come from, which win, and how wrong ones are named."""

from __future__ import annotations

import pytest

from poolkit import ConfigError, PoolKit, RetryPolicy

SECRET = "geheim"
ADDRESS = f"postgresql://app:{SECRET}@db/app"


def source_of(kit: PoolKit, backend: str, field: str) -> str:
    assert kit.settings is not None
    (found,) = [s.source for b, f, s in kit.settings if (b, f) == (backend, field)]
    return found


@pytest.mark.parametrize(
    ("preset", "postgres", "retries", "http"),
    [
        ("development", (2, 5, 10), 3, (10, 2)),
        ("staging", (3, 10, 20), 5, (25, 5)),
        ("production", (5, 20, 30), 10, (50, 10)),
        ("high_scale", (10, 30, 45), 15, (100, 20)),
        ("high-scale", (10, 30, 45), 15, (100, 20)),
    ],
)
def test_presets_are_those_of_the_table(preset, postgres, retries, http):
    kit = PoolKit.for_environment(preset, postgres="host=db", redis="redis://cache")

    db = kit.postgres.config
    assert (db.min_size, db.max_size, db.idle_timeout) == postgres
    assert kit.redis.config.max_retries == retries
    assert (kit.http.config.max_size, kit.http.config.max_idle) == http


def test_each_value_of_a_preset_can_be_overridden_by_itself():
    kit = PoolKit.for_environment(
        "production",
        postgres={"conninfo": "host=db", "max_size": 7},
        redis="redis://cache",
        redis_max_retries=1,
        http_retry={"attempts": 9},
    )

    assert (kit.postgres.config.min_size, kit.postgres.config.max_size) == (5, 7)
    assert kit.redis.config.max_retries == 1
    assert kit.http.config.retry.attempts == 9
    assert source_of(kit, "postgres", "min_size") == "preset production"
    assert source_of(kit, "redis", "max_retries") == "redis_max_retries="


def test_the_environment_sets_any_field_and_arguments_win():
    kit = PoolKit.from_env(
        {
            "POOLKIT_ENV": "staging",
            "POOLKIT_POSTGRES_CONNINFO": "host=db",
            "POOLKIT_POSTGRES_MAX_SIZE": "12",
            "POOLKIT_POSTGRES_COMBINE": "off",
            "POOLKIT_POSTGRES_STATEMENT_TIMEOUT": "2.5",
            "POOLKIT_REDIS_NODES": "a:7000, b:7000",
            "POOLKIT_REDIS_RETRY_ATTEMPTS": "2",
            "POOLKIT_REDIS_RETRY_CAP": "0.5",
            "POOLKIT_HTTP_ALLOWED_HOSTS": "api.example.com, *.example.org",
            "POOLKIT_HTTP_MAX_IDLE": "   ",
            "POOLKIT_HTTP_HEADERS": '{"X-App": "shop"}',
            "PATH": "/bin",
        },
        postgres_max_size=13,
    )

    db = kit.postgres.config
    assert (db.max_size, db.combine, db.statement_timeout, db.min_size) == (13, False, 2.5, 3)
    assert kit.redis.config.is_cluster
    assert (kit.redis.config.retry.attempts, kit.redis.config.retry.cap) == (2, 0.5)
    assert kit.http.config.allowed_hosts == ("api.example.com", "*.example.org")
    assert kit.http.config.max_idle == 5
    assert kit.http.config.headers["x-app"] == "shop"
    assert source_of(kit, "postgres", "combine") == "POOLKIT_POSTGRES_COMBINE"


def test_a_mapping_that_is_not_the_environment_may_have_values_that_are_no_text():
    retry = RetryPolicy(attempts=7)
    kit = PoolKit.from_env(
        {
            "POOLKIT_ENV": "staging",
            "POOLKIT_POSTGRES_CONNINFO": ADDRESS,
            "POOLKIT_POSTGRES_MAX_SIZE": 12,
            "POOLKIT_POSTGRES_MIN_SIZE": "4",
            "POOLKIT_POSTGRES_RETRY": retry,
            "POOLKIT_HTTP_ALLOWED_HOSTS": ["a.example"],
            "POOLKIT_REDIS_URL": None,
            "DEBUG": True,
        }
    )
    db = kit.postgres.config
    assert (db.max_size, db.min_size, db.idle_timeout, db.retry) == (12, 4, 20, retry)
    assert kit.http.config.allowed_hosts == ("a.example",)
    assert set(kit.pools) == {"postgres", "http"}
    assert source_of(kit, "postgres", "max_size") == "POOLKIT_POSTGRES_MAX_SIZE"


def test_a_pool_is_there_only_if_it_was_said_where():
    kit = PoolKit.from_env({"POOLKIT_POSTGRES_MAX_SIZE": "3"})

    assert list(kit.pools) == ["http"]
    with pytest.raises(ConfigError, match="POOLKIT_POSTGRES_CONNINFO"):
        _ = kit.postgres


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"POOLKIT_POSTGRES_MAX_SIZE": SECRET}, "POOLKIT_POSTGRES_MAX_SIZE must be a whole number"),
        (
            {"POOLKIT_POSTGRES_SLOW_QUERY": SECRET},
            "POOLKIT_POSTGRES_SLOW_QUERY must be a number",
        ),
        ({"POOLKIT_REDIS_COMBINE": SECRET}, "POOLKIT_REDIS_COMBINE must be true or false"),
        ({"POOLKIT_HTTP_HEADERS": SECRET}, "POOLKIT_HTTP_HEADERS must be a JSON object"),
        ({"POOLKIT_HTTP_HEADERS": "[" * 100_000}, "POOLKIT_HTTP_HEADERS must be a JSON object"),
        ({"POOLKIT_HTTP_BEFORE_REQUEST": SECRET}, "POOLKIT_HTTP_BEFORE_REQUEST can't be set"),
        ({"POOLKIT_POSTGRES_MAXSIZE": "3"}, "did you mean 'max_size'"),
        ({"POOLKIT_ENV": "prodution"}, "POOLKIT_ENV: .*did you mean 'production'"),
        (
            {"POOLKIT_POSTGRES_CONNINFO": ADDRESS, "POOLKIT_POSTGRES_MIN_SIZE": "50"},
            "min_size is from POOLKIT_POSTGRES_MIN_SIZE",
        ),
        ({"POOLKIT_REDIS_URL": f"http://{SECRET}@x"}, "redis: "),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_is_not_shown(variables, said):
    with pytest.raises(ConfigError, match=said) as caught:
        PoolKit.from_env(variables)

    assert SECRET not in str(caught.value)


def test_secrets_are_marked_and_not_in_the_repr():
    kit = PoolKit.from_env({"POOLKIT_POSTGRES_CONNINFO": ADDRESS})

    assert kit.settings is not None
    (address,) = [s for _, field, s in kit.settings if field == "conninfo"]
    assert address.secret
    assert SECRET not in repr(address) + repr(kit)


TOML = """
preset = "staging"
[postgres]
conninfo = "host=db"
max_size = 11
retry = {attempts = 2}
[http]
allowed_hosts = ["a.example"]
"""

INI = """
[poolkit]
preset = staging
[postgres]
conninfo = host=db
max_size = 11
retry_attempts = 2
[http]
allowed_hosts = a.example
"""


@pytest.mark.parametrize(("name", "content"), [("kit.toml", TOML), ("kit.ini", INI)])
def test_a_file_says_the_same_in_both_forms(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)

    kit = PoolKit.from_file(path, postgres_min_size=1)

    db = kit.postgres.config
    assert (db.min_size, db.max_size, db.idle_timeout, db.retry.attempts) == (1, 11, 20, 2)
    assert kit.http.config.allowed_hosts == ("a.example",)
    assert source_of(kit, "postgres", "max_size") == f"{path} [postgres]"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("kit.toml", "[postgres", "is not TOML"),
        ("kit.toml", "a = " + "[" * 10_000, "is not TOML"),
        ("kit.toml", f"a = {'9' * 5000}", "is not TOML"),
        ("kit.ini", "max_size = 3", "is not INI: line 1 is in no section"),
        (
            "kit.ini",
            "[http]\n[http]",
            "is not INI: line 2 has a section or a setting for the second",
        ),
        ("kit.toml", "[postgress]\nmax_size = 1", "did you mean 'postgres'"),
        ("kit.ini", "[postgress]\nmax_size = 1", "did you mean 'postgres'"),
        ("kit.toml", "postgres = 3", "must be a table"),
        ("kit.toml", "preset = 'x'", "there is no preset 'x'"),
        ("kit.toml", "[postgres]\nmax_sise = 1", "did you mean 'max_size'"),
        (
            "kit.toml",
            "[postgres]\nconninfo = 'host=db'\nmax_size = '1'",
            "max_size is from .*kit.toml",
        ),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_text(content)

    with pytest.raises(ConfigError, match=said):
        PoolKit.from_file(path)


@pytest.mark.parametrize(
    ("content", "line"),
    [(f"password = {SECRET}\n[redis]", 1), (f"[redis]\npassword\n  {SECRET}\n{SECRET}", 2)],
)
def test_no_line_of_a_wrong_file_is_shown(tmp_path, content, line):
    path = tmp_path / "kit.ini"
    path.write_text(content)

    with pytest.raises(ConfigError, match=f"line {line}") as caught:
        PoolKit.from_file(path)

    assert SECRET not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml can't be read"):
        PoolKit.from_file(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="can't be read"):
        PoolKit.from_file("kit\0.toml")
