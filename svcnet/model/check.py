"""Active health checks: what is asked of an endpoint, and what came of it."""

from typing import NamedTuple


class Check(NamedTuple):
    """What is asked, and how often (annotation `svcnet.dev/health`)."""

    path: str = ""
    """Of an HTTP request, whose answer must be 200 to 399; "" is a TCP connection alone."""
    interval_seconds: float = 2.0
    timeout_seconds: float = 1.0
    rise: int = 2
    """So many passes in a row bring an endpoint back."""
    fall: int = 3
    """So many failures in a row take it out."""
    script: str = ""
    """Name of an executable of the operator's directory that is asked instead."""
    introduction: str = ""
    """`v1` or `v2`: a PROXY header comes first, which says that it is a check."""


class Probe(NamedTuple):
    """An endpoint and what is asked of it; services that ask the same share the answers."""

    address: str
    port: int
    check: Check
    own: bool = False
    """It is on the minion that asks, which tells the others."""
