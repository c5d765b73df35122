"""A run's time is divided so that every question has its share of it, and the last has one too."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import CHART, QUICK_MINUTES, SPARE
from benchmarks.budget import COSTS, Budget, cost_of, place_of
from benchmarks.runner import find_benches


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


QUESTIONS = ["redis.get_by_threads", "redis.pipeline", "new.question"]


def test_where_there_is_time_a_race_has_all_it_would_like(clock: Clock) -> None:
    budget = Budget(10_000.0, QUESTIONS, clock=clock)
    assert budget.share("redis.get_by_threads", 66.0) == 66.0


def test_where_there_is_little_each_race_has_its_part_of_it(clock: Clock) -> None:
    budget = Budget(60.0, QUESTIONS, clock=clock)
    shares = []
    for question in QUESTIONS:
        share = budget.share(question, cost_of(question).more)
        clock.now += share + cost_of(question).least
        budget.close(question)
        shares.append(share)
    assert min(shares) > 5.0
    assert clock.now <= 160.0 + cost_of(QUESTIONS[-1]).least
    assert shares[0] / shares[1] == pytest.approx(90 / 24, rel=0.25)


def test_a_race_that_takes_too_long_leaves_the_others_less_but_not_nothing(clock: Clock) -> None:
    budget = Budget(60.0, QUESTIONS, clock=clock)
    before = budget.share("redis.pipeline", 24.0)
    clock.now += 40.0
    budget.close("redis.get_by_threads")
    assert 0.0 < budget.share("redis.pipeline", 24.0) < before
    assert budget.allows(["redis.pipeline"])
    clock.now += 20.0
    assert not budget.allows(["redis.pipeline"])
    assert budget.share("redis.pipeline", 24.0) == 0.0


def test_what_must_be_spent_on_others_is_kept_for_them(clock: Clock) -> None:
    least = COSTS["mcp.mcp_threads"].least
    budget = Budget(least + 100.0, ["redis.pipeline", "mcp.mcp_threads"], clock=clock)
    assert 0.0 < budget.share("redis.pipeline", 1_000.0) <= 100.0


def test_what_takes_longer_than_is_left_is_not_begun(clock: Clock) -> None:
    budget = Budget(
        COSTS["mcp.mcp_threads"].least - 1.0, ["redis.pipeline", "mcp.mcp_threads"], clock=clock
    )
    assert budget.allows(["mcp.mcp_threads", "redis.pipeline"])
    assert not budget.allows(["mcp.mcp_threads"])


def test_a_quick_run_has_time_for_all_that_it_asks() -> None:
    asked = [cost.quick for cost in COSTS.values() if cost.quick is not None]
    assert sum(asked) + len(asked) * CHART < QUICK_MINUTES * 60 * SPARE
    assert {name.partition(".")[0] for name, cost in COSTS.items() if cost.quick} == {
        name.partition(".")[0] for name in COSTS
    }


def test_progress_says_what_is_answered_and_how_long_the_rest_takes(clock: Clock) -> None:
    budget = Budget(600.0, QUESTIONS, clock=clock)
    assert budget.progress == "0 of 3 questions answered, about 2 min left"
    budget.close("redis.get_by_threads")
    clock.now += 570.0
    assert budget.progress == "1 of 3 questions answered, about 30 s left"


def test_costs_are_of_questions_that_there_are() -> None:
    modules = find_benches().modules
    for name in COSTS:
        bench, _, question = name.partition(".")
        if bench in modules:
            assert question in modules[bench].QUESTIONS, name


def test_benches_that_are_not_known_come_last() -> None:
    assert place_of("postgres") < place_of("redis") < place_of("never heard of")
