"""svcnet-proxy whose take-over is cut short: `python -m tests.proxy.faulty STEP SIGNAL WHOM` before its command.

Owns: where the cuts are. WHOM gets SIGNAL right after STEP: `new` is this process, `old` the one it takes over from.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from svcnet.cli import daemon
from svcnet.cli.takeover import WAKE_SECONDS, Takeover
from svcnet.model.errors import KernelError
from svcnet.status.inherited import Inherited

STEPS = ("greeted", "at rest", "gone", "claimed", "done")


def cut(step: str, act: Callable[[Takeover], None]) -> None:
    """Have `act` done right after a step."""
    match step:
        case "greeted":
            begin = Takeover.begin

            def greet(*arguments: Any) -> Takeover | None:
                found = begin(*arguments)
                assert found is not None
                act(found)
                return found

            Takeover.begin = greet  # type: ignore[method-assign,assignment]  # that is the cut
        case "gone":
            go = Takeover.go

            def go_on(self: Takeover) -> None:
                add = Inherited.add

                def given(*arguments: Any) -> None:
                    add(*arguments)
                    act(self)

                Inherited.add = given  # type: ignore[method-assign,assignment]  # as above
                go(self)

            Takeover.go = go_on  # type: ignore[method-assign]  # as above
        case _:
            name = {"at rest": "rest", "claimed": "go", "done": "finish"}[step]
            real = getattr(Takeover, name)

            def cut_after(self: Takeover) -> None:
                real(self)
                act(self)

            setattr(Takeover, name, cut_after)


def strike(number: int, whom: str, takeover: Takeover) -> None:
    """What happens after the step; 0 is no signal, but a failure of the kernel's."""
    if not number:
        raise KernelError("it was to fail")
    os.kill(takeover.pid if whom == "old" else os.getpid(), number)


def main() -> None:
    """Entry point."""
    step, number, whom = sys.argv[1:4]
    if int(number) == signal.SIGSTOP:  # what hangs is not waited for long
        Takeover.seconds = property(lambda _: WAKE_SECONDS)  # type: ignore[assignment,method-assign]  # for the old one
    cut(step, partial(strike, int(number), whom))
    sys.argv[1:] = sys.argv[sys.argv.index("svcnet.cli.daemon") + 1 :]
    daemon.main()


if __name__ == "__main__":
    main()
