"""`svcnet exec`, the real program with real children."""

import asyncio
import json
import os
import pty
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from svcnet.cli.child import Child
from tests.cli.conftest import PROGRAM, Cli
from tests.harness.until import until

# Writes a line "PID HOST PORT" to the file $1 at every start, a line with its number for every signal, and waits.
CHILD = """
import os, signal, sys
numbers = {getattr(signal, name) for name in sys.argv[2:]}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # a handler could come between a look and a pause, and be missed
signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own would wait for the next signal
values = [os.environ.get(f"TOMCAT_SERVICE_{w}", "-") for w in ("HOST", "PORT")]
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(out, (" ".join([str(os.getpid()), *values]) + "\\n").encode())
while True: os.write(out, f"signal {signal.sigwait(numbers)}\\n".encode())
"""


class Running:
    """One `svcnet exec` and what its children wrote."""

    def __init__(self, process: Popen[str], file: Path) -> None:
        self.process, self.file = process, file

    def lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def starts(self) -> list[list[str]]:
        return [line.split() for line in self.lines() if not line.startswith("signal")]

    def wait_lines(self, number: int) -> list[str]:
        until(lambda: len(self.lines()) >= number, self._ended)
        return self.lines()

    def _ended(self) -> str:
        if self.process.poll() is not None:
            raise AssertionError(f"exec ended: {self.process.returncode} {self.process.communicate()}")
        return str(self.lines())


Start = Callable[..., Running]


@pytest.fixture
def start(cli: Cli, tmp_path: Path) -> Iterator[Start]:
    """Start `svcnet exec OPTIONS -- CHILD`; `handled` are signals that the child notes and survives."""
    running: list[Running] = []

    def begin(*options: str, handled: tuple[str, ...] = ()) -> Running:
        file = tmp_path / f"child{len(running)}"
        process = cli.start("exec", *options, "--", sys.executable, "-c", CHILD, str(file), *handled)
        running.append(Running(process, file))
        return running[-1]

    yield begin
    for one in running:
        one.process.kill()
        one.process.communicate()
        until(lambda one=one: not any(alive(int(s[0])) for s in one.starts()))  # type: ignore[misc]  # bound now


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def tomcat(cli: Cli, port: int = 8080, **spec: Any) -> None:
    cli.ok("apply", "-f", "-", stdin=json.dumps(cli.service("tomcat", port, **spec)))


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_the_exit_code_is_the_child_s(cli: Cli, script: str, code: int) -> None:
    assert cli.process("exec", "--", "sh", "-c", script).returncode == code


def test_the_child_gets_its_environment_input_and_the_variables(cli: Cli) -> None:
    cli.create(cli.service("tomcat"), cli.service("db", 5432), cli.service("far", namespace="other"))
    address = cli.json("get", "svc", "tomcat")["spec"]["clusterIP"]
    script = (
        'read word; echo "$word $MINE $TOMCAT_SERVICE_HOST:$TOMCAT_SERVICE_PORT $TOMCAT_PORT ${FAR_SERVICE_HOST-no}"'
    )
    done = cli.process("exec", "--", "sh", "-c", script, stdin="given\n", MINE="kept")
    assert (done.stdout, done.stderr) == (f"given kept {address}:8080  no\n", "")
    links = cli.process("exec", "tomcat", "--docker-links", "--", "sh", "-c", "echo $TOMCAT_PORT ${DB_SERVICE_HOST-no}")
    assert links.stdout == f"tcp://{address}:8080 no\n"
    other = cli.process(
        "exec", "-n", "other", "--", "sh", "-c", "echo ${TOMCAT_SERVICE_HOST-no}; test $FAR_SERVICE_PORT"
    )
    assert (other.returncode, other.stdout) == (0, "no\n")


