"""Whom a pick passes over."""

from collections.abc import Container

from svcnet.proxy.row import Backend


class But:
    """Everybody but one."""

    __slots__ = ("_one",)

    def __init__(self, one: Backend) -> None:
        self._one = one

    def __contains__(self, backend: object) -> bool:
        return backend != self._one


class Both:
    """Who is in one of two."""

    __slots__ = ("_one", "_other")

    def __init__(self, one: Container[Backend], other: Container[Backend]) -> None:
        self._one, self._other = one, other

    def __contains__(self, backend: object) -> bool:
        return backend in self._one or backend in self._other
