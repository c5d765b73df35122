"""One server: how it is reached, lent, probed, retired and closed."""

from __future__ import annotations

import threading
from time import monotonic

import pytest

from poolkit import (
    AddressBlocked,
    BackendUnavailable,
    ConfigError,
    Deadline,
    DeadlineExceeded,
    Listener,
    PoolClosed,
    PoolTimeout,
)
from poolkit.core import node as node_module
from poolkit.core.config import PoolConfig
from poolkit.core.deadline import NEVER
from poolkit.core.events import Events
from poolkit.core.node import Node
from poolkit.core.stats import Tally

from .support import LONG, Conn, Task, eventually


class Scene(Listener):
    """A node whose server does what the test says: *next* is what dialing raises."""

    def __init__(self, *, connect_timeout=10.0, max_size=2, hopeless=False, **options):
        config = {"acquire_timeout": 1.0, "idle_timeout": 20.0, "max_lifetime": 1000.0}
        config.update({key: options.pop(key) for key in [*options] if hasattr(PoolConfig, key)})
        self.next: BaseException | None = None
        self.dialed = []
        self.conns = []
        self.heard = []
        self.lost = 0
        self.tally = Tally()
        self.node: Node[Conn] = Node(
            "db",
            PoolConfig(name="db", max_size=max_size, **config),
            dial=options.pop("dial", self.dial),
            connect_timeout=connect_timeout,
            is_hopeless=lambda error: hopeless,
            tally=self.tally,
            events=Events("db", [self]),
            lost=self.lose,
            **options,
        )
        self.lender = self.node.lender

    def dial(self, until):
        self.dialed.append(until)
        if self.next is not None:
            raise self.next
        self.conns.append(Conn(lifetime=0.0, idle_timeout=0.0))
        return self.conns[-1]

    def lose(self):
        self.lost += 1

    def use(self, deadline=NEVER):
        """Have a connection for a moment, and return it."""
        lease, conn = self.lender.lend(deadline)
        self.lender.take_back(lease, conn)
        return conn

    def removed(self, event):
        self.heard.append(event.reason)

    def ready(self, event):
        self.heard.append("ready")

    def failed(self, event):
        self.heard.append(event.error)


@pytest.fixture(autouse=True)
def no_probes(monkeypatch):
    """Have the server probed when a test says so, and not otherwise."""

    class Planner:
        def after(self, seconds, call):
            return threading.Timer(seconds, call)  # never started

    monkeypatch.setattr(node_module, "housekeeper", Planner)


def probe(scene):
    """Look whether the server is back, and wait until that is known."""
    scene.node.outage._look()
    scene.node.join(NEVER)


# -- open, lend, keep ----------------------------------------------------------------------------------


def test_a_connection_is_opened_once_and_lent_again():
    scene = Scene()

    assert scene.use() is scene.use()
    assert len(scene.dialed) == 1
    stats = scene.lender.stats()
    assert (stats.created, stats.leases, stats.in_use, stats.create.count) == (1, 2, 0, 1)
    assert scene.heard == ["ready"]


def test_a_connection_lives_as_long_as_the_config_says_if_it_does_not_say_itself():
    scene = Scene()
    conn = scene.use()

    assert conn.born + 950.0 <= conn.dies <= conn.born + 1000.0
    assert conn.idle_timeout == 20.0


def test_what_the_dialer_says_of_a_connections_times_holds():
    conn = Conn(lifetime=7.0, idle_timeout=3.0)
    scene = Scene(dial=lambda until: conn)
    scene.use()

    assert (conn.dies, conn.idle_timeout) == (conn.born + 7.0, 3.0)


@pytest.mark.parametrize(("connect_timeout", "deadline"), [(5.0, 100.0), (100.0, 5.0)])
def test_dialing_ends_with_the_deadline_and_with_connect_timeout(connect_timeout, deadline):
    scene = Scene(connect_timeout=connect_timeout)
    began = monotonic()
    scene.use(Deadline.after(deadline))

    (until,) = scene.dialed
    assert began + 5.0 <= until.at <= monotonic() + 5.0


def test_no_more_than_max_idle_are_kept():
    scene = Scene(max_size=3, max_idle=1)
    held = [scene.lender.lend(NEVER) for _ in range(3)]
    for lease, conn in held:
        scene.lender.take_back(lease, conn)

    assert [conn.retired for conn in scene.conns] == [True, True, False]
    assert scene.heard == ["ready", *["more are idle than max_idle"] * 2]


