"""The one child of `svcnet exec`: started, signalled, and gone when we are; and the signals that we pass on to it.

Owns: fork, exit codes of a start that fails, whose signal it is. Must not know why a child is started or ended.

The child stays in our process group, so that it may read from the terminal and Ctrl-C and Ctrl-Z reach it (and us) as
they reach any program. What the terminal sends it sends to both: only what came from a process is passed on.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from svcnet.model.errors import SvcnetError

PR_SET_PDEATHSIG = 1
SI_KERNEL = 0x80
"""si_code of a signal that the kernel sent: here, the terminal (sigaction(2))."""

PASSED_ON = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
        signal.SIGQUIT,
    }
)


class StartError(SvcnetError):
    """The command can't be started; the exit code is the one that a shell gives."""

    def __init__(self, command: str, error: OSError) -> None:
        missing = isinstance(error, FileNotFoundError)
        super().__init__(f"exec: {command}: {error.strerror or error}")
        self.exit_code = 127 if missing else 126


class Child:
    """A running command. `ended` is set once it ended, `code` is -n for signal n then."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start it; StartError."""
        die_with_us = _die_with(os.getpid())
        try:
            # preexec_fn: nothing else sets the signal between fork and exec. What it calls takes no lock.
            self._process = subprocess.Popen(command, env=environ, preexec_fn=die_with_us)  # noqa: PLW1509
        except OSError as error:
            raise StartError(command[0], error) from error
        self.ended = asyncio.Event()
        self.code = 0
        self._handle = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(self._handle, self._reap)

    def send(self, number: int) -> None:
        """Send a signal; none if it has ended."""
        if not self.ended.is_set():
            self._process.send_signal(number)

    async def end(self, grace_seconds: float) -> None:
        """SIGTERM, after the grace SIGKILL, and wait."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await self.ended.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.ended.wait()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._handle)
        os.close(self._handle)
        self.code = self._process.wait()
        self.ended.set()


def _die_with(parent: int) -> Callable[[], None]:
    """Return what a child calls before it becomes the command: it gets SIGKILL when we end before it.

    KILL and not TERM: one that ignores TERM would live on beside the one that whoever started us starts next.
    """
    prctl, kill, none = ctypes.CDLL(None).prctl, int(signal.SIGKILL), frozenset[int]()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, kill, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, none)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def block_passed_on() -> frozenset[signal.Signals]:
    """Keep the signals that are passed on from ending us; return them. To be called before any thread is started.

    Those that we were started to ignore (nohup) stay ignored, here and in the child.
    """
    wanted = frozenset(number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    return wanted


def hear(wanted: Iterable[signal.Signals], told: Callable[[signal.Signals, bool], None]) -> None:
    """Call told(signal, whether the terminal sent it) in the running loop for each signal from now on.

    A thread that waits: handlers would not say who sent it.
    """
    loop, numbers = asyncio.get_running_loop(), set(wanted)

    def wait() -> None:
        while True:
            info = signal.sigwaitinfo(numbers)
            try:
                loop.call_soon_threadsafe(told, signal.Signals(info.si_signo), info.si_code == SI_KERNEL)
            except RuntimeError:  # the loop is closed: we are about to end
                return

    threading.Thread(target=wait, name="signals", daemon=True).start()
