"""A process that answers DNS: `python -m svcnet.dns.worker FEED SOCKET…`, all file descriptors.

Owns: this process. Its records come through FEED, a stream socket: Settings first, then the frames of svcnet.feed; its
end is this process' end until it answers. From then on it goes on without, with the last records, until another daemon
takes its sockets (heirs.py). Must not read a store or the configuration.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial

import msgspec

from svcnet.dns.batch import calls
from svcnet.dns.forward import Forwarder, Options
from svcnet.dns.heirs import Heirs
from svcnet.dns.intake import Intake
from svcnet.dns.notifier import Notifier
from svcnet.dns.query_log import QueryLog
from svcnet.dns.responder import Responder
from svcnet.dns.selector import Selector
from svcnet.dns.serials import Serials
from svcnet.dns.server import Server
from svcnet.dns.settings import Settings
from svcnet.dns.stream import links
from svcnet.dns.transfer import Transfers
from svcnet.dns.zone import Zone
from svcnet.feed import Change, Whole, framed

log = logging.getLogger("svcnet.dns")

PR_SET_PDEATHSIG = 1
TELL_SECONDS = 1.0
"""What was counted meanwhile is lost with a worker that is killed."""
FINISH_SECONDS = 4.5
"""For what still waits for servers upstream at the end: longer than the forwarder takes."""


async def work(feed: socket.socket, bound: Sequence[socket.socket], selector: Selector) -> None:
    """Answer until the feed ends, or beyond that. `selector`: of the loop that runs."""
    feed.setblocking(False)
    intake = Intake(feed, selector.serve_now)
    settings = await intake.first()
    if settings is None:
        return
    told = msgspec.msgpack.decode(settings, type=Settings)
    responder, server, forwarder = prepared(told, selector)
    own = [one.getsockname()[0] for one in bound if one.type == socket.SOCK_DGRAM]
    serials = Serials(told.serials, told.number) if told.serials >= 0 else None
    notifier = Notifier(responder.zone, told.notify if told.number == 0 else (), own, serials)
    begun = asyncio.Event()
    telling = asyncio.create_task(tell(feed, responder, server, forwarder, begun))

    def taken(frame: Whole | Change) -> None:
        if isinstance(frame, Whole) and not frame.last:
            gc.disable()  # a load makes many objects and no garbage
        elif isinstance(frame, Whole):
            gc.freeze()  # what is loaded stays for long: a later collection need not stop answers to look at it
            gc.enable()
        notifier.look()

    intake.begin(responder, taken)
    await intake.known.wait()
    heirs = Heirs(told.owner, bound)
    # Until here queries wait in the sockets: of a worker that takes another's place no answer is SERVFAIL.
    stays = not intake.ended.done() and await begin(server, bound, heirs if told.owner else None)
    begun.set()
    retiring = asyncio.create_task(heirs.retired.wait())
    await asyncio.wait((intake.ended, retiring), return_when=asyncio.FIRST_COMPLETED)
    if intake.ended.done() and intake.ended.result() is None and stays and responder.zone.loaded:
        heirs.is_led = False
        log.warning("the daemon is gone: answering from the last records until another takes over")
        await retiring
    await server.finish(FINISH_SECONDS)
    telling.cancel()
    retiring.cancel()
    heirs.close()


async def begin(server: Server, bound: Sequence[socket.socket], heirs: Heirs | None) -> bool:
    """Answer; whether another daemon would find us. `heirs`: None for whoever feeds us and is no daemon."""
    for one in bound:
        await server.serve(one)
    if heirs is None:
        return False
    try:
        heirs.listen()
    except OSError as error:  # nobody could take over: better to end
        log.warning("ends with its daemon why=%s", error)
        return False
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    return True


async def tell(
    feed: socket.socket, responder: Responder, server: Server, forwarder: Forwarder, begun: asyncio.Event
) -> None:
    """Say every so often what was counted; nobody need listen. `begun`: it answers, which is said at once.

    Another worker may answer in its place until then, from older records.
    """
    loop = asyncio.get_running_loop()
    while True:
        levels = {
            "open_tcp_connections": float(server.open_connections),
            "ready_answers": float(responder.ready_answers),
            "zone_serial": float(responder.zone.serial),
            **forwarder.levels(),
        }
        said = responder.counts.say(levels, responder.zone.loaded, os.getpid(), forwarder.troubles)
        try:
            await loop.sock_sendall(feed, framed(msgspec.msgpack.encode(said)))
        except OSError:  # the feed's end: `work` sees it too
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELL_SECONDS):
                await begun.wait()
        begun.clear()


def prepared(settings: Settings, selector: Selector) -> tuple[Responder, Server, Forwarder]:
    """Return what answers, on no socket yet."""
    responder = Responder(Zone(settings.shape), settings.allowed, bool(settings.upstreams))
    loop = asyncio.get_running_loop()
    options = Options(
        secret=settings.secret,
        trusted=settings.trusted,
        most_in_flight=settings.most_in_flight,
        policy=settings.policy,
        max_fails=settings.max_fails,
    )
    ways = links(loop, settings.upstreams)
    forwarder = Forwarder(loop, settings.upstreams, ways, responder.counts.add, options)
    transfers = Transfers(responder.zone, settings.transferable)
    server = Server(responder, forwarder, transfers, selector, calls())
    if settings.log_every:
        server.log = QueryLog(settings.log_every, sys.stderr.buffer, responder.counts.add)
    return responder, server, forwarder


def main(arguments: Sequence[str]) -> None:
    """Run with the descriptors that were inherited."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname).1s %(name)s %(message)s")
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the control process, whose end is ours
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a question upstream is a socket
    feed, *bound = [socket.socket(fileno=int(number)) for number in arguments]
    selector = Selector()
    with asyncio.Runner(loop_factory=partial(asyncio.SelectorEventLoop, selector)) as runner:
        runner.run(work(feed, bound, selector))


if __name__ == "__main__":
    main(sys.argv[1:])