def test_a_connection_that_comes_back_is_shown_before_it_is_kept():
    shown = []

    def spoil(conn):
        shown.append((conn, conn.retired, conn.lease))
        conn.settled = False

    scene = Scene(returned=spoil)
    conn = scene.use()

    assert shown == [(conn, False, None)]
    assert conn.retired


def test_condemned_connections_are_closed_idle_or_lent():
    scene = Scene()
    lease, lent = scene.lender.lend(NEVER)
    idle = scene.use()

    scene.node.condemn()

    assert (idle.retired, lent.retired) == (True, False)
    scene.lender.take_back(lease, lent)
    assert lent.retired
    assert not scene.use().retired


def test_a_sweep_reclaims_and_closes():
    scene = Scene()

    def vanish():
        scene.lender.lend(NEVER)

    Task(vanish).result()
    scene.use().is_connected = False
    assert len(scene.node.lender.holders()) == 1

    scene.node.sweep()

    assert scene.node.lender.holders() == []
    assert all(conn.retired for conn in scene.conns)
    assert scene.lender.stats().leaked == 1


def test_a_sweep_takes_none_from_those_who_come_meanwhile():
    scene = Scene()
    conn = scene.use()
    lent = []

    def lend_and_look():
        lent.append(scene.lender.lend(NEVER))
        return not conn.is_connected

    conn.hung_up = lend_and_look
    scene.node.sweep()

    ((lease, taken),) = lent
    assert taken is conn
    scene.lender.take_back(lease, taken)
    assert scene.lender.stats().created == 1


def test_what_was_collected_while_lent_is_reclaimed_and_counted_once():
    scene = Scene()
    lease, conn = scene.lender.lend(NEVER)
    scene.node.forgotten(lease, conn)

    scene.node.sweep()

    stats = scene.lender.stats()
    assert (stats.leaked, stats.closed, stats.in_use) == (1, 1, 0)


def test_what_its_holder_opened_anew_counts_as_another_one():
    scene = Scene()
    lease, conn = scene.lender.lend(NEVER)
    scene.node.renewed(0.1)
    scene.lender.take_back(lease, conn)

    stats = scene.lender.stats()
    assert (stats.created, stats.closed, stats.size) == (2, 1, 1)


# -- errors that are about the call --------------------------------------------------------------------


@pytest.mark.parametrize("error", [AddressBlocked("10.0.0.1"), ConfigError("no such option")])
def test_an_error_that_says_nothing_of_the_server_passes_through_and_leaves_it_up(error):
    scene = Scene(max_size=1, waits_out=True)
    scene.next = error

    with pytest.raises(type(error)) as caught:
        scene.use()

    assert caught.value is error
    assert scene.node.outage.cause is None
    assert (scene.lost, scene.heard) == (0, [])
    scene.next = None
    scene.use()  # the only turn has come back
    assert scene.lender.stats().refused == 0


def test_who_waits_for_a_turn_is_not_turned_away_by_another_ones_error():
    dialing, fail = threading.Event(), threading.Event()
    conn = Conn()

    def dial(until):
        if dialing.is_set():
            return conn
        dialing.set()
        assert fail.wait(LONG)
        raise AddressBlocked("10.0.0.1")

    scene = Scene(max_size=1, acquire_timeout=LONG, dial=dial)
    first = Task(scene.use)
    assert dialing.wait(LONG)
    waiter = Task(scene.use)
    eventually(lambda: scene.lender.waiting == 1)
    fail.set()

    assert isinstance(first.end(), AddressBlocked)
    assert waiter.result() is conn


def test_it_passes_through_when_the_deadline_has_passed_too():
    deadline = Deadline.after(0.01)

    def dial(until):
        eventually(lambda: deadline.expired)
        raise AddressBlocked("10.0.0.1")

    with pytest.raises(AddressBlocked):
        Scene(dial=dial).use(deadline)


@pytest.mark.parametrize(
    "error", [BackendUnavailable("its proxy is away"), DeadlineExceeded("slow", stage="connecting")]
)
def test_poolkits_own_error_that_says_the_server_is_away_takes_it_down(error):
    scene = Scene()
    scene.next = error

    with pytest.raises(BackendUnavailable) as caught:
        scene.use()

    assert caught.value.__cause__ is error
    assert scene.node.outage.cause is error


