"""The embedded Firestore is found where it is, keeps to itself, does as told, and is gone in the end."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import poolkit.embedded
from poolkit import FirestorePool
from poolkit.core.errors import ConfigError
from poolkit.embedded import EmbeddedError, FirestoreServer, firestore, guardian
from tests.embedded.owners import SOON, go_on, gone, owner, told

module = sys.modules[FirestoreServer.__module__]
STARTS_FIRESTORE = """
    from poolkit.embedded import FirestoreServer
    server = FirestoreServer()
    server.start()
    tell(server.pid, server._home.path, server.emulator_host)
"""


def answers(host: str) -> bool:
    connection = http.client.HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().strip() == b"Ok"
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture
def pool(frail_firestore: FirestoreServer) -> Iterator[FirestorePool]:
    """Give a pool on an emulator that may be broken."""
    with FirestorePool(module.PROJECT, emulator_host=frail_firestore.emulator_host) as pool:
        yield pool


def test_the_function_wins_over_the_module_of_its_name() -> None:
    assert callable(poolkit.embedded.firestore)


def test_a_reset_empties_one_project(frail_firestore: FirestoreServer, pool: FirestorePool) -> None:
    with FirestorePool("other", emulator_host=frail_firestore.emulator_host) as other:
        pool.set("users/1", {"n": 1})
        other.set("users/1", {"n": 1})
        frail_firestore.reset()
        assert not pool.get("users/1").exists
        assert other.get("users/1").exists
        frail_firestore.reset("other")
        assert not other.get("users/1").exists


def test_its_address_outlives_a_kill_and_what_it_held_does_not(
    frail_firestore: FirestoreServer, pool: FirestorePool
) -> None:
    pool.set("users/1", {"n": 1})
    before = frail_firestore.emulator_host, frail_firestore.pid
    frail_firestore.kill()
    assert not answers(before[0])
    with pytest.raises(EmbeddedError, match="not running"):
        _ = frail_firestore.pid
    with pytest.raises(EmbeddedError, match="doesn't answer"):
        frail_firestore.reset()
    frail_firestore.start()
    frail_firestore.start()
    assert frail_firestore.emulator_host == before[0]
    assert frail_firestore.pid != before[1]
    assert answers(before[0])
    assert guardian.wait_for(pool.health_check, SOON)
    assert not pool.get("users/1").exists


def test_a_pause_lets_nothing_through(frail_firestore: FirestoreServer) -> None:
    frail_firestore.pause()
    assert not frail_firestore.runs
    frail_firestore.resume()
    assert frail_firestore.runs
    assert answers(frail_firestore.emulator_host)


def test_it_is_gone_with_the_block_and_with_an_owner_that_is_killed() -> None:
    with owner(STARTS_FIRESTORE, "time.sleep(60)") as owning:
        server = firestore()
        with server as host:
            pid, folder = server.pid, server._home.path  # type: ignore[union-attr]
            assert answers(host)
            assert f"on 127.0.0.1:{server.port}" in repr(server)
        assert gone(pid, folder)
        with pytest.raises(EmbeddedError, match="not started"):
            _ = server.emulator_host
        others_pid, others_folder, others_host = told(owning).split()
        assert answers(others_host)
        owning.kill()
    assert guardian.wait_for(lambda: gone(int(others_pid), Path(others_folder)), SOON)
    assert not answers(others_host)


def test_a_fork_that_ends_leaves_it_alone() -> None:
    script = """
        with server:
            child = os.fork()
            if child == 0:
                sys.exit(0)
            tell("child ended", os.waitpid(child, 0)[1])
            sys.stdin.readline()
            server.stop()
            tell(server.runs)
    """
    with owner(STARTS_FIRESTORE, script) as owning:
        pid, folder, host = told(owning).split()
        assert told(owning) == "child ended 0"
        assert answers(host)
        go_on(owning)
        assert told(owning) == "False"
    assert owning.returncode == 0
    assert gone(int(pid), Path(folder))


def test_where_there_is_none_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_folders", lambda: iter([tmp_path]))
    with pytest.raises(EmbeddedError, match="gcloud components install") as caught:
        firestore().start()
    assert str(tmp_path) in str(caught.value)
    assert "firebase-tools" in str(caught.value)


def test_without_java_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(module, "find_jar", lambda: Path("x.jar"))
    with pytest.raises(EmbeddedError, match="needs Java 11"):
        firestore().start()


def test_a_java_of_java_home_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert module.find_java() == java
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    assert module.find_java() != java


def test_it_is_found_through_the_link_of_gcloud_and_in_the_firebase_clis_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gcloud = tmp_path / "sdk" / "bin" / "gcloud"
    jar = (
        tmp_path / "sdk" / "platform" / "cloud-firestore-emulator" / "cloud-firestore-emulator.jar"
    )
    for file in (gcloud, jar):
        file.parent.mkdir(parents=True)
        file.touch()
    gcloud.chmod(0o755)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "gcloud").symlink_to(gcloud)
    monkeypatch.setenv("PATH", str(tmp_path / "link"))
    assert module.find_jar() == jar

    jar.unlink()
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    cache = tmp_path / "firebase"
    cache.mkdir()
    for version in ("1.9.0", "1.19.8", "1.18.2"):
        (cache / f"cloud-firestore-emulator-v{version}.jar").touch()
    monkeypatch.setenv("FIREBASE_EMULATORS_PATH", str(cache))
    monkeypatch.setattr(module.Path, "glob", _but_for("/usr/lib", module.Path.glob))
    assert module.find_jar().name == "cloud-firestore-emulator-v1.19.8.jar"


def _but_for(root: str, glob: object) -> object:
    """Return a ``glob`` that finds nothing below *root*."""

    def found(path: Path, pattern: str) -> Iterator[Path]:
        return iter(()) if str(path).startswith(root) else glob(path, pattern)  # type: ignore[operator]

    return found


def test_a_jar_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jar = tmp_path / "cloud-firestore-emulator.jar"
    jar.write_text("not found")
    monkeypatch.setattr(module, "_folders", lambda: iter([tmp_path]))
    with pytest.raises(EmbeddedError, match="can't be read"):
        firestore().start()
    assert not [each for each in os.listdir("/tmp") if each == jar.name]


@pytest.mark.parametrize("timeout", [0, float("nan")])
def test_a_timeout_that_makes_no_sense_is_refused(timeout: float) -> None:
    with pytest.raises(ConfigError, match="startup_timeout"):
        firestore(startup_timeout=timeout)
