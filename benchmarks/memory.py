"""Does memory stay flat as leases are taken? Measured in a fresh process for each contender.

In a process that has raced before, the heap has room left over from the race, and growth would hide
in it.
"""

from __future__ import annotations

import gc
import multiprocessing
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks import machine
from benchmarks.answers import Answer, Table
from benchmarks.charts import Curve, CurvePanel, Grid
from benchmarks.crew import Contender, Turn, describe_error
from benchmarks.progress import Watcher
from benchmarks.targets import Finding

THREADS = 8
FIRST = 10_000
MB = 1e6

Sample = tuple[int, int]  # leases so far, resident bytes
Build = Callable[[], Contender]


def checkpoints(last: int) -> list[int]:
    """Return the numbers of leases after which to look: 1, 2 and 5 times powers of ten up to ``last``."""
    steps = (factor * 10**power for power in range(4, 10) for factor in (1, 2, 5))
    return [step for step in steps if FIRST <= step <= last]


def sample(build: Build, points: Sequence[int]) -> list[Sample]:
    """Take leases in this process up to each point, and return the resident bytes there."""
    samples = []
    with build().opened(THREADS) as turns:
        done = 0
        for point in points:
            _take(turns, (point - done) // len(turns))
            done = point
            gc.collect()
            samples.append((point, machine.rss_bytes()))
    return samples


def answer(
    name: str,
    question: str,
    builds: Mapping[str, Build],
    ours: str,
    last: int,
    at_most_mb: float,
    watcher: Watcher,
) -> Answer:
    """Answer how far memory grows between the first checkpoint and ``last`` leases, all contenders at once."""
    points = checkpoints(last)
    watcher.stage(f"{name}, {last:,} leases", len(builds))
    samples: dict[str, list[Sample]] = {}
    failures: list[str] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(builds), mp_context=spawn) as processes:
        futures = {key: processes.submit(sample, build, points) for key, build in builds.items()}
        for key, future in futures.items():
            watcher.step(key)
            try:
                samples[key] = future.result()
            except Exception as error:
                failures.append(f"{key}: failed: {describe_error(error)}")
    growth = {
        key: [(n, (rss - found[0][1]) / MB) for n, rss in found] for key, found in samples.items()
    }
    grown = growth[ours][-1][1] if ours in growth else None
    finding = Finding(
        name=f"memory after {last:,} leases",
        against=f"after {FIRST:,}",
        value=grown,
        low=grown,
        high=grown,
        unit="MB",
        at_most=at_most_mb,
    )
    return Answer(
        name=name,
        question=question,
        tables=[_table(growth, samples, points)],
        findings=[finding],
        chart=Grid(
            title=question,
            rows=[
                [
                    CurvePanel(
                        x_axis="leases taken",
                        y_axis=f"MB more than after {FIRST:,} leases",
                        curves=[
                            Curve(label=key, points=growth[key], ours=key == ours) for key in growth
                        ],
                        limit=at_most_mb,
                    )
                ]
            ],
        ),
        note=f"a fresh process each, {THREADS} threads",
        data=[{"contender": key, "samples": found} for key, found in samples.items()],
        failures=failures,
    )


def _take(turns: Sequence[Turn], each: int) -> None:
    errors: list[BaseException] = []
    threads = [threading.Thread(target=partial(_repeat, turn, each, errors)) for turn in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _repeat(turn: Turn, times: int, errors: list[BaseException]) -> None:
    try:
        for _ in range(times):
            turn()
    except Exception as error:
        errors.append(error)


def _table(
    growth: Mapping[str, Sequence[tuple[int, float]]],
    samples: Mapping[str, Sequence[Sample]],
    points: Sequence[int],
) -> Table:
    return Table(
        title=f"resident MB after {FIRST:,} leases of {THREADS} threads, and growth from there",
        headers=["contender", f"{FIRST:,}", *(f"{point:,}" for point in points[1:])],
        rows=[
            [key, f"{samples[key][0][1] / MB:.1f}", *(f"{grown:+.1f}" for _, grown in found[1:])]
            for key, found in growth.items()
        ],
    )