def test_a_probe_that_meets_such_an_error_leaves_it_to_the_callers_to_find_out():
    scene = Scene()
    scene.next = OSError("refused")
    with pytest.raises(BackendUnavailable):
        scene.use()
    scene.next = AddressBlocked("10.0.0.1")

    probe(scene)

    assert scene.node.outage.cause is None
    with pytest.raises(AddressBlocked):
        scene.use()
    assert "ready" not in scene.heard
    scene.next = None
    scene.use()
    assert scene.heard[-1] == "ready"


# -- when it can't be reached --------------------------------------------------------------------------


def test_when_it_can_not_be_reached_everybody_is_told_the_cause_and_one_dials():
    scene = Scene()
    error = scene.next = OSError("refused")

    for _ in range(3):
        with pytest.raises(BackendUnavailable, match="refused") as caught:
            scene.use()
        assert caught.value.__cause__ is error

    assert len(scene.dialed) == 1
    assert (scene.lost, scene.heard) == (1, [error])


def test_who_waits_for_a_turn_is_turned_away_when_it_can_not_be_reached():
    dialing, fail = threading.Event(), threading.Event()

    def dial(until):
        dialing.set()
        assert fail.wait(LONG)
        raise OSError("refused")

    scene = Scene(max_size=1, acquire_timeout=LONG, dial=dial)
    first = Task(scene.use)
    assert dialing.wait(LONG)
    waiter = Task(scene.use)
    eventually(lambda: scene.lender.waiting == 1)
    fail.set()

    assert isinstance(first.end(), BackendUnavailable)
    assert isinstance(waiter.end(), BackendUnavailable)


def test_while_another_connection_lives_it_is_the_dialing_that_failed_and_not_the_server():
    scene = Scene()
    scene.lender.lend(NEVER)
    scene.next = OSError("too many connections")

    with pytest.raises(OSError, match="too many connections"):
        scene.use()

    assert scene.node.outage.cause is None


def test_a_deadline_that_passes_while_dialing_does_not_take_it_down():
    deadline = Deadline.after(0.01)

    def dial(until):
        eventually(lambda: until.expired)
        raise TimeoutError("no answer")

    scene = Scene(dial=dial)
    with pytest.raises(DeadlineExceeded) as caught:
        scene.use(deadline)

    assert caught.value.stage == "connecting"
    assert scene.node.outage.cause is None


def test_a_probe_brings_it_back_with_the_connection_it_opened():
    scene = Scene()
    scene.next = OSError("refused")
    with pytest.raises(BackendUnavailable):
        scene.use()
    scene.next = None

    probe(scene)

    assert scene.heard[-1] == "ready"
    assert scene.use() is scene.conns[0]
    assert len(scene.conns) == 1


def test_a_probe_in_vain_says_so_and_leaves_it_down():
    scene = Scene()
    scene.next = OSError("refused")
    with pytest.raises(BackendUnavailable):
        scene.use()
    scene.next = OSError("still refused")

    probe(scene)

    assert scene.lost == 2
    with pytest.raises(BackendUnavailable, match="still refused"):
        scene.use()


def test_one_probe_at_a_time_looks():
    looking, go = threading.Event(), threading.Event()
    dialed = []

    def dial(until):
        dialed.append(until)
        if len(dialed) > 1:
            looking.set()
            assert go.wait(LONG)
        raise OSError("refused")

    scene = Scene(dial=dial)
    with pytest.raises(BackendUnavailable):
        scene.use()
    for _ in range(3):
        scene.node._prober.probe()
    assert looking.wait(LONG)
    go.set()
    scene.node.join(NEVER)

    assert len(dialed) == 2


def test_what_only_a_person_can_mend_is_said_to_be_so():
    scene = Scene(hopeless=True)
    scene.next = OSError("wrong password")

    with pytest.raises(BackendUnavailable, match="does not retry this by itself") as caught:
        scene.use()

    assert caught.value.retry_after is None


def test_what_came_back_before_an_outage_has_to_answer_after_it():
    held = []

    def dial(until):
        if not held:
            return Conn()
        scene.lender.take_back(*held[0])
        held[0][1].hung_up = lambda: True
        raise OSError("refused")

    scene = Scene(dial=dial)
    held.append(scene.lender.lend(NEVER))
    with pytest.raises(BackendUnavailable):
        scene.use()
    scene.node.outage.up()

    conn = scene.use()
    assert conn is held[0][1]
    assert conn.asked == 1


