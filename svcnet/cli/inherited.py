"""Children that this process had as the program that it was before a reload (execv): nobody else waits for their end.

Owns: which these are, and that none stays as a zombie. Must not know what they do: others lead them (name_left.py,
proxy/left.py), or nobody, where the next reload came before their end was seen, or in the middle of their start.
"""

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TASKS = Path("/proc/self/task")


def inherited() -> tuple[int, ...]:
    """Return the pids of all children, for a program that has started none yet."""
    found: list[int] = []
    with suppress(OSError):  # a kernel without CONFIG_PROC_CHILDREN
        for task in TASKS.iterdir():
            found += map(int, (task / "children").read_text().split())
    return tuple(found)


async def see_off(children: Iterable[int]) -> None:
    """Wait for the end of each; whoever was faster has its code, which means nothing to us."""
    await asyncio.gather(*map(_see_off, children))


async def _see_off(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(handle, over.set)
        await over.wait()
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 (it has ended: nothing blocks)
    finally:
        loop.remove_reader(handle)
        os.close(handle)
