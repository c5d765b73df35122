"""A server that a test steers, and what stands between it and a Combiner: a store, flights and requests."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from time import monotonic, sleep

from poolkit.core import reading
from poolkit.core.combining import Combiner
from poolkit.core.deadline import NEVER
from poolkit.core.events import Events
from poolkit.core.housekeeper import Housekeeper
from poolkit.core.lease import LeaseBook
from poolkit.core.lending import Lender
from poolkit.core.outage import Outage
from poolkit.core.retry import Try
from poolkit.core.stats import Tally

from .support import LONG, Task, eventually


class Wrong(Exception):
    """An answer that is an error."""


class Cancelled(Exception):
    """The answer to a request that the server was told to stop."""


class Broken(Exception):
    """What breaks a connection."""


class Lost(Exception):
    """What the flight tells the owner of an unanswered request: ``at``, and the cause."""

    def __init__(self, at, cause):
        super().__init__(at, cause)
        self.at = at


class Overdue(Exception):
    """What the flight tells one whose deadline has passed: whether the server has stopped."""

    def __init__(self, at, stopped):
        super().__init__(at, stopped)
        self.at, self.stopped = at, stopped


class Asked:
    """A request; one that is *held* is answered when the test says so."""

    def __init__(self, server, tag, *, held=False, answer=None, fits=True):
        self.server = server
        self.tag = tag
        self.held = held
        self.answer = tag if answer is None else answer
        self.fits = fits
        self.pause = 0.0  # seconds that the server takes
        self.cancelled = False  # whether it is cancelled in place of another one, once
        self.ran = 0  # how often its effect took place
        self.by = None  # the thread that read the answer

    def __repr__(self):
        return f"<{self.tag}>"

    def alone(self, conn, silence):
        self.server.note([self.tag], conn)
        if self.server.tells_silence and not self.server.wait_for(self, reading.SILENCE):
            silence()
        conn.owes = True
        assert self.server.wait_for(self, LONG), "never answered"
        conn.owes = False
        self.ran += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def pack(self):
        if isinstance(self.fits, Exception):
            raise self.fits
        return self.fits


class Flight:
    """Requests under way on one connection."""

    def __init__(self, server, conn, asked):
        self.server = server
        self.conn = conn
        self.asked = asked
        self.answered = 0
        self.patience = server.patience
        if server.launch_error is not None:
            raise server.launch_error

    def send(self):
        self.conn.owes = True
        self.server.note([each.tag for each in self.asked], self.conn)
        if self.server.send_error is not None:
            error, self.server.send_error = self.server.send_error, None
            raise error

    def receive(self, until):
        assert self.conn.lease is not None, "read by one who has no lease"
        answers = []
        if self.asked[self.answered].pause:
            pause, self.asked[self.answered].pause = self.asked[self.answered].pause, 0.0
            self.server.delay(self.asked[self.answered], pause)
        self.server.wait_for(self.asked[self.answered], min(LONG, until - monotonic()))
        for asked in self.asked[self.answered :]:
            if asked.held or (asked.pause and answers):
                break
            if isinstance(asked.answer, Broken):
                if answers:
                    break
                raise Broken(*asked.answer.args)  # a new one, which refers to nothing later
            asked.by = threading.current_thread()
            if asked.cancelled or isinstance(asked.answer, Cancelled):
                asked.cancelled = False
                answers.append(Cancelled())
                asked.answer = asked.tag  # when it is asked again
            else:
                asked.ran += 1
                answers.append(asked.answer)
        self.answered += len(answers)
        return answers

    def stop(self, until):
        self.server.stops.append(self.asked[self.answered].tag)
        assert self.conn.lease is not None, "the connection has been given back"
        if self.server.stoppable:
            self.server.answer(self.asked[self.answered], Cancelled())
        return self.server.stoppable

    def not_run(self, answer):
        return isinstance(answer, Cancelled)

    def end(self):
        self.conn.owes = False
        return True

    def silent(self):
        return Broken("silent")

    def lost(self, at, error):
        return Lost(at, error)

    def overdue(self, at, deadline, *, stopped):
        return Overdue(at, stopped)


class Connection:
    """A connection that reports when it is collected while lent."""

    lease = None

    def __init__(self, server, number):
        self.server = server
        self.number = number
        self.owes = False

    def __del__(self):
        if self.lease is not None:
            self.server.book.forgotten.append((self.lease, self))


class Server:
    """The server, the store of its connections, and a combiner over them."""

    def __init__(self, lanes=1, *, size=None, acquire_timeout=LONG, max_waiting=1000):
        self.sent = []  # the tags of each batch
        self.numbers = []  # of the connections that they were sent on
        self.stops = []  # the tags of what was to be stopped
        self.discarded = 0
        self.lost_at_gate = 0
        self.tells_silence = False
        self.stoppable = False
        self.patience = LONG
        self.launch_error = self.send_error = self.take_error = None
        self.idle = deque()
        self._made = itertools.count()
        self.book = LeaseBook()
        self.tally = Tally()
        events = Events("db", ())
        self.lender = Lender(
            "db",
            max_size=size or lanes,
            max_waiting=max_waiting,
            acquire_timeout=acquire_timeout,
            book=self.book,
            store=self,
            outage=Outage("db", Housekeeper(), events=events, probe=lambda: None),
            tally=self.tally,
            events=events,
        )
        self.combiner = Combiner(
            self.lender,
            lanes=lanes,
            launch=lambda conn, asked: Flight(self, conn, asked),
            tally=self.tally,
        )

    # -- the store --

    def take(self, deadline, patience):
        if self.take_error is not None:
            error, self.take_error = self.take_error, None
            raise error
        try:
            return self.idle.popleft()
        except IndexError:
            return Connection(self, next(self._made))

    def put(self, connection):
        if connection.owes:
            self.discarded += 1
        else:
            self.idle.append(connection)

    def discard(self, connection):
        self.discarded += 1

    # -- the server --

    def note(self, tags, conn):
        self.numbers.append(conn.number)
        self.sent.append(tags)

    def wait_for(self, asked, seconds):
        """Wait until *asked* is not held; return whether it is not.

        By looking: one who is interrupted as it enters a Condition leaves its lock locked for good.
        """
        end = monotonic() + seconds
        while asked.held:
            if monotonic() >= end:
                return False
            sleep(0.000_5)
        return True

    def delay(self, asked, seconds):
        """Hold *asked* for a while."""
        asked.held = True
        timer = threading.Timer(seconds, self.answer, [asked])
        timer.daemon = True
        timer.start()

    def answer(self, asked, *answer):
        """Answer what is held."""
        if answer:
            (asked.answer,) = answer
        asked.held = False

    # -- what tests do --

    def asked(self, tag, **how):
        return Asked(self, tag, **how)

    def ask(self, asked, deadline=NEVER):
        """Ask in this thread."""
        return self.combiner.ask(asked, Try(), deadline)

    def start(self, asked, deadline=NEVER):
        """Ask in a thread of its own that has begun to."""
        return Task(self.ask, asked, deadline, name=asked.tag)

    def occupy(self, number=1, *, within=LONG):
        """Take *number* turns by lone requests; return them, to be answered, and their threads."""
        holders = []
        for each in range(number):
            asked = self.asked(f"alone {each}", held=True)
            before = len(self.sent)
            task = self.start(asked)
            eventually(lambda before=before: len(self.sent) > before, within)
            holders.append((asked, task))
        return holders

    def queue(self, *asked, deadline=NEVER):
        """Have all of *asked* wait, in this order."""
        tasks = []
        for each in asked:
            before = self.lender.gathered()
            tasks.append(self.start(each, deadline))
            eventually(lambda before=before: self.lender.gathered() == before + 1)
        return tasks

    def waits(self, asked):
        """Whether *asked* is in the queue."""
        return any(request.asked is asked for request in self.combiner._queue.copy())

    def free(self, holders):
        """Answer those who occupy turns, and wait until they are gone."""
        for asked, task in holders:
            self.answer(asked)
            assert task.result() == asked.tag

    def forget_slowness(self, lanes=1):
        """Let as many lead as in the beginning: what was slow has let more."""
        assert self.combiner._pace.lanes > lanes
        self.combiner._pace.lanes = lanes

    def assert_at_rest(self, lanes=1, *, within=LONG):
        """Nothing is held, nobody waits, and as many can lead as before."""
        self.lender.reclaim()
        assert len(self.book) == 0
        assert self.lender.waiting == 0
        assert repr(self.combiner) == "<Combiner of 'db': 0 lead, 0 wait>"
        holders = self.occupy(lanes, within=within)  # each has a turn, or it would not be sent
        (late,) = self.queue(self.asked("late"))  # and these were all
        self.free(holders)
        assert late.result() == "late"
        assert self.lender.gate.in_use == self.lost_at_gate
