"""The environment variables that lead to services, and the NAMESPACE.env files that hold them.

Owns: the names and values of the variables (contract, Environment), their text in every format, the files.
Pure but for EnvFiles, which writes them. Knows services only: endpoints come and go without a variable changing.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from svcnet.model.service import Service

if TYPE_CHECKING:
    from svcnet.model.meta import Key
    from svcnet.model.snapshot import Snapshot

FORMATS = ("shell", "dotenv", "docker", "json", "systemd")
LARGE_BYTES = 128 * 1024
"""Above this a shell starts noticeably slower with every service, and the limit of execve is not far."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_IN_DOUBLE_QUOTES = re.compile(r'([\\"$`])')


class Environment(NamedTuple):
    """Variables, sorted by name, and what could not be one."""

    variables: dict[str, str]
    problems: tuple[str, ...]


def environment(services: Iterable[Service], docker_links: bool = False) -> Environment:
    """Work out the variables of the services of one namespace.

    Services without a virtual IP (headless, ExternalName, not yet claimed) have none. Two services that claim one
    variable with different values (a-b and a.b): the first by name keeps it, and the problem names both.
    """
    merged: dict[str, str] = {}
    holders: dict[str, str] = {}
    problems: list[str] = []
    for service in sorted(services, key=lambda s: s.meta.name):
        name = service.meta.name
        _merge(name, _of_service(service, docker_links), merged, holders, problems)
    return Environment(dict(sorted(merged.items())), tuple(problems))


def variables(services: Iterable[Service], docker_links: bool = False) -> dict[str, str]:
    """Return the variables alone."""
    return environment(services, docker_links).variables


def _merge(
    name: str, own: Mapping[str, str], merged: dict[str, str], holders: dict[str, str], problems: list[str]
) -> None:
    if own and not _NAME.match(next(iter(own))):
        problems.append(f"service {name}: no variable can begin with a digit, expected a letter")
        return
    for variable, value in own.items():
        if merged.setdefault(variable, value) != value:
            problems.append(f"service {name}: {variable} is the variable of service {holders[variable]} already")
        else:
            holders.setdefault(variable, name)


def _of_service(service: Service, docker_links: bool) -> dict[str, str]:
    if not service.wants_address or not service.cluster_ips:
        return {}
    prefix, host = _upper(service.meta.name), service.cluster_ips[0]
    found = {f"{prefix}_SERVICE_HOST": host}
    for index, port in enumerate(service.ports):
        number = str(port.port)
        if index == 0:
            found[f"{prefix}_SERVICE_PORT"] = number
        if port.name:
            found[f"{prefix}_SERVICE_PORT_{_upper(port.name)}"] = number
    for index, port in enumerate(service.ports if docker_links else ()):
        protocol = port.protocol.lower()
        link = f"{protocol}://[{host}]:{port.port}" if ":" in host else f"{protocol}://{host}:{port.port}"
        if index == 0:
            found[f"{prefix}_PORT"] = link
        one = f"{prefix}_PORT_{port.port}_{port.protocol}"
        found |= {one: link, f"{one}_PROTO": protocol, f"{one}_PORT": str(port.port), f"{one}_ADDR": host}
    return found


def _upper(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")


def render(values: Mapping[str, str], form: str) -> str:
    """Return the variables as text that the reader of `form` turns back into the same map.

    shell: `export` lines for sh. dotenv: assignments for sh and for dotenv readers. docker: for `--env-file`, which
    has no quoting. systemd: EnvironmentFile= of systemd.exec(5). ValueError: a value that the format can't carry.
    """
    if form == "json":
        return json.dumps(dict(sorted(values.items())), indent=2, ensure_ascii=False) + "\n"
    line = {"shell": _shell, "dotenv": _assignment, "docker": _docker, "systemd": _systemd}[form]
    return "".join(line(name, values[name]) for name in sorted(values))


def _checked(name: str, value: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a variable")
    if "\0" in value:
        raise ValueError(f"{name}: a variable can't hold a zero byte")


def _shell(name: str, value: str) -> str:
    return f"export {_assignment(name, value)}"


def _assignment(name: str, value: str) -> str:
    """NAME=value, in double quotes where needed: there sh, systemd and dotenv readers agree about backslashes."""
    _checked(name, value)
    if _PLAIN.fullmatch(value):
        return f"{name}={value}\n"
    quoted = _IN_DOUBLE_QUOTES.sub(r"\\\1", value)
    return f'{name}="{quoted}"\n'


def _docker(name: str, value: str) -> str:
    _checked(name, value)
    if "\n" in value or "\r" in value:
        raise ValueError(f"{name}: an env file of docker can't hold a line break")
    return f"{name}={value}\n"


def _systemd(name: str, value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError(f"{name}: an environment file of systemd can't hold control characters")
    return _assignment(name, value)


def size_warning(values: Mapping[str, str], services: int) -> str:
    """Return what to say about a set that slows down every program started with it, "" when it is fine."""
    size = sum(len(name) + len(value) + 2 for name, value in values.items())
    if size <= LARGE_BYTES:
        return ""
    return (
        f"{len(values)} variables of {services} services are {size // 1024} KiB; above {LARGE_BYTES // 1024} KiB "
        "shells start slowly, near 2 MiB nothing starts: name the services that are needed"
    )


class EnvFiles:
    """DIRECTORY/NAMESPACE.env for every namespace with services: dotenv text, which `.` of sh reads.

    Replaced by rename and only when the content changed, so whoever watches them sees whole, new content. Mount the
    directory into containers, not a file: a file mount keeps the old one.
    """

    def __init__(self, directory: Path, docker_links: bool = False) -> None:
        self._directory = directory
        self._docker_links = docker_links
        self._known: dict[str, str] = {}
        self._owed: set[str] = set()
        self._problems: dict[str, list[str]] = {}
        self._texts: dict[Key, tuple[Service, dict[str, str]]] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be a variable, in the namespaces as they were last rendered."""
        return tuple(f"namespace {name}: {text}" for name in sorted(self._problems) for text in self._problems[name])

    def update(self, snapshot: "Snapshot", changed_namespaces: Iterable[str] | None = None) -> int:
        """Bring the files of the named namespaces up to date, and return how many were written or removed.

        None is all of them, and what an earlier run left of namespaces that are gone is removed. OSError: a file
        can't be written; the others were, and this one is tried again with the next update.
        """
        wanted = None if changed_namespaces is None else {*changed_namespaces, *self._owed}
        texts = self._render(snapshot, wanted)
        gone = (self._on_disk() if wanted is None else wanted) - texts.keys()
        self._owed = set()
        done, failed = 0, None
        for namespace in sorted(texts.keys() | gone):
            try:
                done += self._remove(namespace) if namespace in gone else self._write(namespace, texts[namespace])
            except OSError as error:
                self._owed.add(namespace)
                failed = failed or error
        if failed is not None:
            raise failed
        return done

    def _render(self, snapshot: "Snapshot", wanted: set[str] | None) -> dict[str, str]:
        """Return the text of each wanted namespace; a service that did not change costs a look, not a rendering."""
        members: dict[str, list[tuple[str, dict[str, str]]]] = {}
        for key, service in snapshot.services.items():
            if wanted is None or key.namespace in wanted:
                known = self._texts.get(key)
                if known is None or known[0] is not service:
                    known = self._texts[key] = (service, _of_service(service, self._docker_links))
                members.setdefault(key.namespace, []).append((key.name, known[1]))
        for key in [k for k in self._texts if (wanted is None or k.namespace in wanted) and k not in snapshot.services]:
            del self._texts[key]
        for namespace in list(self._problems) if wanted is None else wanted:
            self._problems[namespace] = []
        texts: dict[str, str] = {}
        for namespace, services in members.items():
            merged: dict[str, str] = {}
            holders: dict[str, str] = {}
            problems = self._problems[namespace] = []
            for name, own in sorted(services, key=lambda pair: pair[0]):
                _merge(name, own, merged, holders, problems)
            texts[namespace] = render(merged, "dotenv")
        return texts

    def _path(self, namespace: str) -> Path:
        return self._directory / f"{namespace}.env"

    def _on_disk(self) -> set[str]:
        try:
            return {p.stem for p in self._directory.iterdir() if p.suffix == ".env" and not p.name.startswith(".")}
        except OSError:
            return set()

    def _remove(self, namespace: str) -> bool:
        self._known.pop(namespace, None)
        try:
            self._path(namespace).unlink()
        except FileNotFoundError:
            return False
        return True

    def _write(self, namespace: str, text: str) -> bool:
        path = self._path(namespace)
        if namespace not in self._known and path.is_file():
            self._known[namespace] = path.read_text(encoding="utf-8", errors="replace")
        if self._known.get(namespace) == text and path.exists():
            return False
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        # One fixed temporary name: what a killed writer left is overwritten, never collected.
        temporary = self._directory / f".{namespace}.env.new"
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)
        os.replace(temporary, path)  # noqa: PTH105 - rename is the point
        self._known[namespace] = text
        return True
