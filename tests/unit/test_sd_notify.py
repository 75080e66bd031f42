"""What a service manager hears."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from svcnet.sd_notify import Notifier, watchdog_seconds


@contextmanager
def manager(address: str) -> Iterator[Callable[[], str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(30)
        yield lambda: listener.recv(4096).decode()


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_every_state(tmp_path: Path, abstract: bool) -> None:
    given = f"@{tmp_path}/notify" if abstract else f"{tmp_path}/notify"
    with manager(given.replace("@", "\0")) as heard:
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": given})
        notifier.ready("checkpoint, 5 s old")
        assert heard() == "READY=1\nSTATUS=checkpoint, 5 s old"
        notifier.status("two\nlines")
        assert heard() == "STATUS=two lines"
        notifier.reloading(12.5)
        assert heard() == "RELOADING=1\nMONOTONIC_USEC=12500000"
        notifier.watchdog()
        assert heard() == "WATCHDOG=1"
        notifier.stopping()
        assert heard() == "STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    Notifier(address).ready()


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "gone")).ready()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_meant_for_the_process_it_names(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(environ, pid=7) == seconds
