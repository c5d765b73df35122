"""The commands that look at settings and servers, as a person and a program meet them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SECRET = "geheim"


def poolkit(
    *arguments: str, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POOLKIT_")}
    return subprocess.run(
        [sys.executable, "-m", "poolkit", *arguments],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        env={**clean, **(environ or {})},
    )


def test_check_says_that_all_is_healthy_with_the_latency(conninfo, redis_url):
    result = poolkit(
        "check",
        environ={"POOLKIT_POSTGRES_CONNINFO": conninfo, "POOLKIT_REDIS_URL": redis_url},
    )

    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if " healthy " in line]
    assert len(lines) == 3
    assert all(" ms" in line for line in lines)


def test_check_names_what_can_not_be_reached_and_why(conninfo):
    result = poolkit(
        "check",
        "--json",
        "--timeout",
        "1",
        environ={
            "POOLKIT_POSTGRES_CONNINFO": conninfo,
            "POOLKIT_REDIS_URL": f"redis://:{SECRET}@127.0.0.1:1/0",
        },
    )

    assert result.returncode == 2
    found = json.loads(result.stdout)
    assert found["pools"]["postgres"]["status"] == "healthy"
    assert found["pools"]["redis"]["status"] == "unavailable"
    assert "refused" in found["pools"]["redis"]["reasons"][0]
    assert SECRET not in result.stdout + result.stderr
    assert result.stderr == ""


def test_check_reads_an_env_file_but_the_environment_wins(tmp_path, redis_url):
    env_file = tmp_path / ".env"
    env_file.write_text("POOLKIT_REDIS_URL=redis://127.0.0.1:1\nPOOLKIT_HTTP_MAX_IDLE=3\n")

    result = poolkit(
        "check", "--env-file", str(env_file), "--json", environ={"POOLKIT_REDIS_URL": redis_url}
    )

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("command", ["check", "config"])
def test_a_wrong_setting_is_named_in_one_line(command):
    result = poolkit(command, environ={"POOLKIT_POSTGRES_MAX_SIZE": SECRET})

    assert result.returncode == 2
    assert result.stderr == "Error: POOLKIT_POSTGRES_MAX_SIZE must be a whole number\n"


def test_config_shows_values_and_sources_but_no_secrets(tmp_path):
    file = tmp_path / "kit.toml"
    file.write_text(
        f"preset = 'staging'\n[postgres]\nconninfo = 'host=db password={SECRET}'\nmax_size = 7\n"
    )

    result = poolkit("config", "--file", str(file), "--json")

    assert result.returncode == 0, result.stderr
    fields = json.loads(result.stdout)["postgres"]
    assert fields["max_size"] == {"value": 7, "source": f"{file} [postgres]"}
    assert fields["min_size"] == {"value": 3, "source": "preset staging"}
    assert fields["acquire_timeout"] == {"value": 5.0, "source": "default"}
    assert fields["conninfo"]["value"] == "(hidden)"
    assert SECRET not in poolkit("config", "--file", str(file)).stdout


def test_presets_are_those_of_the_table():
    found = json.loads(poolkit("presets", "--json").stdout)

    assert found["production"]["postgres"] == {"min_size": 5, "max_size": 20, "idle_timeout": 30.0}
    assert found["high_scale"]["redis"] == {"max_retries": 15}
    assert "high_scale" in poolkit("presets").stdout


def test_size_gives_each_instance_its_share():
    found = json.loads(poolkit("size", "--cores", "4", "--instances", "5", "--json").stdout)

    assert found == {"total": 9, "per_instance": 2, "min_size": 1, "overcommitted": True}
    assert "may open more" in poolkit("size", "--instances", "5").stdout


def test_size_asks_the_server_how_many_it_admits(conninfo):
    found = json.loads(poolkit("size", "--postgres", conninfo, "--json").stdout)

    assert found["admitted"] > 10


def test_size_says_that_the_server_can_not_be_reached():
    result = poolkit(
        "size", "--postgres", f"postgresql://x:{SECRET}@127.0.0.1:1/db?sslmode=disable"
    )

    assert result.returncode == 2
    assert result.stderr.startswith("Error: ")
    assert SECRET not in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell):
    result = poolkit("completion", shell)

    assert result.returncode == 0, result.stderr
    assert "_POOLKIT_COMPLETE" in result.stdout


@pytest.mark.parametrize("command", ["check", "config", "presets", "size", "completion", "demo"])
def test_each_command_has_help_with_an_example(command):
    result = poolkit(command, "--help")

    assert result.returncode == 0
    assert f"Usage: poolkit {command}" in result.stdout
    assert command == "demo" or "poolkit" in result.stdout.split("Options:")[1]
