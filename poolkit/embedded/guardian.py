"""Look after the processes of an embedded server, and end them when their owner is gone.

Run as a script it is the guardian: a small process of its own, that waits for the end of the process
that owns a server, however it ends, then ends the server and removes its folder. It imports only the
standard library, and little of that, so that it is up in milliseconds and depends on nothing.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

PID_FILE = "pid"
OWNER_POLL = 0.5  # seconds between looks at the owner, for when something else keeps its pipe open
STOPPED, ENDED = "T", "ZX"  # letters of /proc/<pid>/stat and ps
PATIENCE = 5.0  # seconds for a server to end by itself before it is killed, and to be gone then


def family(pid: int) -> list[int]:
    """Return *pid* and its descendants, as far as they run; a zombie doesn't."""
    parents = {child: parent for child, parent, state in processes() if state not in ENDED}
    members = [pid] if pid in parents else []
    for member in members:  # grows while it is walked
        members += [child for child, parent in parents.items() if parent == member]
    return members


def freeze(pid: int) -> list[int]:
    """Stop *pid* and its descendants with SIGSTOP; return them.

    The first is stopped before the others are looked for, so that it can't make new ones meanwhile.
    """
    send([pid], signal.SIGSTOP)
    wait_for(lambda: none_runs([pid], but=STOPPED + ENDED), 1.0)
    members = family(pid)
    send(members, signal.SIGSTOP)
    wait_for(lambda: none_runs(members, but=STOPPED + ENDED), 1.0)
    return members


def thaw(pid: int) -> None:
    """Let *pid* and its descendants go on, the first one last."""
    send(reversed(family(pid)), signal.SIGCONT)


def kill(pid: int) -> None:
    """Kill *pid* and its descendants at once, and wait until they are gone."""
    members = freeze(pid)
    send(members, signal.SIGKILL)
    wait_for(lambda: none_runs(members), PATIENCE)


def end(pid: int, polite: int) -> None:
    """End *pid* and its descendants: by the signal *polite*, and by force where that takes too long."""
    members = family(pid)
    thaw(pid)
    send(members, polite)  # to all, since initdb alone would take its time
    if not wait_for(lambda: none_runs(members), PATIENCE):
        kill(pid)
        send(members, signal.SIGKILL)  # those that outlived their parent


def send(pids: Iterable[int], signum: int) -> None:
    """Send the signal to each of *pids* that is still there."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue  # it is gone; the number may already be another's


def wait_for(condition: Callable[[], bool], timeout: float, poll: float = 0.005) -> bool:
    """Wait until *condition* holds, for *timeout* seconds at most; return whether it does."""
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= give_up:
            return False
        time.sleep(poll)
    return True


def none_runs(pids: Iterable[int], but: str = ENDED) -> bool:
    """Tell whether each of *pids* is gone, or in one of the states *but*."""
    return all(state in but for _, _, state in processes(pids))


def processes(pids: Iterable[int] | None = None) -> Iterable[tuple[int, int, str]]:
    """Yield pid, parent and the state's letter of all processes, or of those of *pids* that exist."""
    if not os.path.exists("/proc/self/stat"):
        wanted = None if pids is None else set(pids)
        yield from (each for each in _listing() if wanted is None or each[0] in wanted)
        return
    for pid in (
        (int(name) for name in os.listdir("/proc") if name.isdigit()) if pids is None else pids
    ):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
                # The command, in parentheses, may itself have spaces and parentheses.
                state, parent = stat.read().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield pid, int(parent), state


def _listing() -> Iterable[tuple[int, int, str]]:
    command = ["ps", "-A", "-o", "pid=,ppid=,state="]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    for line in found.stdout.splitlines():
        pid, parent, state = line.split()[:3]
        yield int(pid), int(parent), state[0]


def watch(owner: int) -> None:
    """Return when the owner is gone, or lets us go by closing the pipe that is our standard input."""
    while os.getppid() == owner:
        readable, _, _ = select.select([0], [], [], OWNER_POLL)
        if readable and not os.read(0, 1):
            return


def clear(folder: str, polite: int) -> None:
    """End the server that lives in *folder*, if one does, and remove the folder."""
    doomed = f"{folder}.doomed"
    try:
        # From here on none can start: whoever starts one first writes its pid into the folder.
        os.rename(folder, doomed)
    except FileNotFoundError:
        return  # the owner did it
    pid = _read_pid(os.path.join(doomed, PID_FILE))
    # Every server leads a session of its own; a process that was given its number since does not.
    if pid and _session(pid) == pid:
        end(pid, polite)
    wait_for(lambda: _removed(doomed), 1.0, poll=0.1)


def _removed(folder: str) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not os.path.exists(folder)


def _read_pid(path: str) -> int | None:
    found: list[int] = []

    def look() -> bool:
        try:
            with open(path, encoding="ascii") as file:
                text = file.read()
        except FileNotFoundError:
            return True  # nothing was started
        if text.endswith("\n"):  # else it is being written at this moment
            found.append(int(text))
        return bool(found)

    wait_for(look, 1.0)
    return found[0] if found else None


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def main(owner: str, folder: str, polite: str) -> None:
    """Outlive the process *owner*, then clear *folder*."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # our end is the owner's, no other
    watch(int(owner))
    clear(folder, int(polite))


if __name__ == "__main__":
    main(*sys.argv[1:])
