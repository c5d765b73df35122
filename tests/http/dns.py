"""Names that resolve as scripted."""

from __future__ import annotations

import socket
import threading
from typing import Any

PATIENCE = 30.0


class Hang:
    """A lookup that takes as long as the test wants."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.asked = threading.Event()
        self._addresses = addresses
        self._released = threading.Event()

    def release(self) -> None:
        """Let all lookups that hang, and those to come, have their answer."""
        self._released.set()

    def wait(self) -> tuple[str, ...]:
        """Tell that it was asked for, and return the addresses when it is released."""
        self.asked.set()
        if not self._released.wait(PATIENCE):
            raise socket.gaierror(socket.EAI_AGAIN, "nobody released the lookup")
        return self._addresses


class ScriptedDns:
    """Stands in for ``socket.getaddrinfo``: names that it knows are answered as told, others as ever.

    Each of these methods says what becomes of a name, in place of what was said before.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []  # names that it knows
        self._real = socket.getaddrinfo
        self._names: dict[str, list[tuple[str, ...] | OSError | Hang]] = {}
        self._hangs: list[Hang] = []

    def answers(self, name: str, *addresses: str) -> None:
        """Have it resolve to these, in this order."""
        self._names[name] = [addresses]

    def changes(self, name: str, *lookups: str) -> None:
        """Have each lookup give the next address, and the last one ever after."""
        self._names[name] = [(address,) for address in lookups]

    def fails(self, name: str, error: OSError | None = None) -> None:
        """Have it not resolve: no such name, unless it is another *error*."""
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        self._names[name] = [error or unknown]

    def hangs(self, name: str, *addresses: str) -> Hang:
        """Have it hang, until what is returned is released; then it resolves to these, or fails for none."""
        hang = Hang(addresses)
        self._hangs.append(hang)
        self._names[name] = [hang]
        return hang

    def release(self) -> None:
        """Let go of all that hangs."""
        for hang in self._hangs:
            hang.release()

    def getaddrinfo(
        self,
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Look the name up."""
        name = host.decode() if isinstance(host, bytes) else host
        script = self._names.get(name)
        if script is None:
            return self._real(host, port, family, type, proto, flags)
        self.asked.append(name)
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Hang):
            answer = answer.wait()
        if isinstance(answer, OSError):
            raise answer.with_traceback(None)
        found: list[Any] = []
        for address in answer:
            of = socket.AF_INET6 if ":" in address else socket.AF_INET
            if family in (0, of):
                found += self._real(address, port, of, type, proto, flags)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found