def test_if_so_told_callers_wait_an_outage_out():
    scene = Scene(waits_out=True, acquire_timeout=LONG)
    scene.next = OSError("refused")
    task = Task(scene.use)
    eventually(lambda: scene.lender.waiting == 1)
    scene.next = None

    probe(scene)

    assert task.result() is scene.conns[0]


# -- the end -------------------------------------------------------------------------------------------


def test_a_retired_node_says_why_to_those_who_wait_and_those_who_come():
    scene = Scene(max_size=1, acquire_timeout=LONG)
    lease, conn = scene.lender.lend(NEVER)
    waiter = Task(scene.use)
    eventually(lambda: scene.lender.waiting == 1)
    assert not scene.node.retired

    scene.node.retire("it was not needed for long")

    assert scene.node.retired
    error = waiter.end()
    assert isinstance(error, BackendUnavailable)
    assert str(error) == "pool 'db': it was not needed for long"
    scene.lender.take_back(lease, conn)
    assert conn.retired
    with pytest.raises(BackendUnavailable, match="it was not needed for long"):
        scene.use()


def test_retiring_closes_what_is_idle_and_tells_why():
    scene = Scene()
    conn = scene.use()

    scene.node.retire("it was not needed for long")

    assert conn.retired
    assert scene.heard == ["ready", "it was not needed for long"]


def test_retired_while_it_is_dialed_it_is_not_said_to_be_away():
    dialing, fail = threading.Event(), threading.Event()

    def dial(until):
        dialing.set()
        assert fail.wait(LONG)
        raise OSError("refused")

    scene = Scene(dial=dial)
    task = Task(scene.use)
    assert dialing.wait(LONG)
    scene.node.retire("it moved")
    fail.set()

    error = task.end()
    assert isinstance(error, BackendUnavailable)
    assert str(error) == "pool 'db': it moved"
    assert scene.lost == 0


def test_a_stopped_node_is_closed_to_all():
    scene = Scene()
    lease, lent = scene.lender.lend(NEVER)
    idle = scene.use()

    (holder,) = scene.node.stop(Deadline.after(0.0))

    assert holder.thread is threading.current_thread()
    assert scene.node.retired
    assert idle.retired
    with pytest.raises(PoolClosed):
        scene.use()
    scene.lender.take_back(lease, lent)
    assert lent.retired


def test_joining_waits_for_a_probe_no_longer_than_it_is_told():
    looking, go = threading.Event(), threading.Event()

    def dial(until):
        looking.set()
        assert go.wait(LONG)
        raise OSError("refused")

    scene = Scene(dial=dial)
    scene.node.outage.down(OSError("refused"))
    scene.node.outage._look()
    assert looking.wait(LONG)

    began = monotonic()
    scene.node.join(Deadline.after(0.01))
    assert monotonic() - began < 1.0
    go.set()
    scene.node.join(NEVER)
    assert not scene.node._prober.is_looking


def test_in_a_forked_child_nothing_of_the_parents_is_touched():
    scene = Scene()
    lease, lent = scene.lender.lend(NEVER)
    idle = scene.use()

    scene.node.abandon()
    scene.lender.take_back(lease, lent)

    for conn in (lent, idle):
        assert (conn.disowned, conn.retired, conn.is_connected) == (1, False, True)


def test_a_pool_timeout_names_the_node_and_its_holder():
    scene = Scene(max_size=1, acquire_timeout=0.01)
    lease, conn = scene.lender.lend(NEVER)

    with pytest.raises(PoolTimeout, match="pool 'db': no connection") as caught:
        scene.use()

    assert caught.value.holders[0].thread is threading.current_thread()
    scene.lender.take_back(lease, conn)


def test_its_repr_says_how_it_is():
    scene = Scene()
    assert repr(scene.node) == "<Node 'db' up, 0 connections>"
    scene.next = OSError("refused")
    with pytest.raises(BackendUnavailable):
        scene.use()
    assert repr(scene.node) == "<Node 'db' down, 0 connections>"
    scene.node.retire("it moved")
    assert repr(scene.node) == "<Node 'db' over, 0 connections>"
