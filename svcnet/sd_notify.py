"""What the daemon tells the service manager (sd_notify(3)).

Owns: the datagrams to $NOTIFY_SOCKET. Must not know why the daemon is ready. Telling is best effort: a manager that is
gone is no reason to stop serving.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Sends to `address`, a path or `@NAME` for an abstract socket; "" for nobody, then every method does nothing."""

    def __init__(self, address: str) -> None:
        self.address = address

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Notifier":
        """Return the notifier of this process; without a manager, one that tells nobody."""
        return cls(environ.get("NOTIFY_SOCKET", ""))

    def ready(self, status: str = "", main_pid: int | None = None) -> None:
        """Tell that start-up, or a reload, is finished; `main_pid`: the process that is the service from now on."""
        main = () if main_pid is None else (f"MAINPID={main_pid}",)
        self._send("READY=1", *main, f"STATUS={_line(status)}")

    def status(self, text: str) -> None:
        """Tell one line for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def reloading(self, monotonic_seconds: float) -> None:
        """Tell that the configuration is being read again (systemd wants the clock, for Type=notify-reload)."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(monotonic_seconds * 1_000_000)}")

    def stopping(self) -> None:
        """Tell that the end has begun."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Tell that the loop turns."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self.address.startswith(("/", "@")):
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), address)


def watchdog_seconds(environ: Mapping[str, str], pid: int | None = None) -> float | None:
    """Return how long the manager waits for WATCHDOG, or None when it doesn't watch this process.

    Tell it twice in that time (sd_watchdog_enabled(3)).
    """
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
        watched = int(environ.get("WATCHDOG_PID", "0"))
    except ValueError:
        return None
    meant = watched in {0, os.getpid() if pid is None else pid}
    return microseconds / 1_000_000 if microseconds > 0 and meant else None


def _line(text: str) -> str:
    """Return `text` on one line: a line feed would begin another assignment."""
    return " ".join(text.split())
