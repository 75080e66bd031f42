"""The program as a process: what it loads, pipes, interrupts, users, usage; and the commands that only print."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from svcnet import config
from svcnet.cli.main import COMMANDS

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

PROGRAM = Path(sys.executable).with_name("svcnet")

HEAVY = {"aiohttp", "rich", "yaml", "prometheus_client", "http", "pyroute2"}


def test_the_2014_service_by_the_real_program(cli: "Cli") -> None:
    seed = Path(__file__).parents[1] / "records" / "tomcat-service.json"
    assert cli.process("create", "-f", seed) == (0, "service/tomcat created\n", "")
    done = cli.process("get", "services")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].split() == ["NAME", "VIRTUAL", "IP", "PORT(S)", "ENDPOINTS", "SELECTOR", "AGE"]
    assert "\x1b" not in done.stdout


def test_listing_services_loads_nothing_heavy(cli: "Cli") -> None:
    script = (
        "import sys; from svcnet.cli.main import run, svcnet\n"
        "code = run(svcnet, ['get', 'services'])\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\nsys.exit(code)"
    )
    cli.create(cli.service("a"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.splitlines()[-1].split())


def test_a_reader_that_goes_away_is_no_error(cli: "Cli") -> None:
    records = [cli.service(f"service-{n:04}") for n in range(2000)]
    whole = {"apiVersion": "v1", "kind": "List", "items": records}
    (cli.records / "all.json").write_text(json.dumps(whole))
    process = cli.start("get", "svc", "-o", "json")
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert process.stdout.read(1) == "{"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


def on_a_terminal(*arguments: str, **environ: str) -> str:
    """What a command shows on a terminal."""
    ours, theirs = os.openpty()
    try:
        done = subprocess.run([PROGRAM, *arguments], stdout=theirs, env=os.environ | environ, check=True)
        assert done.returncode == 0
    finally:
        os.close(theirs)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # EIO: nobody writes any more
        while part := terminal.read(4096):
            shown += part
    return shown.decode()


def test_colour_is_for_terminals_and_obeys_no_color(cli: "Cli", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    cli.create(cli.service("a"))
    assert "\x1b[1mNAME" in on_a_terminal("get", "svc", TERM="xterm")
    assert "\x1b" not in on_a_terminal("get", "svc", TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in on_a_terminal("get", "svc", TERM="dumb")


@pytest.mark.parametrize("output", ["", "json"])
def test_watch_prints_what_is_there_then_every_change(cli: "Cli", output: str) -> None:
    cli.create(cli.service("a", clusterIP="10.0.0.5"))
    process = cli.start("get", "svc", "-w", *(["-o", output] if output else []))
    assert process.stdout is not None
    assert process.stderr is not None

    def seen() -> tuple[str, str]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if output:
            change = json.loads(line)
            return change["type"], change["object"]["metadata"]["name"]
        signs = {"+": "ADDED", "~": "MODIFIED", "-": "DELETED"}
        return signs[line[0]], line.split()[1]

    try:
        if not output:
            assert process.stdout.readline().split()[0] == "NAME"
        assert seen() == ("ADDED", "a")
        cli.create(cli.service("b", clusterIP="10.0.0.6"))
        assert seen() == ("ADDED", "b")
        if not output:
            cli.create(cli.pod("p", "a", "10.1.0.5"))
            assert seen() == ("MODIFIED", "a")
        cli.ok("delete", "svc", "b")
        assert seen() == ("DELETED", "b")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


@pytest.mark.root
def test_an_ordinary_user_who_may_not_write_is_told_what_is_missing(cli: "Cli") -> None:
    path = cli.file("a.json", cli.service("a"))
    # The program may stand where another user can't read it: all of it is loaded before the user changes.
    script = (
        "import os, sys; from svcnet.cli.main import run, svcnet\n"
        f"code = run(svcnet, ['apply', '-f', {str(path)!r}]); assert code == 0, code\n"
        f"code = run(svcnet, ['delete', '-f', {str(path)!r}]); assert code == 0, code\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"sys.exit(run(svcnet, ['create', '-f', {str(path)!r}]))"
    )
    base = Path("/run") / f"svcnet-test-{os.getpid()}"
    base.mkdir(mode=0o755)
    try:
        shutil.copytree(cli.records, base / "records")
        shutil.copy(path, base / "a.json")
        script = script.replace(str(path), str(base / "a.json"))
        environ = os.environ | {"SVCNET_RECORDS": f"dir:{base / 'records'}", "SVCNET_CONFIG": "/dev/null"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environ, cwd=base, capture_output=True, text=True, check=False
        )
    finally:
        shutil.rmtree(base)
    assert done.returncode == 5, done
    assert "ermission denied" in done.stderr or "not permitted" in done.stderr
    assert str(base / "records") in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gte"], "svcnet: no command 'gte', did you mean get?\nTry: svcnet --help\n"),
        (["get"], "svcnet get: missing argument 'KIND'\nTry: svcnet get --help\n"),
        (["get", "sevrices"], "svcnet get: no kind 'sevrices', did you mean services?\nTry: svcnet get --help\n"),
        (["get", "svc", "--nope"], "svcnet get: no such option '--nope'\nTry: svcnet get --help\n"),
        (
            ["create"],
            "svcnet create: expected -f FILE, a directory, or - for standard input\nTry: svcnet create --help\n",
        ),
        (["get", "svc", "--records", "x"], "svcnet: --records: 'x' names no store, expected dir:PATH or etcd:"),
        (
            ["get", "svc", "--records", "etcd://h/p"],
            "svcnet: --records etcd://h/p: 'h' has no port, expected HOST:PORT as in h:2379\n",
        ),
        (
            ["lab", "up", "--image", "nginx"],
            "svcnet lab up: --image nginx=: expected NAME=COMMAND\nTry: svcnet lab up --help\n",
        ),
    ],
)
def test_usage_errors_have_one_style_and_exit_2(cli: "Cli", arguments: list[str], said: str) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)


def test_without_arguments_the_help_is_printed_and_the_exit_is_2(cli: "Cli") -> None:
    done = cli()
    assert (done.returncode, done.stdout) == (2, "")
    assert all(name in done.stderr for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in {"lab", "plan"}])
def test_every_command_explains_itself(cli: "Cli", name: str) -> None:
    assert cli.ok(name, "--help").startswith(f"Usage: svcnet {name} ")


def test_the_version_is_printed(cli: "Cli") -> None:
    assert cli.ok("--version").startswith("svcnet 0.")


def test_check_config_prints_a_file_that_reads_back(cli: "Cli", monkeypatch: pytest.MonkeyPatch) -> None:
    cli.file("svcnet.toml", 'zone = ["corp"]\n')
    monkeypatch.setenv("SVCNET_MODE", "none")
    output = cli.ok("check-config", "--dns-listen", "off", "--etcd-user", 'a "b" \\c')
    sources = {line.partition(" = ")[0]: line.partition("  # ")[2].strip() for line in output.splitlines()}
    assert sources["zone"] == f"{cli.directory}/svcnet.toml:1: zone"
    assert sources["mode"] == "SVCNET_MODE"
    assert sources["dns-listen"] == "--dns-listen"
    assert sources["service-cidr"] == "default"
    printed = cli.file("printed.toml", output)
    flags = {"dns_listen": "off", "etcd_user": 'a "b" \\c', "zone": "corp", "mode": "none"}
    records = {"records": os.environ["SVCNET_RECORDS"]}
    expected = config.load(flags | records, {}, os.uname().nodename, lambda _path: b"")
    assert config.load({"config": str(printed)}, {}, "other") == expected


def test_check_config_says_all_that_is_wrong_and_exits_2(cli: "Cli") -> None:
    cli.file("svcnet.toml", "mod = 1\n")
    done = cli("check-config", "--dns-workers", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"svcnet: {cli.directory}/svcnet.toml:1: mod: unknown key, did you mean mode?",
        "svcnet: --dns-workers: '0' is out of range, expected a whole number from 1 to 256",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_the_program(cli: "Cli", shell: str) -> None:
    script = cli.ok("completion", shell)
    assert "_SVCNET_COMPLETE" in script
    assert "complete" in script


def test_completion_knows_the_commands(cli: "Cli") -> None:
    done = cli.process(_SVCNET_COMPLETE="bash_complete", COMP_WORDS="svcnet de", COMP_CWORD="1")
    assert done.stdout.split() == ["plain,delete", "plain,describe"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (
            "get ",
            ["services", "pods", "endpoints", "endpointslices", "replicationcontrollers", "minions", "namespaces"],
        ),
        ("get se", ["services"]),
        ("get sv", ["svc"]),
        ("get svc ", ["db", "tomcat"]),
        ("get svc db ", ["tomcat"]),
        ("describe service t", ["tomcat"]),
        ("delete svc -n ", ["default", "far"]),
        ("delete -n far svc ", ["other"]),
        ("get svc -A o", ["other"]),
        ("get nonsense ", []),
        ("env ", ["db", "tomcat"]),
        ("exec db ", ["tomcat"]),
        ("exec db -- ./pro", ["./pro"]),
        ("create -f docs/", ["docs/"]),
        ("lab mode i", ["iptables"]),
        ("completion f", ["fish"]),
    ],
)
def test_completion_offers_what_is_there(cli: "Cli", words: str, offered: list[str]) -> None:
    cli.create(cli.service("tomcat"), cli.service("db"), cli.service("other", namespace="far"))
    *before, _ = line = ["svcnet", *words.split(" ")]
    done = cli.process(_SVCNET_COMPLETE="bash_complete", COMP_WORDS=" ".join(line), COMP_CWORD=str(len(before)))
    assert (done.stderr, [word.partition(",")[2] for word in done.stdout.split()]) == ("", offered)


def test_completion_without_records_offers_none_and_says_nothing(cli: "Cli") -> None:
    cli.records.rmdir()
    done = cli.process(_SVCNET_COMPLETE="bash_complete", COMP_WORDS="svcnet get svc ", COMP_CWORD="3")
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_env_in_every_format(cli: "Cli") -> None:
    cli.create(cli.service("tomcat", clusterIP="10.0.0.5"), cli.service("db", 5432, clusterIP="10.0.0.6"))
    whole = {
        "DB_SERVICE_HOST": "10.0.0.6",
        "DB_SERVICE_PORT": "5432",
        "TOMCAT_SERVICE_HOST": "10.0.0.5",
        "TOMCAT_SERVICE_PORT": "8080",
    }
    assert json.loads(cli.ok("env", "--format", "json")) == whole
    for form in ("dotenv", "docker", "systemd"):
        lines = cli.ok("env", "--format", form).splitlines()
        assert dict(line.split("=", 1) for line in lines) == whole
    output = subprocess.run(
        ["sh", "-c", 'eval "$1"; exec env', "sh", cli.ok("env")], env={}, capture_output=True, text=True, check=True
    ).stdout
    assert whole.items() <= dict(line.split("=", 1) for line in output.splitlines()).items()


def test_env_of_named_services_and_of_a_namespace(cli: "Cli") -> None:
    cli.create(cli.service("a"), cli.service("b"), cli.service("c", namespace="prod"))
    assert {line.split("=")[0] for line in cli.ok("env", "b", "--format", "dotenv").splitlines()} == {
        "B_SERVICE_HOST",
        "B_SERVICE_PORT",
    }
    assert "C_SERVICE_HOST" in cli.ok("env", "-n", "prod")
    assert "A_PORT_8080_TCP_ADDR" in cli.ok("env", "a", "--docker-links")
    done = cli("env", "b", "nope")
    assert done.returncode == 1
    assert "B_SERVICE_HOST" in done.stdout
    assert done.stderr == "svcnet: service/nope not found in namespace default\n"
    absent = cli("env", "-n", "nope")
    assert (absent.returncode, absent.stdout, absent.stderr) == (1, "", "svcnet: namespace/nope not found\n")
    assert cli("env", "-n", "default").returncode == 0
