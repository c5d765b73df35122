"""A quick slice of the campaign: on each pool a fault of each kind, in each state."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import pytest

from poolkit.embedded import EmbeddedError, FirestoreServer
from tests.faults import bookkeeper
from tests.faults.campaign import Campaign, cells
from tests.faults.ears import Ears
from tests.faults.faults import FAULTS
from tests.faults.performance import STATES
from tests.faults.subjects import NAMES, every
from tests.faults.subjects.firestore import Firestore

SEED = int(os.environ.get("POOLKIT_SEED", "1"))
LASTS = 0.25
SCHEDULING = 0.15
"""Seconds that a busy machine may add to what is promised."""

SLICE = {
    "killed and restarted": "loaded",
    "frozen": "idle",
    "reset instead of the reply": "loaded",
    "garbage replies": "in a block",
}


@pytest.fixture(scope="module")
def campaign() -> Iterator[Campaign]:
    with Campaign(every(), SEED, lasts=LASTS) as campaign:
        yield campaign


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have lateness count from later on: beside other tests a machine is busier than a control thread can tell."""
    monkeypatch.setattr(bookkeeper, "GRACE", bookkeeper.GRACE + SCHEDULING)


def play(campaign: Campaign, fault: str, name: str, state: str) -> None:
    (cell,) = cells(NAMES, [f"{fault}/{name}/{state}"])
    try:
        result = campaign.play(cell)
    except EmbeddedError as error:
        pytest.skip(str(error))
    sys.stdout.write(f"{cell}: {result}\n")
    assert not result.violations, [str(violation) for violation in result.violations]
    assert sum(result.fates.values()) > 0


def test_each_fault_fits_a_pool_or_says_why_not() -> None:
    assert tuple(every()) == NAMES
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert fault.unfit.keys() < set(NAMES), fault.name
        assert all(fault.unfit.values())
    assert len(cells(NAMES)) == len(FAULTS) * len(NAMES) * len(STATES)


def test_cells_are_chosen_by_a_part_of_their_name_or_by_a_pattern() -> None:
    assert {cell.subject for cell in cells(NAMES, ["/redis/"])} == {"redis"}
    assert [str(cell) for cell in cells(NAMES, ["refused/http/idle"])] == ["refused/http/idle"]
    chosen = cells(NAMES, ["frozen/*/idle", "black hole/http/loaded"])
    assert sorted(map(str, chosen)) == sorted(
        [*(f"frozen/{name}/idle" for name in NAMES), "black hole/http/loaded"]
    )


def test_the_same_seed_plays_the_same_cells_in_the_same_order() -> None:
    def order(seed: int) -> list[str]:
        rounds = Campaign({}, seed).rounds(cells(NAMES), 60)
        return [str(next(rounds)) for _ in range(50)]

    assert order(1) == order(1) != order(2)


def test_a_secret_that_is_logged_is_heard() -> None:
    with Ears(["hunter2"]) as ears:
        logging.getLogger("any").debug("password %s", "hunter2")
        try:
            raise ValueError("hunter2")
        except ValueError:
            logging.getLogger("any").exception("oh")
    assert len(ears.spilled) == 2
    assert "hunter2" not in str(ears.spilled)


@pytest.mark.parametrize("name", ["postgres", "redis", "http"])
@pytest.mark.parametrize("fault", SLICE)
def test_promises_are_kept(campaign: Campaign, fault: str, name: str) -> None:
    play(campaign, fault, name, SLICE[fault])


def test_promises_are_kept_by_a_cluster_whose_slots_move(campaign: Campaign) -> None:
    play(campaign, "slots moved", "cluster", "loaded")


def test_promises_are_kept_through_a_pooler_whose_server_dies(campaign: Campaign) -> None:
    play(campaign, "killed behind the pooler", "pgbouncer", "loaded")


def test_promises_are_kept_by_firestore(firestore_server: FirestoreServer) -> None:
    with Campaign(
        {"firestore": lambda: Firestore(firestore_server)}, SEED, lasts=LASTS
    ) as campaign:
        play(campaign, "reset instead of the reply", "firestore", "loaded")
