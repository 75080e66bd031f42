"""One connection to an etcd: calls with a deadline, paged reads, a new login when a token has lapsed.

Owns: addresses, TLS, user and password, and the step from gRPC's errors to ours. Must not know: records, claims, what
a key means. grpc, protobuf and etcd3 are imported by the first call, never before.
"""

import importlib
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from svcnet.model.errors import ConfigError, NotPermittedError, StoreError
from svcnet.store import etcd_messages

CALL_SECONDS = 5.0
"""The deadline of a call; etcd itself gives up after 5 s + 2 election timeouts."""
PAGE = 10_000
"""Keys a page: more are no faster, fewer cost a turn each (ADR 0005)."""
OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", -1),  # gRPC's 4 MiB is less than a page of large records
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3000),  # no pause: for so long may a connection take, with TLS and HTTP/2
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # a client that is closed and opened again is a new connection
)


class CompactedError(StoreError):
    """What was asked for is older than etcd's history."""


class Access(NamedTuple):
    """How to reach an etcd: `etcd://HOST:PORT[,HOST:PORT…]/PREFIX` and the --etcd-* options."""

    hosts: tuple[str, ...]
    prefix: str
    """Without a slash at its end."""
    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str = ""
    password_file: Path | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        cacert: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        user: str = "",
        password_file: Path | None = None,
    ) -> "Access":
        """Read a URL that svcnet.option_kind has let through. ConfigError: a host without a port, half a login."""
        hosts, _, prefix = url.removeprefix("etcd://").partition("/")
        for host in hosts.split(","):
            name, _, port = host.rpartition(":")
            if not name or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ConfigError(f"--records {url}: {host!r} has no port, expected HOST:PORT as in {host}:2379")
        if bool(user) != (password_file is not None):
            raise ConfigError("--etcd-user and --etcd-password-file: only one is given, expected both or neither")
        return cls(tuple(hosts.split(",")), prefix.rstrip("/"), cacert, cert, key, user, password_file)

    def __str__(self) -> str:
        """The URL without the prefix, as errors name it."""
        return f"etcd://{','.join(self.hosts)}"

    @property
    def is_secure(self) -> bool:
        """Whether TLS is asked for."""
        return self.cacert is not None or self.cert is not None


class Modules(NamedTuple):
    """What is imported late."""

    grpc: ModuleType
    etcd3: ModuleType
    rpc: ModuleType
    """etcd3.etcdrpc: messages and stubs."""


def modules() -> Modules:
    """Import gRPC and etcd3 with our messages; 70 to 200 ms the first time."""
    # Workers are started by exec, so gRPC's fork handlers would only warn; its log lines repeat what our errors say.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    grpc = importlib.import_module("grpc")
    rpc = etcd_messages.install()
    return Modules(grpc, importlib.import_module("etcd3"), rpc)


