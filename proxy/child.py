"""A worker process, from the daemon's side: started, told, and started again when it ends.

Owns: the process, its socket, the thread that waits for it, and a spare: a process that has started and knows nothing
yet, as a start takes longer than clients should wait. Must not know what it is told.

The thread that starts a process stays as long as that lives: until it is told to stay, the worker asks the kernel to
end it with its parent (PR_SET_PDEATHSIG), and to the kernel a parent is a thread.
"""

import logging
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from svcnet.pacing import Backoff
from svcnet.wire import Inbox, send

log = logging.getLogger(__name__)

CONFIRM_SECONDS = 5.0
"""A worker that says nothing for so long is ended, and started again."""
START_SECONDS = 30.0
"""The same before its first word: on a busy machine a start takes long, and one that is begun again takes longer."""
LIVED_SECONDS = 1.0
"""When two in a row lived for less, the next ones are started later and later."""

SPARE_AFTER_SECONDS = 1.0
"""A worker that lives this long gets a spare: one that dies at once would only have it die too."""
SPARE_LOOK_SECONDS = 30.0
"""How often to see that the spare is still there."""

Message = tuple[dict[str, Any], Sequence[int]]


class Started(NamedTuple):
    """A process, and our end of its socket."""

    process: subprocess.Popen[bytes]
    socket: socket.socket

    def end(self) -> int:
        """Let it end, and wait for that; its exit code."""
        self.socket.close()
        try:
            return self.process.wait(CONFIRM_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start() -> Started:
    """A process that waits for what it is told. OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-P", "-m", "svcnet.proxy.worker", str(theirs.fileno())]
        try:
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        except OSError:
            ours.close()
            raise
    return Started(process, ours)


class Child:
    """Runs from `start` to `stop`. `greeting` returns all that a new process must be told; `lock` guards its answer."""

    def __init__(self, number: int, lock: threading.RLock, greeting: Callable[[int], Sequence[Message]]) -> None:
        self._number = number
        self._lock = lock
        self._greeting = greeting
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._spare: Started | None = None
        self._told = threading.Condition()
        self._asked = self._confirmed = 0
        self._has_spoken = False
        """Whether this process has confirmed anything."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy-worker-{number}", daemon=True)
        self.starts = 0
        self.counters: dict[str, int] = {}
        """What it counted, as of its last answer."""
        self.faults = 0
        """Exceptions that nobody expected, those of processes before it too."""
        self.last_fault = ""
        """What the last one was, and where."""
        self._faults_before = 0
        """As of the begin of this process."""

    @property
    def pid(self) -> int:
        """Process id; 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    def start(self) -> None:
        """Start the process; what it is told before it listens waits for it."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait for that."""
        self._stopping.set()
        with self._lock:
            if self._socket is not None:
                self.tell([({"end": True}, ())])
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def leave(self) -> None:
        """Start no other. This one serves on when this process ends, or becomes another program."""
        self._stopping.set()
        self._drop_spare()

    def drain(self) -> None:
        """Let it serve who is connected, or waits, and nobody else; it ends with the last of them, without us."""
        self.leave()
        with self._lock:
            self.tell([({"drain": True}, ())])
        self.confirm()

    def tell(self, messages: Sequence[Message]) -> None:
        """Send messages. One that is just being started gets everything anyway. Call it with the lock held."""
        if self._socket is None:
            return
        try:
            for message, fds in messages:
                send(self._socket, message, fds)
        except OSError as error:
            log.warning("proxy worker lost number=%s why=%s", self._number, error)
            self._give_up()

    def confirm(self) -> bool:
        """Wait until all that it was told is in force; False when it ended or hangs: then a new one is told all."""
        with self._lock:
            self._asked += 1
            asked, there = self._asked, self._socket
            patience = CONFIRM_SECONDS if self._has_spoken else START_SECONDS
            self.tell([({"ack": asked}, ())])
        if there is None:
            return False
        with self._told:
            done = self._told.wait_for(lambda: self._confirmed >= asked or self._socket is not there, patience)
        if not done:
            log.error("proxy worker hangs number=%s: starting another", self._number)
            self._give_up()
        return self._confirmed >= asked

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()

    def _give_up(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._drop_spare()

    def _serve(self) -> None:
        backoff, short_lives = Backoff(), 0
        while not self._stopping.is_set():
            begin = time.monotonic()
            try:
                code = self._live()
            except OSError as error:
                code = error.errno or 1
                log.exception("proxy worker could not start number=%s", self._number)
            except Exception:  # this thread is all that starts another one
                code = 1
                log.exception("proxy worker said what nobody understands number=%s", self._number)
            if self._stopping.is_set():
                return
            log.error("proxy worker ended number=%s code=%s: starting another", self._number, code)
            short_lives = short_lives + 1 if time.monotonic() - begin < LIVED_SECONDS else 0
            if short_lives > 1:  # the first one at once: clients wait
                self._stopping.wait(backoff.failed())
            else:
                backoff.worked()

    def _live(self) -> int:
        """One process, from begin to end; its exit code."""
        if self._spare is not None and self._spare.process.poll() is not None:
            self._drop_spare()
        now, self._spare = self._spare or start(), None
        try:
            now.socket.settimeout(START_SECONDS)
            with self._lock:
                self._process, self._socket = now
                self._has_spoken = False
                self._faults_before = self.faults
                self.starts += 1
                if self._stopping.is_set():
                    now.socket.shutdown(socket.SHUT_RDWR)
                else:
                    self.tell([*self._greeting(self._number), ({"ack": 0}, ())])  # it tells its limits with that
            self._listen(now.socket)
            with self._lock, self._told:
                self._socket = None
                self._told.notify_all()
        finally:
            code = now.end()
        return code

    def _listen(self, ours: socket.socket) -> None:
        """Take confirmations until the other end closes."""
        inbox = Inbox()
        news = select.poll()
        news.register(ours, select.POLLIN)
        while True:
            if not news.poll((SPARE_AFTER_SECONDS if self._spare is None else SPARE_LOOK_SECONDS) * 1000):
                self._have_spare()
                continue
            try:
                alive = inbox.receive(ours)
            except OSError:
                return
            while (got := inbox.take()) is not None:
                self._hear(got[0])
            if not self._has_spoken:
                self._has_spoken = True
                ours.settimeout(CONFIRM_SECONDS)
            if not alive:
                return

    def _hear(self, said: dict[str, Any]) -> None:
        ack, self.last_fault = said.pop("ack"), said.pop("fault", self.last_fault)
        if trace := said.pop("trace", ""):
            log.error("fault in proxy worker number=%s: what it came up in was ended\n%s", self._number, trace.rstrip())
        with self._told:
            self.faults = self._faults_before + said.pop("faults")
            self._confirmed = max(self._confirmed, ack)
            self.counters = said
            self._told.notify_all()

    def _have_spare(self) -> None:
        if self._spare is not None and self._spare.process.poll() is not None:
            self._drop_spare()
        if self._spare is None and not self._stopping.is_set():
            with suppress(OSError):  # it can wait for the next time
                self._spare = start()
