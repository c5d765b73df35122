"""The embedded Redis has a TLS port, if asked for, that proves itself to who trusts its authority."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as driver

from poolkit.embedded import EmbeddedError, RedisServer, guardian, redis
from tests.embedded.owners import SOON, gone, owner, told

Maker = Callable[..., RedisServer]

MUCH = 8 << 20  # bytes; more than all buffers on the way hold


@contextmanager
def client_of(server: RedisServer, **options: Any) -> Iterator[driver.Redis]:
    usual = {"ssl_ca_certs": str(server.ca_file), "socket_timeout": 5, "retry": None}
    with driver.Redis.from_url(server.tls_url, **{**usual, **options}) as client:
        yield client


class TestTheCertificate:
    def test_is_good_for_who_trusts_its_authority(self, tls_redis: RedisServer) -> None:
        with client_of(tls_redis) as client:
            assert client.ping() is True

    def test_is_refused_by_who_does_not(self, tls_redis: RedisServer, tmp_path: Path) -> None:
        with client_of(tls_redis, ssl_ca_certs=None) as client:
            with pytest.raises(driver.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                client.ping()

    @pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
    def test_is_for_both_names_of_this_machine(self, tls_redis: RedisServer, name: str) -> None:
        port = int(tls_redis.tls_url.rpartition(":")[2].removesuffix("/0"))
        context = ssl.create_default_context(cafile=str(tls_redis.ca_file))
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            with context.wrap_socket(plain, server_hostname=name) as secured:
                secured.sendall(b"PING\r\n")
                assert secured.recv(100).startswith(b"-NOAUTH")

    def test_and_its_key_are_private(self, tls_redis: RedisServer) -> None:
        key = tls_redis.ca_file.with_name("certificate.pem")
        assert key.stat().st_mode & 0o777 == 0o600
        assert b"PRIVATE KEY" not in tls_redis.ca_file.read_bytes()


class TestThePort:
    def test_speaks_nothing_but_tls(self, tls_redis: RedisServer) -> None:
        plain = tls_redis.tls_url.replace("rediss://", "redis://")
        with driver.Redis.from_url(plain, socket_timeout=5, retry=None) as client:
            with pytest.raises(driver.ConnectionError):
                client.ping()

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_stays_the_same_over_a_restart(self, tls_redis: RedisServer, end: str) -> None:
        before = tls_redis.tls_url, tls_redis.ca_file.read_bytes()
        with client_of(tls_redis) as client:
            assert client.ping() is True
            getattr(tls_redis, end)()
            with pytest.raises(driver.ConnectionError):
                client.ping()
            with pytest.raises(driver.ConnectionError):
                client.ping()
            tls_redis.start()
            assert (tls_redis.tls_url, tls_redis.ca_file.read_bytes()) == before
            assert client.ping() is True

    def test_tells_nothing_while_the_server_is_frozen(self, tls_redis: RedisServer) -> None:
        with client_of(tls_redis) as client:
            client.ping()
            tls_redis.pause()
            with client_of(tls_redis, socket_timeout=0.2) as other:
                with pytest.raises(driver.TimeoutError):
                    other.ping()
            tls_redis.resume()
            assert client.ping() is True

    def test_passes_much_both_ways_at_the_same_time(self, tls_redis: RedisServer) -> None:
        """A client may send on while it reads nothing yet: the server keeps its answers."""
        context = ssl.create_default_context(cafile=str(tls_redis.ca_file))
        port = int(tls_redis.tls_url.rpartition(":")[2].removesuffix("/0"))
        payload = b"x" * (64 << 10)
        echo = b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(payload), payload)
        with socket.create_connection(("127.0.0.1", port), timeout=SOON) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as secured:
                secured.sendall(b"AUTH %b\r\n" % tls_redis.password.encode())
                assert secured.recv(5) == b"+OK\r\n"
                for _ in range(MUCH // len(payload)):
                    secured.sendall(echo)
                left = (MUCH // len(payload)) * (len(payload) + len(b"$65536\r\n\r\n"))
                while left:
                    left -= len(secured.recv(left))

    def test_serves_many_at_once(self, tls_redis: RedisServer) -> None:
        together = threading.Barrier(50)

        def work() -> None:
            with client_of(tls_redis, socket_timeout=SOON) as client:
                client.ping()
                together.wait(SOON)
                client.incr("n")

        workers = [threading.Thread(target=work) for _ in range(50)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert tls_redis.ask("GET", "n") == "50"


class TestItsEnd:
    def test_with_the_server(self) -> None:
        server = redis(tls=True)
        with server:
            proxy = server._proxy
            assert proxy._home is not None
            pid, folder = proxy.pid, proxy._home.path
            assert not gone(pid, folder)
        assert gone(pid, folder)

    def test_with_an_owner_that_is_killed(self) -> None:
        script = """
            from poolkit.embedded import RedisServer
            server = RedisServer(tls=True)
            server.start()
            tell(server.pid, server._home.path, server._proxy.pid, server._proxy._home.path)
            time.sleep(60)
        """
        with owner(script) as owning:
            pid, folder, proxy_pid, proxy_folder = told(owning).split()
            owning.kill()
        assert guardian.wait_for(lambda: gone(int(pid), Path(folder)), SOON)
        assert guardian.wait_for(lambda: gone(int(proxy_pid), Path(proxy_folder)), SOON)


class TestWithout:
    @pytest.mark.parametrize("name", ["tls_url", "ca_file"])
    def test_it_was_asked_for_there_is_none(self, redis_server: RedisServer, name: str) -> None:
        with pytest.raises(EmbeddedError, match="tls=True"):
            getattr(redis_server, name)

    def test_trustme_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "trustme", None)
        server = redis(tls=True)
        with pytest.raises(EmbeddedError, match=r"pip install 'poolkit\[embedded\]'"):
            server.start()
        with pytest.raises(EmbeddedError, match="not started"):
            _ = server.url

    def test_tls_trustme_is_not_loaded(self) -> None:
        script = """
            from poolkit.embedded import redis
            with redis():
                tell("trustme" in sys.modules, "ssl" in sys.modules)
        """
        with owner(script) as owning:
            assert told(owning).startswith("False")
