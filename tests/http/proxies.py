"""A forward proxy: absolute addresses over plain HTTP, and CONNECT for all else."""

from __future__ import annotations

import base64
import http.client
import select
import socket
import ssl
from collections.abc import Iterable
from urllib.parse import urlsplit

from tests.http.scripted import ClientGone, Conversation, Heard, ScriptedServer, response

HOP_BY_HOP = {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "transfer-encoding"}  # fmt: skip
PATIENCE = 10.0


class ForwardProxy(ScriptedServer):
    """Does what it is asked, for who has the *credentials* ``"user:password"``, if it wants any.

    :attr:`requests` has all that it was asked for, refused or not; of a tunnel, the CONNECT.
    """

    def __init__(
        self, *, credentials: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._credentials = credentials
        super().__init__(self._talk, tls=tls)

    @property
    def tunnels(self) -> list[str]:
        """The targets of all CONNECTs."""
        return [heard.target for heard in self.requests if heard.method == "CONNECT"]

    def _talk(self, talk: Conversation) -> None:
        while True:
            heard = talk.request()
            if not self._admits(heard):
                wants = [("Proxy-Authenticate", 'Basic realm="proxy"')]
                talk.send(response(status=407, reason="Who Are You", headers=wants))
            elif heard.method == "CONNECT":
                self._tunnel(talk, heard)
                return
            else:
                self._forward(talk, heard)

    def _admits(self, heard: Heard) -> bool:
        if self._credentials is None:
            return True
        wanted = "Basic " + base64.b64encode(self._credentials.encode()).decode()
        return heard.header("Proxy-Authorization") == wanted

    def _forward(self, talk: Conversation, heard: Heard) -> None:
        """Ask for it on a connection of its own, and answer in one piece."""
        address = urlsplit(heard.target)
        if address.scheme != "http" or address.hostname is None:
            talk.send(response(b"no absolute address", status=400, reason="Bad Request"))
            return
        onward = http.client.HTTPConnection(address.hostname, address.port or 80, timeout=PATIENCE)
        try:
            target = address.path or "/"
            onward.putrequest(
                heard.method,
                f"{target}?{address.query}" if address.query else target,
                skip_host=True,
                skip_accept_encoding=True,
            )
            for name, value in _passed_on(heard.headers):
                onward.putheader(name, value)
            onward.endheaders(heard.body)
            answer = onward.getresponse()
            body = answer.read()
        except OSError as error:
            talk.send(response(str(error).encode(), status=502, reason="Bad Gateway"))
            return
        finally:
            onward.close()
        fields = [each for each in _passed_on(answer.getheaders()) if each[0].lower() != "content-length"]  # fmt: skip
        stated = answer.getheader("Content-Length")
        length = int(stated) if stated and heard.method == "HEAD" else None
        talk.send(
            response(
                body, status=answer.status, reason=answer.reason, headers=fields, length=length
            )
        )

    def _tunnel(self, talk: Conversation, heard: Heard) -> None:
        host, _, port = heard.target.rpartition(":")
        try:
            onward = socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE)
        except OSError as error:
            talk.send(response(str(error).encode(), status=502, reason="Bad Gateway"))
            return
        with onward:
            talk.send(b"HTTP/1.1 200 Connection Established\r\n\r\n")
            self._relay(talk.sock, onward)

    def _relay(self, client: socket.socket, onward: socket.socket) -> None:
        """Pass on what comes, until either side has said its last."""
        poll = select.poll()
        for sock in (client, onward, self._woken):
            poll.register(sock, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._woken.fileno() in ready:
                raise ClientGone
            for source, sink in ((client, onward), (onward, client)):
                if source.fileno() in ready and not _passed(source, sink):
                    return


def _passed_on(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]


def _passed(source: socket.socket, sink: socket.socket) -> bool:
    """Pass on what can be read; tell whether there may be more."""
    while True:
        if not (piece := source.recv(65536)):
            return False
        sink.sendall(piece)
        # What was decrypted already, no poll sees.
        if not (isinstance(source, ssl.SSLSocket) and source.pending()):
            return True
