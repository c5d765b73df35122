"""The command as a person meets it: in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from ..core.support import Task

SMALL = ("--threads", "20", "--requests-per-thread", "2")
CONTENDERS = ["no pool", "no pool, 80 at once", "psycopg_pool", "poolkit"]
CACHED = ["no cache", "redis-py, no pool", "redis-py", "redis-py, blocking", "poolkit"]
CALLED = ["no pool", "requests.Session", "poolkit"]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=55, check=False
    )


@pytest.fixture(scope="module")
def demos():
    """Give what a demo writes, as tables and in JSON: both at the same time, as they wait more than they compute."""
    tasks = [Task(python, "-m", "poolkit", "demo", *SMALL, *how) for how in ([], ["--json"])]
    results = [task.result(60) for task in tasks]
    for result in results:
        assert result.returncode == 0, result.stderr
    return results


@pytest.fixture(scope="module")
def demo_scenes(demos):
    """Give the scenes that a demo has in JSON."""
    _, in_json = demos
    return json.loads(in_json.stdout)["scenes"]


@pytest.mark.parametrize("module", ["poolkit", "poolkit.cli"])
def test_help_lists_the_commands(module):
    result = python("-m", module, "--help")

    assert result.returncode == 0, result.stderr
    assert "Usage: poolkit" in result.stdout
    assert "demo" in result.stdout


def test_help_loads_neither_drivers_nor_rich():
    result = python(
        "-c",
        "import sys, poolkit.cli\n"
        "sys.argv = ['poolkit', '--help']\n"
        "try:\n    poolkit.cli.main()\n"
        "finally:\n    print([n for n in ('psycopg', 'psycopg_pool', 'redis', 'rich') if n in sys.modules])",
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_an_unknown_command_is_a_usage_error():
    result = python("-m", "poolkit", "dmeo")

    assert result.returncode == 2
    assert "No such command 'dmeo'" in result.stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install_in_one_line(missing):
    result = python(
        "-c", f"import sys; sys.modules[{missing!r}] = None; import poolkit.cli; poolkit.cli.main()"
    )

    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "pip install 'poolkit[cli]'" in line


def test_demo_compares_the_contenders_and_names_the_leak(demos):
    result, _ = demos
    for contender in CONTENDERS + CACHED + CALLED:
        assert f"{contender}: 40 requests ..." in result.stderr
        assert any(line.startswith(f"{contender}  ") for line in result.stdout.splitlines())
    assert "A pool cuts latency by 70 to 90 %" in result.stdout
    assert "not tested" in result.stdout, "twenty threads say nothing of five hundred"
    leaked = result.stdout.partition("pool.leases() still had:")[2]
    assert "monthly-report" in leaked
    assert "leaky_program.py:" in leaked
    assert "in monthly_report" in leaked
    assert "hits" in result.stdout
    assert "Redis goes away, and comes back" in result.stdout
    assert "A host that is slow" in result.stdout


def test_demo_in_json(demo_scenes):
    scene, _, _ = demo_scenes
    assert [run["contender"] for run in scene["runs"]] == CONTENDERS
    for run in scene["runs"]:
        assert (run["requests"], run["answered"], run["errors"]) == (40, 40, 0)
        assert 0 < run["p50"] <= run["p99"] <= run["max"]
    without, _, _, ours = scene["runs"]
    assert without["connections_opened"] == 40
    assert ours["connections_peak"] <= ours["connections_opened"] <= 20
    leak = scene["leak"]
    assert leak["call_site"] in leak["error"]
    assert "send_by_mail" in leak["stack"]
    assert leak["leases_after"] == 0


def test_demo_puts_a_cache_in_front_and_takes_it_away(demo_scenes):
    _, scene, _ = demo_scenes
    assert [run["contender"] for run in scene["runs"]] == CACHED
    for run in scene["runs"]:
        assert (run["requests"], run["answered"], run["errors"]) == (40, 40, 0)
    without, per_request, *_, ours = scene["runs"]
    assert without["hit_rate"] is None
    assert all(0 < run["hit_rate"] <= 1 for run in scene["runs"][1:])
    assert per_request["connections_opened"] >= 40
    assert ours["connections_opened"] <= 40, "twenty to each server"
    assert any("pipeline" in claim["claim"] for claim in scene["claims"])
    outage = scene["outage"]
    assert outage["errors"] == 0
    assert 0 < outage["waited"] <= outage["threads"] == 20
    assert outage["down_for"] >= 1
    assert outage["longest"] > 0.5, "of those that waited for the server"
    assert outage["first_answer_after"] < 10
    assert outage["probes"] >= 1


def test_demo_calls_a_service_and_a_slow_host_beside_it(demo_scenes):
    *_, scene = demo_scenes
    assert [run["contender"] for run in scene["runs"]] == CALLED
    for run in scene["runs"]:
        assert (run["requests"], run["answered"], run["errors"]) == (40, 40, 0)
    without, _, ours = scene["runs"]
    assert without["connections_opened"] == 40
    assert ours["connections_peak"] <= ours["connections_opened"] <= 20
    slow = scene["slow_host"]
    assert slow["held"] == 20
    assert slow["beside"]["errors"] == 0
    assert slow["beside"]["answered"] == slow["beside"]["requests"]
    assert slow["beside"]["p50"] < slow["takes"], "they did not wait in that line"


def test_ctrl_c_ends_the_demo_without_a_traceback():
    with subprocess.Popen(
        [sys.executable, "-m", "poolkit", "demo", "--requests-per-thread", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            seen = []
            for line in process.stderr:
                seen.append(line)
                if line.startswith("no pool:"):
                    break
            process.send_signal(signal.SIGINT)
            output, rest = process.communicate(timeout=30)
        finally:
            process.kill()  # or one that hangs would be waited for

    assert process.returncode == 130, "".join(seen) + rest
    assert output == ""
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "Interrupted."
