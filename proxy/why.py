"""Why a TCP connection ended, in two letters each. Pure.

Owns: the codes (docs/connections.md lists them). The first letter says who or what ended it, the second how.
"""

from enum import Enum

from svcnet.proxy.counts import CLIENT_RESETS, DRAINED, GIVEN_UP, IDLE, NO_ROOM, QUEUE_TIMEOUTS, SERVER_RESETS


class Why(Enum):
    """The value is what the log has."""

    __hash__ = object.__hash__  # that of Enum is a call in Python, for each connection

    UNKNOWN = "--"
    """It goes on."""
    CLIENT_FINISHED = "CF"
    """Both sides finished, the client first."""
    SERVER_FINISHED = "SF"
    """Both sides finished, the endpoint first."""
    CLIENT_RESET = "CR"
    SERVER_RESET = "SR"
    CLIENT_LEFT = "CL"
    """Before an endpoint answered."""
    IDLE = "TI"
    """Nothing was said for `idle-timeout`."""
    HALF_CLOSED = "TH"
    """Nothing was said for `half-closed-timeout` after one side had finished."""
    REFUSED = "NR"
    """Every endpoint that was tried refused, or there was no way to it."""
    SILENT = "NT"
    """The last endpoint that was tried did not answer in time."""
    NO_ENDPOINT = "NE"
    """There was none to try."""
    NO_ROOM = "NF"
    """No file descriptor, or no memory, was left for a dial."""
    QUEUE_FULL = "QF"
    """All endpoints had as many connections as they may, and too many clients waited."""
    QUEUE_TIMEOUT = "QT"
    """It waited too long for one with room."""
    DRAINED = "KD"
    """Its endpoint, or its service, was gone for longer than `drain`."""
    SHUTDOWN = "KS"
    """The worker ended."""
    FAULT = "KF"
    """An exception in the worker that nobody expected."""
    BAD_HEADER = "HB"
    """A client of `accept-proxy` sent something else than a PROXY header, or less."""
    LATE_HEADER = "HT"
    """It sent no whole PROXY header in time."""


COUNTED = {
    Why.CLIENT_RESET: CLIENT_RESETS,
    Why.SERVER_RESET: SERVER_RESETS,
    Why.IDLE: IDLE,
    Why.HALF_CLOSED: IDLE,
    Why.DRAINED: DRAINED,
    Why.REFUSED: GIVEN_UP,
    Why.SILENT: GIVEN_UP,
    Why.NO_ENDPOINT: GIVEN_UP,
    Why.NO_ROOM: GIVEN_UP,
    Why.QUEUE_FULL: NO_ROOM,
    Why.QUEUE_TIMEOUT: QUEUE_TIMEOUTS,
}
"""The cells in which such ends are counted (counts.py)."""
