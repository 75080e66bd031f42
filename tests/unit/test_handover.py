"""Workers that another program left: what is asked of the kernel about them concerns no other process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from svcnet.handover import Found, has_ended, reap

CODE = 7


def ended_child() -> subprocess.Popen[bytes]:
    """A child that has ended, and was not waited for."""
    child = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({CODE})"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child


def test_one_whose_pid_can_not_be_seen_takes_no_exit_code_of_a_child() -> None:
    """As where it runs in a container that has the machine's network and its own processes."""
    ours, theirs = socket.socketpair()
    with ours, ended_child() as child:
        found = Found(0, ours)
        assert not has_ended(found)
        theirs.close()
        assert has_ended(found)
        reap(found, 0)
        assert child.wait() == CODE


def test_one_that_is_a_child_leaves_no_zombie() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, ended_child() as child:
        assert has_ended(Found(child.pid, ours))
        assert not Path(f"/proc/{child.pid}").exists()