class EtcdClient:
    """Calls from any thread. Errors: StoreError (away), NotPermittedError (refused), ConfigError (bad certificates)."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._lock = threading.Lock()
        self._client: Any = None
        self._token: tuple[tuple[str, str], ...] = ()

    def range(self, **fields: Any) -> Any:
        """Return the RangeResponse of one RangeRequest."""
        return self._call(lambda client: client.kvstub.Range, modules().rpc.RangeRequest(**fields))

    def txn(self, compare: list[Any], success: list[Any], failure: list[Any]) -> Any:
        """Return the TxnResponse: `success` is done if all of `compare` hold, else `failure`."""
        request = modules().rpc.TxnRequest(compare=compare, success=success, failure=failure)
        return self._call(lambda client: client.kvstub.Txn, request)

    def pages(self, start: bytes, end: bytes, *, keys_only: bool = False) -> Iterator[Any]:
        """Yield RangeResponses of at most PAGE keys from `start` to before `end`, all of the first one's revision."""
        revision = 0
        while True:
            page = self.range(key=start, range_end=end, limit=PAGE, revision=revision, keys_only=keys_only)
            revision = revision or page.header.revision
            yield page
            if not page.more:
                return
            start = page.kvs[-1].key + b"\0"

    def grant(self, seconds: int) -> int:
        """Return a new lease of so many seconds."""
        request = modules().rpc.LeaseGrantRequest(TTL=seconds)
        return int(self._call(lambda client: _lease(client).LeaseGrant, request).ID)

    def keep_alive(self, lease: int) -> bool:
        """Whether a lease is still there; it begins anew then."""
        request = modules().rpc.LeaseKeepAliveRequest(ID=lease)

        def once(client: Any) -> Any:
            call = _lease(client).LeaseKeepAlive
            return lambda asked, timeout, metadata: next(call(iter([asked]), timeout, metadata=metadata))

        return bool(self._call(once, request).TTL > 0)

    def watch(self, requests: Iterator[Any]) -> Any:
        """Open a watch stream; iterating over it gives WatchResponses or raises what `error` translates."""
        client = self._connected()
        # hasleader: a member that lost the others ends the stream instead of staying silent.
        return modules().rpc.WatchStub(client.channel).Watch(requests, metadata=(*self._token, ("hasleader", "true")))

    def error(self, error: Any) -> StoreError | NotPermittedError:
        """Say an RpcError in our words."""
        code, details = error.code().name, error.details() or ""
        plain = re.sub(r".*last error: (?:[A-Z_]+: )?", "", details, flags=re.DOTALL)
        if code == "DEADLINE_EXCEEDED":
            plain = f"no answer within {CALL_SECONDS:g} s"
        text = f"{self.access}: {plain or code.lower().replace('_', ' ')}"
        if code == "OUT_OF_RANGE" and "compacted" in details:
            return CompactedError(text)
        refused = code in {"UNAUTHENTICATED", "PERMISSION_DENIED"} or "authentication failed" in details
        if refused or "user name is empty" in details:
            return NotPermittedError(
                f"{text}; needs --etcd-user and --etcd-password-file of a user with the right to it"
            )
        return StoreError(text)

    def close(self) -> None:
        """Give the connection up; the next call opens another."""
        with self._lock:
            client, self._client, self._token = self._client, None, ()
        if client is not None:
            client.close()

    def _call(self, stub: Callable[[Any], Any], request: Any) -> Any:
        rpc_error = modules().grpc.RpcError
        try:
            client = self._connected()
            try:
                return stub(client)(request, CALL_SECONDS, metadata=self._token or None)
            except rpc_error as error:
                if error.code().name != "UNAUTHENTICATED" or not self.access.user:
                    raise
            self._log_in(client)  # tokens lapse (JWT: after their time; simple ones: unused for 5 minutes)
            return stub(client)(request, CALL_SECONDS, metadata=self._token or None)
        except rpc_error as error:
            if error.code().name == "DEADLINE_EXCEEDED":
                self.close()  # a peer that vanished without a word: the next call connects anew
            raise self.error(error) from None

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                client = self._open()
                if self.access.user:
                    self._log_in(client)
                self._client = client
            return self._client

    def _open(self) -> Any:
        access = self.access
        target, options = _target(access), [*OPTIONS]
        if len(access.hosts) > 1 and access.is_secure:
            # The name to look for in certificates would else be the whole list.
            options.append(("grpc.ssl_target_name_override", access.hosts[0].rpartition(":")[0].strip("[]")))
        host, _, port = target.rpartition(":")
        cacert = access.cacert or (_system_certificates() if access.is_secure else None)
        try:
            return modules().etcd3.client(
                host=host,
                port=port,
                ca_cert=cacert,
                cert_cert=access.cert,
                cert_key=access.key,
                timeout=CALL_SECONDS,
                grpc_options=options,
            )
        except OSError as error:
            raise ConfigError(
                f"{error.filename}: {error.strerror}, expected a file of --etcd-cacert, --etcd-cert and --etcd-key"
            ) from None

    def _log_in(self, client: Any) -> None:
        """Get a token. etcd3's own login sends it as call credentials too, which gRPC refuses without TLS."""
        rpc, path = modules().rpc, self.access.password_file
        assert path is not None
        try:
            password = path.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"--etcd-password-file {path}: {error.strerror}") from None
        request = rpc.AuthenticateRequest(name=self.access.user, password=password)
        try:
            answer = rpc.AuthStub(client.channel).Authenticate(request, CALL_SECONDS)
        except modules().grpc.RpcError as error:
            if "authentication is not enabled" not in (error.details() or ""):
                raise self.error(error) from None
            self._token = ()
        else:
            self._token = (("token", answer.token),)


def _lease(client: Any) -> Any:
    return modules().rpc.LeaseStub(client.channel)


def _target(access: Access) -> str:
    """Return gRPC's name for the hosts: a list of several must be of addresses."""
    if len(access.hosts) == 1:
        return access.hosts[0]
    addresses = [_resolve(*host.rpartition(":")[::2]) for host in access.hosts]
    versions = {4 if family == socket.AF_INET else 6 for family, _ in addresses}
    if len(versions) > 1:
        raise ConfigError(f"{access}: expected addresses of one family where there is more than one host")
    return f"ipv{versions.pop()}:{','.join(text for _, text in addresses)}"


def _resolve(host: str, port: str) -> tuple[int, str]:
    """Return family and ADDRESS:PORT of a host. StoreError when it has no address now."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise StoreError(f"etcd://{host}:{port}: {error.strerror or error}") from None
    return family, f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"


def _system_certificates() -> Path:
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, paths.openssl_cafile):
        if path and Path(path).exists():
            return Path(path)
    raise ConfigError("--etcd-cert without --etcd-cacert: this system has no certificates of its own, name them")
