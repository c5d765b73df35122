"""What a RedisPool can be told."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.credentials import CredentialProvider

from ..core import checks
from ..core.config import PoolConfig
from ..core.errors import ConfigError
from ..core.retry import RetryPolicy
from .address import DEFAULT_SENTINEL_PORT, Address, Server, parse_list, parse_url

MAX_RETRIES = 3


@dataclass(frozen=True, kw_only=True)
class RedisConfig(PoolConfig):
    """Settings of a :class:`~poolkit.RedisPool`. Times are in seconds.

    Checked when built; :class:`~poolkit.ConfigError` names what is wrong. Its ``repr`` shows no password.
    One of ``url``, ``nodes`` and ``sentinels`` says where the servers are.

    ``url``
        ``redis://user:password@host:port/db``, ``rediss://`` for TLS, or ``unix:///path``.
    ``nodes``
        some nodes of a cluster, as ``host:port`` or URLs; the others are found through them.
    ``sentinels``, ``service``
        sentinels, as ``host:port`` or URLs, and the name under which they know the master.
    ``db``, ``username``, ``password``, ``credential_provider``
        for the servers, where the URL does not say it; the provider is one of redis-py's.
    ``sentinel_username``, ``sentinel_password``
        for the sentinels themselves.
    ``tls``, ``ca_file``, ``cert_file``, ``key_file``, ``verify``
        TLS, also for nodes and sentinels; the CA that has signed the servers' certificates (else the
        system's); a certificate of our own; whether to check the servers' certificates and names.
    ``max_size``
        connections open at most, to each node of a cluster.
    ``connect_timeout``, ``command_timeout``
        to connect and log in, and for the answer to a command; a command that blocks on purpose (BLPOP)
        gets its own time-out on top.
    ``ready_check``
        wait, before the first command, until the server has loaded its data.
    ``offline_queue``
        while the server is away, let up to ``max_waiting`` threads wait for it, each up to
        ``acquire_timeout``, or until its deadline if that comes first. Off: they fail at once.
    ``lazy_connect``
        connect at the first use; else ``open()`` connects, and raises if it can't.
    ``max_retries``
        shorthand for the attempts of ``retry``: how often to try again after a failure, by default 3 times.
    ``decode_responses``
        answers are ``str``; else ``bytes``.
    ``client_name``
        what ``CLIENT LIST`` shows.
    ``maintenance_notifications``
        ask a server that can announce its maintenance to do so.
    ``combine``, ``lanes``
        send single commands of many threads together, over at most so many connections (to each node of a
        cluster) as long as answers are quick; see :doc:`/combining`. Needs hiredis.
    """

    url: str = field(default="", repr=False)
    nodes: str | Sequence[str] = field(default=(), repr=False)
    sentinels: str | Sequence[str] = field(default=(), repr=False)
    service: str = "mymaster"
    db: int = 0
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    credential_provider: CredentialProvider | None = field(default=None, repr=False)
    sentinel_username: str = field(default="", repr=False)
    sentinel_password: str = field(default="", repr=False)
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True
    connect_timeout: float = 10.0
    command_timeout: float = 5.0
    ready_check: bool = True
    offline_queue: bool = True
    lazy_connect: bool = True
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(attempts=MAX_RETRIES + 1))
    max_retries: int | None = None
    decode_responses: bool = True
    client_name: str = ""
    maintenance_notifications: bool = False
    combine: bool = True
    lanes: int = 2

    servers: tuple[Server, ...] = field(init=False, repr=False, compare=False)
    """The server, the nodes or the sentinels, parsed."""
    context: ssl.SSLContext | None = field(init=False, repr=False, compare=False, default=None)
    """What TLS connections are made with; None without TLS."""

    def __post_init__(self) -> None:
        super().__post_init__()
        address = self._parse()
        self._set(servers=address.servers)
        self._set(tls=checks.flag("tls", self.tls) or address.tls)
        if address.db is not None:
            if self.db not in (0, address.db):
                raise ConfigError("db is given twice, in the address and by itself")
            self._set(db=address.db)
        checks.count("db", self.db)
        self._set_credentials(address)
        if not self.name:
            self._set(name=self._default_name())
        checks.seconds("connect_timeout", self.connect_timeout, zero=False)
        checks.seconds("command_timeout", self.command_timeout, zero=False)
        for name in ("ready_check", "offline_queue", "lazy_connect", "decode_responses", "combine"):
            checks.flag(name, getattr(self, name))
        checks.flag("maintenance_notifications", self.maintenance_notifications)
        if not _is_plain_word(checks.text("client_name", self.client_name)):
            raise ConfigError("client_name must have no spaces and no special characters")
        checks.count("lanes", self.lanes, at_least=1)
        if self.max_retries is not None:
            checks.count("max_retries", self.max_retries)
        self._set_tls()

    def __repr__(self) -> str:
        return self._describe(f"servers={[str(server) for server in self.servers]}")

    @property
    def is_cluster(self) -> bool:
        """Whether ``nodes`` were given."""
        return bool(self.nodes)

    @property
    def has_sentinels(self) -> bool:
        """Whether ``sentinels`` were given."""
        return bool(self.sentinels)

    @property
    def policy(self) -> RetryPolicy:
        """``retry`` with as many attempts as ``max_retries`` allows."""
        if self.max_retries is None:
            return self.retry
        return dataclasses.replace(self.retry, attempts=self.max_retries + 1)

    def _parse(self) -> Address:
        given = [name for name in ("url", "nodes", "sentinels") if getattr(self, name)]
        if len(given) != 1:
            have = " and ".join(given) if given else "none of them"
            raise ConfigError(f"give one of url, nodes and sentinels; there is {have}")
        if self.nodes:
            if self.db:
                raise ConfigError("a cluster has only database 0; leave db out")
            return parse_list("nodes", self.nodes)
        if self.sentinels:
            if not checks.text("service", self.service):
                raise ConfigError(
                    "service must be the name under which the sentinels know the master"
                )
            return parse_list("sentinels", self.sentinels, DEFAULT_SENTINEL_PORT)
        return parse_url(self.url)

    def _set_credentials(self, address: Address) -> None:
        for name in ("username", "password", "sentinel_username", "sentinel_password"):
            checks.text(name, getattr(self, name))
        prefix = "sentinel_" if self.sentinels else ""
        for name, value in (("username", address.username), ("password", address.password)):
            if value and getattr(self, prefix + name) not in ("", value):
                raise ConfigError(f"{prefix}{name} is given twice, in the address and by itself")
            if value:
                self._set(**{prefix + name: value})
        if self.username and not self.password:
            raise ConfigError("username is given, but no password")
        if self.credential_provider is not None:
            if not isinstance(self.credential_provider, CredentialProvider):
                raise ConfigError(
                    "credential_provider must be a redis.credentials.CredentialProvider, "
                    f"not {checks.kind(self.credential_provider)}"
                )
            if self.password:
                raise ConfigError("give a password or a credential_provider, not both")

    def _default_name(self) -> str:
        if self.sentinels:
            return f"redis {self.service}"
        where = str(self.servers[0])
        if self.nodes:
            return f"redis cluster {where}"
        return f"redis {where}/{self.db}"

    def _set_tls(self) -> None:
        checks.flag("verify", self.verify)
        files = [name for name in ("ca_file", "cert_file", "key_file") if getattr(self, name)]
        for name in files:
            checks.text(name, getattr(self, name))
        if not self.tls:
            if files or not self.verify:
                raise ConfigError(
                    f"{(files or ['verify'])[0]} is for TLS: use rediss:// or tls=True"
                )
            return
        if self.key_file and not self.cert_file:
            raise ConfigError("key_file needs cert_file")
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"ca_file can't be used: {error}") from None
        if self.cert_file:
            try:
                context.load_cert_chain(self.cert_file, self.key_file or None)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"cert_file and key_file can't be used: {error}") from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._set(context=context)


def _is_plain_word(text: str) -> bool:
    return all("!" <= char <= "~" for char in text)
