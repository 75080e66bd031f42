"""Getting at an etcd: URLs, TLS, user and password, and what is said when it refuses."""

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from svcnet.codec.writer import to_json
from svcnet.model.errors import ConfigError, NotPermittedError, StoreError
from svcnet.model.event import Away
from svcnet.store.etcd import EtcdStore
from svcnet.store.etcd_change import Change, commit
from svcnet.store.etcd_client import Access
from svcnet.store.etcd_keys import Keyspace
from tests.harness.ports import unused
from tests.store.etcd_server import EtcdServer, etcd_in
from tests.store.follower import ALLOCATION, Follower, addresses, key, listed, pod, run, service

PASSWORD = "open sesame"
TTL_SECONDS = 1


class Certificate(NamedTuple):
    """One that is signed by itself, good for a server on 127.0.0.1 and for a client."""

    cert: Path
    key: Path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    path = tmp_path_factory.mktemp("tls")
    made = Certificate(path / "cert.pem", path / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=svcnet"
    command += f" -addext subjectAltName=IP:127.0.0.1 -out {made.cert} -keyout {made.key}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def secure(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd that speaks TLS alone and asks for a client certificate."""
    options = [f"--cert-file={certificate.cert}", f"--key-file={certificate.key}"]
    options += [f"--trusted-ca-file={certificate.cert}", "--client-cert-auth"]
    yield from serving(EtcdServer(tmp_path_factory.mktemp("secure"), options, "https"))


@pytest.fixture(scope="module")
def guarded(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd with users whose tokens (JWT) lapse: root may do all, `reader` may read below `lab/`."""
    subprocess.run(
        f"openssl ec -in {certificate.key} -pubout -out {certificate.key}.pub".split(), check=True, capture_output=True
    )
    token = f"jwt,priv-key={certificate.key},pub-key={certificate.key}.pub,sign-method=ES256,ttl={TTL_SECONDS}s"
    server = etcd_in(tmp_path_factory, f"--auth-token={token}")
    for _ in serving(server):
        server.call("auth/role/add", {"name": "reader"})
        span = {"key": base64.b64encode(b"lab/").decode(), "range_end": base64.b64encode(b"lab0").decode()}
        server.call("auth/role/grant", {"name": "reader", "perm": {"permType": "READ", **span}})
        for user, role in (("root", "root"), ("reader", "reader")):
            server.call("auth/user/add", {"name": user, "password": PASSWORD})
            server.call("auth/user/grant", {"user": user, "role": role})
        server.call("auth/enable", {})
        yield server


def serving(server: EtcdServer) -> Iterator[EtcdServer]:
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return path


def test_a_url_is_hosts_and_a_prefix() -> None:
    access = Access.from_url("etcd://a:1/x/y/")
    assert (access.hosts, access.prefix, str(access)) == (("a:1",), "x/y", "etcd://a:1")
    assert Access.from_url("etcd://[::1]:2379,127.0.0.1:2379/x").hosts == ("[::1]:2379", "127.0.0.1:2379")


@pytest.mark.parametrize("url", ["etcd://h/p", "etcd://h:x/p", "etcd://:1/p", "etcd://a:1,b/p", "etcd://h:70000/p"])
def test_a_host_without_a_port_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        Access.from_url(url)


def test_half_a_login_is_refused() -> None:
    with pytest.raises(ConfigError, match="--etcd-user and --etcd-password-file"):
        Access.from_url("etcd://h:1/p", user="root")


def test_nobody_there_is_a_store_that_is_away() -> None:
    store = EtcdStore(Access((f"127.0.0.1:{unused()}",), "lab"), ALLOCATION)
    with pytest.raises(StoreError, match=r"etcd://127\.0\.0\.1:\d+: .*[Cc]onnection refused"):
        store.list()
    store.close()


@pytest.mark.needs("etcd", "openssl")
def test_tls_with_a_client_certificate(secure: EtcdServer, certificate: Certificate) -> None:
    async def scenario() -> None:
        access = Access((secure.host,), "lab", certificate.cert, certificate.cert, certificate.key)
        store = EtcdStore(access, ALLOCATION)
        async with Follower(store) as reader:
            await reader.synced()
            (stored,) = store.put(service("tomcat"))
            await reader.shows(stored)
        store.close()

    run(scenario)


@pytest.mark.needs("etcd", "openssl")
def test_tls_without_what_it_takes_is_a_store_that_is_away(secure: EtcdServer, certificate: Certificate) -> None:
    for access in (
        Access((secure.host,), "lab"),
        Access((secure.host,), "lab", certificate.cert),
    ):
        store = EtcdStore(access, ALLOCATION)
        with pytest.raises(StoreError, match=secure.host):
            store.list()
        store.close()


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = EtcdStore(Access(("127.0.0.1:1",), "lab", tmp_path / "ca.pem"), ALLOCATION)
    with pytest.raises(ConfigError, match=r"ca\.pem: No such file"):
        store.list()


@pytest.mark.needs("etcd", "openssl")
def test_a_lapsed_token_is_renewed_and_a_watch_goes_on(guarded: EtcdServer, password: Path) -> None:
    async def scenario() -> None:
        access = Access((guarded.host,), "lab", user="root", password_file=password)
        store, other = EtcdStore(access, ALLOCATION), EtcdStore(access, ALLOCATION)
        async with Follower(store) as reader:
            await reader.synced()
            for turn in range(3):
                await lapsed(store)
                (stored,) = store.put(service(f"s{turn}"))
                await reader.shows(stored)
            guarded.kill()
            await reader.until(lambda f: f.away)
            guarded.start()
            await reader.until(lambda f: f.syncs > 1)
            await lapsed(other)
            (stored,) = other.put(service("late"))
            await reader.shows(stored)
        store.delete(*listed(store))
        store.close()
        other.close()

    async def lapsed(store: EtcdStore) -> None:
        """Wait until etcd no longer knows the token that the store has."""
        rpc = "kv/range"
        token = dict(store._client._token).get("token", "")
        while token:
            try:
                guarded.call(rpc, {"key": "eA=="}, token)
            except OSError as error:
                error.close()  # type: ignore[attr-defined] # an answer of HTTP
                return

    run(scenario)


@pytest.mark.needs("etcd", "openssl")
def test_who_may_only_read_is_told_so_and_sees_what_others_claim(guarded: EtcdServer, password: Path) -> None:
    async def scenario() -> None:
        root = EtcdStore(Access((guarded.host,), "lab", user="root", password_file=password), ALLOCATION)
        (stored,) = root.put(service("tomcat"))
        store = EtcdStore(Access((guarded.host,), "lab", user="reader", password_file=password), ALLOCATION)
        with pytest.raises(NotPermittedError, match="permission denied"):
            store.put(pod("p"))
        async with Follower(store) as reader:
            await reader.synced()
            assert reader.records == {stored.key: stored}
            name, value = Keyspace("lab").record(key("bare")), to_json(service("bare"))
            commit(root._client, [Change({}, {name: value}, set(), set())], lambda *_: None)
            await reader.until(lambda f: key("bare") in f.records)
            assert addresses(reader.records[key("bare")]) == ()
            assert "permission denied" in reader.problems[str(key("bare"))]
            bare = listed(root)[key("bare")]
            await reader.shows(bare)
            assert not reader.problems
        root.delete(key("tomcat"), key("bare"))
        root.close()
        store.close()

    run(scenario)


@pytest.mark.needs("etcd", "openssl")
def test_a_wrong_password_is_told_and_a_watch_waits_for_the_right_one(guarded: EtcdServer, password: Path) -> None:
    def change(text: str) -> None:
        password.write_text(text)

    async def scenario() -> None:
        change("wrong")
        store = EtcdStore(Access((guarded.host,), "lab", user="root", password_file=password), ALLOCATION)
        with pytest.raises(NotPermittedError, match="authentication failed"):
            store.list()
        async with Follower(store) as reader:
            await reader.until(lambda f: f.away)
            change(PASSWORD)
            await reader.synced()
            assert len([event for event in reader.seen if isinstance(event, Away)]) == 1
        store.close()

    run(scenario)


@pytest.mark.needs("etcd", "openssl")
def test_no_login_where_one_is_needed_names_the_options(guarded: EtcdServer) -> None:
    store = EtcdStore(Access((guarded.host,), "lab"), ALLOCATION)
    with pytest.raises(NotPermittedError, match="--etcd-user and --etcd-password-file"):
        store.list()
    store.close()


@pytest.mark.needs("etcd")
def test_a_login_where_none_is_needed_does_no_harm(etcd_server: EtcdServer, password: Path) -> None:
    store = EtcdStore(Access((etcd_server.host,), "lab", user="root", password_file=password), ALLOCATION)
    assert listed(store) == {}
    store.close()
