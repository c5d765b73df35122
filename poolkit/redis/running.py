"""What a RedisPool needs to run, for one process: the parts, put together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import redis

from ..core.budget import RetryBudget
from ..core.deadline import Deadline, ambient
from ..core.errors import PoolKitError
from ..core.events import Events
from ..core.housekeeper import Timer, housekeeper
from ..core.lease import Holder
from ..core.lending import Lender
from ..core.retry import Retrier, Try
from ..core.stats import PoolStats, Tally
from ..core.verdict import Again, Phase
from .cluster import Cluster
from .commands import Argument, Command, Traits, traits_of
from .config import RedisConfig
from .connection import PooledConnection
from .failures import classify, classify_alone, part_has_run
from .node import RedisNode
from .sentinels import Sentinels
from .topology import Single, Topology

ResultT = TypeVar("ResultT")

SWEEP = 1.0
"""Seconds between looks at idle connections and at leases nobody can return."""


class Running:
    """What a RedisPool needs to run, for one process."""

    def __init__(self, config: RedisConfig) -> None:
        self.config = config
        self.tally = Tally()
        self.events = Events(config.name, config.listeners)
        self._stopping = threading.Event()
        self.topology = self._topology()
        self._classify = classify if config.is_cluster else classify_alone
        self.retrier = Retrier(
            config.policy,
            classify=self._classify,
            sleep=self._sleep,
            tally=self.tally,
            events=self.events,
        )
        self._sweeper: Timer = housekeeper().every(SWEEP, self.topology.sweep)

    # -- use -----------------------------------------------------------------------------------------

    def command(
        self,
        args: Sequence[Argument],
        traits: Traits,
        *,
        decode: bool = True,
        idempotent: bool = False,
    ) -> Any:
        """Return the reply to one command, sent again where that is safe."""
        deadline = ambient()
        topology = self.topology

        def attempt(state: Try) -> Any:
            return topology.command(args, traits, decode=decode, state=state, deadline=deadline)

        return self.retrier.call(
            attempt,
            idempotent=idempotent or traits.repeatable(args),
            deadline=deadline,
            operation=traits.name,
        )

    def batch(
        self,
        commands: Sequence[Command],
        *,
        idempotent: bool = False,
        check: Callable[[list[Any]], object] | None = None,
    ) -> list[Any]:
        """Return the replies to *commands*, sent in one round trip, and again where that is safe.

        Those that the server did not run are sent again one by one, after the others. It is all one operation, and
        what *check* raises of the replies is its error.
        """
        deadline = ambient()
        idempotent = idempotent or all(traits.repeatable(args) for args, traits in commands)

        def attempt(state: Try) -> list[Any]:
            return self.topology.batch(commands, state=state, deadline=deadline)

        def work() -> list[Any]:
            replies = self.retrier.repeat(attempt, idempotent, deadline, self.retrier.policy)
            self._run_the_rest(commands, replies, idempotent, deadline)
            if check is not None:
                check(replies)
            return replies

        return self.retrier.whole(work, "PIPELINE")

    def use(
        self,
        work: Callable[[PooledConnection], ResultT],
        args: Sequence[Argument],
    ) -> ResultT:
        """Return ``work(connection)``, which sends the command *args*, again where that is safe."""
        traits = traits_of(args)
        deadline = ambient()

        def attempt(state: Try) -> ResultT:
            node = self.topology.node_for(traits.first_key(args), deadline)
            return node.use(work, state=state, deadline=deadline)

        return self.retrier.call(
            attempt,
            idempotent=traits.repeatable(args),
            deadline=deadline,
            operation=traits.name,
        )

    # -- inspect and close ---------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """Return the pool's state and counters."""
        nodes = self.topology.nodes()
        return PoolStats.of(
            self.tally,
            name=self.config.name,
            max_size=self.config.max_size * max(1, len(nodes)),
            in_use=sum(len(node.lender.book) for node in nodes),
            waiting=sum(node.lender.waiting for node in nodes),
        )

    @property
    def lenders(self) -> Sequence[Lender[Any]]:
        """Who lends its connections, a server each."""
        return [node.lender for node in self.topology.nodes()]

    @property
    def budgets(self) -> Mapping[str, RetryBudget]:
        """What may be spent on retries."""
        return {self.config.name: self.retrier.budget}

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Lend nothing more, close what is there, and return who still holds."""
        self._sweeper.cancel()
        self._stopping.set()
        self.topology.end()
        held = [holder for node in self.topology.nodes() for holder in node.stop(deadline)]
        self.topology.join(deadline)  # last: who still holds needs the time more
        return held

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's."""
        self.topology.abandon()

    # -- private -------------------------------------------------------------------------------------

    def _topology(self) -> Topology:
        config = self.config
        if config.is_cluster:
            return Cluster(config, tally=self.tally, events=self.events)
        locate = Sentinels(config).master if config.has_sentinels else lambda _: config.servers[0]
        return Single(
            RedisNode(config.name, config, tally=self.tally, events=self.events, locate=locate)
        )

    def _run_the_rest(
        self,
        commands: Sequence[Command],
        replies: list[Any],
        idempotent: bool,
        deadline: Deadline,
    ) -> None:
        """Send again each of *commands* that the server did not run, and put its reply in the place of the other."""
        for at, (args, traits) in enumerate(commands):
            if not self._was_not_run(replies[at]):
                continue

            def attempt(
                state: Try, args: Sequence[Argument] = args, traits: Traits = traits
            ) -> Any:
                return self.topology.command(
                    args, traits, decode=True, state=state, deadline=deadline
                )

            try:
                replies[at] = self.retrier.repeat(
                    attempt,
                    idempotent or traits.repeatable(args),
                    deadline,
                    self.retrier.policy,
                )
            except redis.ResponseError as error:
                replies[at] = error
                if self._was_not_run(error):
                    break  # nor would the others be
            except (redis.RedisError, PoolKitError) as error:
                if idempotent or all(map(self._was_not_run, replies)):
                    raise
                raise part_has_run(error) from error

    def _was_not_run(self, reply: object) -> bool:
        """Whether *reply* says that the server would take the command at another time, or elsewhere."""
        if not isinstance(reply, redis.RedisError):
            return False
        return self._classify(reply, Phase.RUNNING).again is Again.SAFE

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)