def test_a_program_that_can_not_be_started_has_the_codes_of_a_shell(cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a program")
    missing = cli.process("exec", "--", "no-such-program")
    assert (missing.returncode, missing.stderr) == (127, "svcnet: exec: no-such-program: No such file or directory\n")
    plain = cli.process("exec", "--", text)
    assert plain.returncode == 126
    text.chmod(0o755)
    assert cli.process("exec", "--", text).returncode == 126
    assert cli.process("exec", "--", tmp_path).returncode == 126


@pytest.mark.parametrize(
    "arguments", [["exec"], ["exec", "sh"], ["exec", "--"], ["exec", "--on-change", "boo", "--", "sh"]]
)
def test_wrong_use_is_told(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("svcnet exec: ")


def test_options_of_the_command_are_its_own(cli: Cli) -> None:
    assert cli.process("exec", "--", "echo", "-n", "--", "--help").stdout == "-- --help"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["tomcta"], "service/tomcta not found in namespace default"),
        (["tomcat", "a", "b"], "service/a not found in namespace default; service/b not found in namespace default"),
        (["-n", "prod"], "namespace/prod not found"),
        (["-n", "prod", "tomcat"], "namespace/prod not found"),
        (["-n", "far", "tomcat"], "service/tomcat not found in namespace far"),
    ],
)
def test_what_is_named_and_not_there_is_told_and_nothing_is_started(cli: Cli, options: list[str], said: str) -> None:
    cli.create(cli.service("tomcat"), cli.service("db", namespace="far"))
    done = cli.process("exec", *options, "--", "touch", "started")
    assert (done.returncode, done.stderr) == (1, f"svcnet: {said}\n")
    assert not (cli.directory / "started").exists()


def test_a_service_that_cannot_be_read_is_not_found_and_the_reason_is_told(cli: Cli) -> None:
    (cli.records / "tomcat.json").write_text('{"apiVersion": "v1", "kind": "Service"')
    done = cli.process("exec", "tomcat", "--", "true")
    assert done.returncode == 1
    assert done.stderr.startswith("svcnet: service/tomcat not found in namespace default; ")
    assert "tomcat.json" in done.stderr


def test_without_a_service_in_the_default_namespace_a_command_runs(cli: Cli) -> None:
    done = cli.process("exec", "--", "true")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_service_that_goes_later_is_told_and_the_child_is_not_left_alone(cli: Cli, start: Start) -> None:
    tomcat(cli)
    running = start("tomcat")
    running.wait_lines(1)
    cli.ok("delete", "svc", "tomcat")
    assert running.process.stderr is not None
    assert running.process.stderr.readline() == "svcnet exec: service/tomcat not found in namespace default\n"
    assert [line.split()[1:] for line in running.wait_lines(2)][1] == ["-", "-"]


def test_a_changed_variable_restarts_and_what_changes_none_does_not(cli: Cli, start: Start) -> None:
    tomcat(cli)
    running = start()
    first = running.wait_lines(1)[0].split()
    cli.create(cli.pod("p1", "tomcat", "10.1.0.1"))  # an endpoint
    tomcat(cli, sessionAffinity="ClientIP")
    tomcat(cli, 9090)
    second = running.wait_lines(2)[1].split()
    assert [first[1:], second[1:]] == [[first[1], "8080"], [first[1], "9090"]]
    assert not alive(int(first[0]))
    cli.ok("delete", "service", "tomcat")
    assert running.wait_lines(3)[2].split()[1:] == ["-", "-"]
    running.process.terminate()
    assert running.process.wait(30) == 143
    assert running.process.stderr is not None
    assert running.process.stderr.read().splitlines() == [
        "svcnet exec: restart: ~TOMCAT_SERVICE_PORT",
        "svcnet exec: restart: -TOMCAT_SERVICE_HOST -TOMCAT_SERVICE_PORT",
    ]


def test_many_changes_at_once_are_one_restart(cli: Cli, start: Start) -> None:
    running = start()
    running.wait_lines(1)
    # It finds them all at once: on a slow machine the first were old before the last was written.
    running.process.send_signal(signal.SIGSTOP)
    cli.create(*(cli.service(f"s{i}") for i in range(50)), cli.service("tomcat"))
    running.process.send_signal(signal.SIGCONT)
    assert running.wait_lines(2)[1].split()[2] == "8080"
    tomcat(cli, 9090)
    assert [line.split()[2] for line in running.wait_lines(3)] == ["-", "8080", "9090"]


def test_a_child_that_asked_for_it_gets_sighup_and_stays(cli: Cli, start: Start) -> None:
    running = start("--on-change", "SIGHUP", handled=("SIGHUP",))
    first = running.wait_lines(1)[0].split()[0]
    tomcat(cli)
    assert running.wait_lines(2)[1] == f"signal {int(signal.SIGHUP)}"
    assert alive(int(first))


def test_none_leaves_the_child_alone(cli: Cli, start: Start) -> None:
    quiet = start("--on-change", "none")
    loud = start()  # when this one has seen it, the other had the time to
    quiet.wait_lines(1)
    loud.wait_lines(1)
    tomcat(cli)
    loud.wait_lines(2)
    tomcat(cli, 9090)
    loud.wait_lines(3)
    assert len(quiet.lines()) == 1


