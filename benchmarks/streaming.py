"""Does memory stay flat while a long answer is streamed? Measured in a fresh process for each contender."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

from benchmarks import machine
from benchmarks.answers import Answer, Table
from benchmarks.charts import Curve, CurvePanel, Grid
from benchmarks.crew import describe_error
from benchmarks.progress import Watcher
from benchmarks.targets import Finding

PIECE = 64 * 1024
FIRST = 1 << 20  # bytes, after which the start is over
MB = 1e6

Stream = Callable[[], Iterator[bytes]]
Sample = tuple[int, int]  # bytes so far, most resident bytes up to there


def sample(stream: Stream, length: int) -> list[Sample]:
    """Read it all in this process, and look at each doubling from the first megabyte on."""
    samples: list[Sample] = []
    read = most = 0
    look = FIRST
    for number, piece in enumerate(stream()):
        read += len(piece)
        if number % 64 == 0:
            most = max(most, machine.rss_bytes())
        if read >= look:
            gc.collect()
            most = max(most, machine.rss_bytes())
            samples.append((read, most))
            look *= 2
    if read != length:
        raise ValueError(f"{read:,} bytes came, not {length:,}")
    return samples


def answer(
    name: str,
    question: str,
    streams: Mapping[str, Stream],
    *,
    ours: str,
    length: int,
    at_most_mb: float,
    watcher: Watcher,
) -> Answer:
    """Answer how far memory grows between the first megabyte and the last, one contender at a time."""
    watcher.stage(name, len(streams))
    samples: dict[str, list[Sample]] = {}
    failures: list[str] = []
    spawn = multiprocessing.get_context("spawn")
    for key, stream in streams.items():
        watcher.step(key)
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            try:
                samples[key] = process.submit(sample, stream, length).result()
            except Exception as error:
                failures.append(f"{key}: failed: {describe_error(error)}")
    growth = {
        key: [(read / MB, (most - found[0][1]) / MB) for read, most in found]
        for key, found in samples.items()
    }
    grown = growth[ours][-1][1] if ours in growth else None
    finding = Finding(
        name=f"memory while {length / 2**30:g} GiB is streamed",
        against="after 1 MB",
        value=grown,
        low=grown,
        high=grown,
        unit="MB",
        at_most=at_most_mb,
    )
    return Answer(
        name=name,
        question=question,
        tables=[_table(growth, samples)],
        findings=[finding],
        chart=Grid(
            title=question,
            rows=[
                [
                    CurvePanel(
                        x_axis="MB read",
                        y_axis="MB more than after the first",
                        curves=[
                            Curve(label=key, points=growth[key], ours=key == ours) for key in growth
                        ],
                        limit=at_most_mb,
                    )
                ]
            ],
        ),
        note=f"a fresh process each, pieces of {PIECE // 1024} KiB",
        data=[{"contender": key, "samples": found} for key, found in samples.items()],
        failures=failures,
    )


def _table(
    growth: Mapping[str, Sequence[tuple[float, float]]], samples: Mapping[str, Sequence[Sample]]
) -> Table:
    return Table(
        title="resident MB after the first MB of the answer, and the most above that until its end",
        headers=["contender", "at first", "growth"],
        rows=[
            [key, f"{samples[key][0][1] / MB:.1f}", f"{found[-1][1]:+.1f}"]
            for key, found in growth.items()
        ],
    )
