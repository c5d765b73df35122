"""A private Firestore: Google's emulator, where the Cloud SDK or the Firebase CLI has put it."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from .process import EmbeddedError, Home
from .server import Server

JAR = "cloud-firestore-emulator*.jar"
MAIN = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
PROJECT = "poolkit"
"""The project that it is reset for where none is named; it serves any."""

ANSWER_TIMEOUT = 5.0
FLAGS = (
    "-Duser.language=en",  # it knows its own messages in English only
    "-XX:-UsePerfData",  # a file in /tmp that a kill would leave behind
    "-XX:+UseSerialGC",
    "-XX:MaxRAMPercentage=15",
)
HOW_TO_GET_IT = (
    "install the Cloud SDK's with `gcloud components install cloud-firestore-emulator` or "
    "`apt-get install google-cloud-cli-firestore-emulator`, or the Firebase CLI's with "
    "`npx firebase-tools setup:emulators:firestore`"
)


def firestore(*, startup_timeout: float = 60.0) -> FirestoreServer:
    """Run a private Firestore emulator for the length of a block, which gets its ``host:port``.

    It listens on 127.0.0.1, keeps what it is told in memory, and is gone when the block ends, or when this process
    does, whatever ended it. Raises :class:`EmbeddedError` if there is none on this machine, or no Java to run it with,
    which says how to get it; and, with its log, if it can't be started within *startup_timeout* seconds. For more
    than the address, keep the :class:`FirestoreServer` itself.
    """
    return FirestoreServer(startup_timeout=startup_timeout)


class FirestoreServer(Server):
    """A private Firestore emulator, with the switches that a test needs: reset, kill, freeze, start again.

    A context manager, whose block gets the address. Not for several threads at a time. A fork of the owning process
    can connect to it, but neither control nor end it. What it holds is gone with each stop.
    """

    product = "The Firestore emulator"

    def __init__(self, *, startup_timeout: float = 60.0) -> None:
        super().__init__(startup_timeout=startup_timeout)
        self._java = Path()
        self._jar = Path()
        self._tried = 0
        """The port that it was last started on."""

    def __enter__(self) -> str:
        self.start()
        return self.emulator_host

    @property
    def emulator_host(self) -> str:
        """Its address, as ``FIRESTORE_EMULATOR_HOST`` has it; it stays the same over a restart."""
        return f"127.0.0.1:{self.port}"

    def reset(self, project: str = PROJECT, database: str = "(default)") -> None:
        """Delete all documents of a project's database."""
        path = f"/emulator/v1/projects/{quote(project)}/databases/{quote(database)}/documents"
        status, said = _ask(self.port, "DELETE", path)
        if status != http.client.OK:
            raise EmbeddedError(f"{self.product} did not reset {project!r}: {status} {said}")

    def stop(self, *, timeout: float = 30.0) -> None:
        """Shut it down, and wait for its end.

        Raises :class:`EmbeddedError` if it still runs after *timeout* seconds.
        """
        self._shut_down(signal.SIGTERM, timeout, called="a shutdown")

    def restart(self) -> None:
        """Stop it and start it again, on the same port, empty."""
        self.stop()
        self.start()

    def _make_home(self) -> Home:
        # It leaves nothing that isn't in its folder, and that is removed: no need to be polite.
        return Home("firestore", polite=signal.SIGKILL, demoted=False)

    def _create(self, home: Home) -> None:  # noqa: ARG002
        self._jar = find_jar()
        self._java = find_java()

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        self._tried = port
        options = [*FLAGS, f"-Djava.io.tmpdir={home.path}"]
        address = ["--host=127.0.0.1", f"--port={port}"]
        if _starts_by_itself(self._jar):
            return [self._java, *options, "-jar", self._jar, *address]
        return [self._java, *options, "-cp", self._jar, MAIN, "start", *address]

    def _is_ready(self, home: Home) -> bool:  # noqa: ARG002
        try:
            return _ask(self._tried, "GET", "/") == (http.client.OK, "Ok")
        except EmbeddedError:
            return False  # it doesn't listen yet


def find_jar() -> Path:
    """Return the emulator's program. Raises :class:`EmbeddedError`, which says how to get it."""
    looked = []
    for folder in _folders():
        looked.append(str(folder))
        if found := sorted(folder.glob(JAR), key=_version):
            return found[-1]
    raise EmbeddedError(
        f"the Firestore emulator was not found in {' or '.join(looked)}: {HOW_TO_GET_IT}"
    )


def find_java() -> Path:
    """Return the ``java`` to run it with. Raises :class:`EmbeddedError`, which says how to get it."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home, "bin"))) if home else None
    found = found or shutil.which("java")
    if found is None:
        raise EmbeddedError(
            "the Firestore emulator needs Java 11 or newer, and there is no java in JAVA_HOME or on "
            "the PATH: `apt-get install default-jre-headless`, or see https://adoptium.net"
        )
    return Path(found)


def _folders() -> Iterator[Path]:
    """Yield the folders in which it may be."""
    gcloud = shutil.which("gcloud")
    roots = [Path(gcloud).resolve().parents[1]] if gcloud else []
    roots += [Path("/usr/lib/google-cloud-sdk"), Path.home() / "google-cloud-sdk"]
    for root in dict.fromkeys(roots):
        yield root / "platform" / "cloud-firestore-emulator"
    firebase = os.environ.get("FIREBASE_EMULATORS_PATH")
    yield Path(firebase) if firebase else Path.home() / ".cache" / "firebase" / "emulators"


def _version(jar: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", jar.stem)]


def _starts_by_itself(jar: Path) -> bool:
    """Whether the jar names its main class, as the Firebase CLI's does, and the Cloud SDK's does not."""
    try:
        with zipfile.ZipFile(jar) as archive:
            return b"Main-Class:" in archive.read("META-INF/MANIFEST.MF")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise EmbeddedError(f"{jar} can't be read: {error}; {HOW_TO_GET_IT}") from None


def _ask(port: int, method: str, path: str) -> tuple[int, str]:
    """Return status and text of the answer to a request. Raises :class:`EmbeddedError` for none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(1000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise EmbeddedError(f"the Firestore emulator doesn't answer: {error}") from None
    finally:
        connection.close()