def test_signals_are_passed_on(cli: Cli, start: Start) -> None:
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGQUIT")
    running = start(handled=names)
    for count, name in enumerate(names, 1):
        running.wait_lines(count)
        running.process.send_signal(getattr(signal, name))
        assert running.wait_lines(count + 1)[count] == f"signal {int(getattr(signal, name))}"


def test_a_child_that_was_told_to_end_is_not_started_again(cli: Cli, start: Start) -> None:
    running = start(handled=("SIGTERM",))
    other = start()
    pid = int(running.wait_lines(1)[0].split()[0])
    other.wait_lines(1)
    running.process.terminate()
    running.wait_lines(2)
    tomcat(cli)
    other.wait_lines(2)
    tomcat(cli, 9090)
    other.wait_lines(3)
    os.kill(pid, signal.SIGKILL)
    assert running.process.wait(30) == 137
    assert len(running.starts()) == 1


def test_an_end_that_is_asked_for_during_a_restart_is_one(cli: Cli, start: Start) -> None:
    running = start(handled=("SIGTERM",))
    pid = int(running.wait_lines(1)[0].split()[0])
    tomcat(cli)
    assert running.wait_lines(2)[1] == "signal 15"
    running.process.send_signal(signal.SIGINT)  # it would be the default action of a child that is about to be started
    assert running.process.wait(30) == 130
    assert len(running.starts()) == 1
    assert not alive(pid)


def test_a_child_that_does_not_end_is_killed_after_the_grace(tmp_path: Path) -> None:
    file = tmp_path / "child"

    async def run() -> int:
        child = Child([sys.executable, "-c", CHILD, str(file), "SIGTERM"], os.environ)
        while not (file.exists() and file.read_text()):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.005)
        await child.end(0.05)
        return child.code

    assert asyncio.run(run()) == -signal.SIGKILL
    assert file.read_text().splitlines()[1:] == ["signal 15"]


def test_what_we_were_started_to_ignore_is_ignored(cli: Cli, tmp_path: Path) -> None:
    """As nohup does it."""
    file = tmp_path / "child"
    command = shlex.join([str(PROGRAM), "exec", "--", sys.executable, "-c", CHILD, str(file), "SIGUSR1"])
    process = Popen(["sh", "-c", f"trap '' HUP; exec {command}"], text=True, stdout=PIPE, stderr=PIPE)
    running = Running(process, file)
    try:
        running.wait_lines(1)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        assert running.wait_lines(2)[1] == f"signal {int(signal.SIGUSR1)}"
    finally:
        process.terminate()
        process.communicate()


def test_the_child_ends_when_we_are_killed(cli: Cli, start: Start) -> None:
    running = start()
    pid = int(running.wait_lines(1)[0].split()[0])
    running.process.kill()
    until(lambda: not alive(pid))


def test_a_store_that_goes_away_leaves_the_child_and_its_return_is_followed(cli: Cli, start: Start) -> None:
    tomcat(cli)
    running = start()
    running.wait_lines(1)
    away = cli.records.rename(cli.directory / "away")
    assert running.process.stderr is not None
    assert running.process.stderr.readline().startswith("svcnet exec: store away: ")
    assert len(running.lines()) == 1
    away.rename(cli.records)
    tomcat(cli, 9090)
    assert [line.split()[2] for line in running.wait_lines(2)] == ["8080", "9090"]


def test_without_a_store_nothing_is_started_until_it_is_there(cli: Cli, start: Start) -> None:
    cli.records.rmdir()
    running = start()
    assert running.process.stderr is not None
    assert "store away" in running.process.stderr.readline()
    assert not running.lines()
    cli.records.mkdir()
    running.wait_lines(1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_waiting_for_a_store_ends_by_a_signal(cli: Cli, start: Start, number: signal.Signals) -> None:
    cli.records.rmdir()
    running = start()
    assert running.process.stderr is not None
    running.process.stderr.readline()
    running.process.send_signal(number)
    assert running.process.wait(30) == 128 + number


def test_ctrl_c_at_a_terminal_reaches_the_child_once(cli: Cli, tmp_path: Path) -> None:
    """A session of its own with a terminal: what is typed there becomes a signal for all that run in it."""
    file = tmp_path / "child"
    pid, terminal = pty.fork()
    if not pid:
        os.execv(PROGRAM, [str(PROGRAM), "exec", "--", sys.executable, "-c", CHILD, str(file), "SIGINT"])
    try:
        until(file.exists)
        until(file.read_text)
        os.write(terminal, b"\x03")
        until(lambda: "signal" in file.read_text())
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
        assert file.read_text().count("signal 2") == 1
    finally:
        os.close(terminal)
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
