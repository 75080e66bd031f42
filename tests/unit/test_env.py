"""The variables of services, and that every format reads back to the same map by its own reader."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from immutables import Map

from svcnet.env import EnvFiles, environment, render, size_warning, variables
from svcnet.model.meta import Meta
from svcnet.model.service import Service, ServicePort
from svcnet.model.snapshot import Snapshot


def service(name: str, *ports: ServicePort, ip: str = "10.0.0.5", namespace: str = "default") -> Service:
    return Service(Meta(name, namespace), ports or (ServicePort(8080),), cluster_ips=(ip,) if ip else ())


def snapshot(*services: Service) -> Snapshot:
    return Snapshot(1, Map({s.key: s for s in services}))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_service_gives_the_variables_of_the_contract() -> None:
    assert variables([service("tomcat", ServicePort(8080, "http"))]) == {
        "TOMCAT_SERVICE_HOST": "10.0.0.5",
        "TOMCAT_SERVICE_PORT": "8080",
        "TOMCAT_SERVICE_PORT_HTTP": "8080",
    }


def test_docker_links_add_theirs() -> None:
    assert variables(
        [service("my-dns", ServicePort(53, "dns", "UDP"), ServicePort(80, "web.x"))], docker_links=True
    ) == {
        "MY_DNS_SERVICE_HOST": "10.0.0.5",
        "MY_DNS_SERVICE_PORT": "53",
        "MY_DNS_SERVICE_PORT_DNS": "53",
        "MY_DNS_SERVICE_PORT_WEB_X": "80",
        "MY_DNS_PORT": "udp://10.0.0.5:53",
        "MY_DNS_PORT_53_UDP": "udp://10.0.0.5:53",
        "MY_DNS_PORT_53_UDP_PROTO": "udp",
        "MY_DNS_PORT_53_UDP_PORT": "53",
        "MY_DNS_PORT_53_UDP_ADDR": "10.0.0.5",
        "MY_DNS_PORT_80_TCP": "tcp://10.0.0.5:80",
        "MY_DNS_PORT_80_TCP_PROTO": "tcp",
        "MY_DNS_PORT_80_TCP_PORT": "80",
        "MY_DNS_PORT_80_TCP_ADDR": "10.0.0.5",
    }


def test_an_ipv6_link_has_brackets() -> None:
    assert variables([service("a", ip="fd00::5")], docker_links=True)["A_PORT"] == "tcp://[fd00::5]:8080"


@pytest.mark.parametrize(
    "one",
    [
        service("a", ip=""),
        service("a", ip="None"),
        Service(Meta("a", "default"), type="ExternalName", external_name="example.org"),
    ],
)
def test_services_without_an_address_give_none(one: Service) -> None:
    assert environment([one]) == ({}, ())


def test_a_collision_keeps_the_first_and_names_both() -> None:
    found = environment([service("a.b", ip="10.0.0.2"), service("a-b", ip="10.0.0.1")])
    assert found.variables == {"A_B_SERVICE_HOST": "10.0.0.1", "A_B_SERVICE_PORT": "8080"}
    assert found.problems == ("service a.b: A_B_SERVICE_HOST is the variable of service a-b already",)


def test_a_port_name_can_collide_with_a_service() -> None:
    found = environment([service("a", ServicePort(1, "service-port")), service("a-service-port", ServicePort(2))])
    # A_SERVICE_PORT_SERVICE_PORT is the port service-port of a, and the port of a-service-port.
    assert found.variables["A_SERVICE_PORT_SERVICE_PORT"] == "1"
    assert found.problems == (
        "service a-service-port: A_SERVICE_PORT_SERVICE_PORT is the variable of service a already",
    )


def test_a_name_that_begins_with_a_digit_is_left_out_and_said() -> None:
    found = environment([service("1st"), service("b")])
    assert set(found.variables) == {"B_SERVICE_HOST", "B_SERVICE_PORT"}
    assert found.problems == ("service 1st: no variable can begin with a digit, expected a letter",)


def test_a_large_set_is_warned_about() -> None:
    many = variables([service(f"service-{n}") for n in range(3000)])
    assert "6000 variables of 3000 services are" in size_warning(many, 3000)
    assert not size_warning({"A": "1"}, 1)


names = st.from_regex(r"V_[A-Za-z0-9_]{0,8}", fullmatch=True)
no_zero = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
anything = st.dictionaries(names, st.text(no_zero, max_size=12), max_size=6)
no_control = st.dictionaries(
    names,
    st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t\"'$`\\ #;"), max_size=12),
    max_size=6,
)
one_line = st.dictionaries(names, st.text(no_zero.filter(lambda c: c not in "\n\r"), max_size=12), max_size=6)
by_sh = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def by_shell(script: str) -> dict[str, str]:
    done = subprocess.run(["sh", "-c", f"{script}\nexec env -0"], capture_output=True, check=True, env={})
    items = (item.partition(b"=") for item in done.stdout.split(b"\0"))
    return {k.decode(): v.decode() for k, _, v in items if k.startswith(b"V_")}


def by_docker(text: str) -> dict[str, str]:
    """The reader of docker run --env-file: no quoting, # begins a comment, blanks before a name are dropped."""
    found = {}
    for line in re.split(r"\r?\n", text):
        stripped = line.lstrip(" \t")
        if stripped and not stripped.startswith("#"):
            name, _, value = stripped.partition("=")
            found[name] = value
    return found


def by_systemd(text: str) -> dict[str, str]:
    """systemd.exec(5), EnvironmentFile=: inside double quotes a backslash takes \\ " ` $ and a line break."""
    found = {}
    at = 0
    while at < len(text):
        name, at = text[at : text.index("=", at)], text.index("=", at) + 1
        value = ""
        if text[at] == '"':
            at += 1
            while text[at] != '"':
                if text[at] == "\\" and text[at + 1] in '\\"`$\n':
                    at += 1
                    value += "" if text[at] == "\n" else text[at]
                else:
                    value += text[at]
                at += 1
            at += 1
        else:
            end = text.index("\n", at)
            value, at = text[at:end], end
            assert not re.search(r"[\s'\"\\]", value)
        assert text[at] == "\n"
        at += 1
        found[name] = value
    return found


@by_sh
@given(anything)
def test_shell_reads_back(values: dict[str, str]) -> None:
    assert by_shell(render(values, "shell")) == values


@by_sh
@given(anything)
def test_dotenv_reads_back_by_the_dot_of_sh(tmp_path: Path, values: dict[str, str]) -> None:
    path = tmp_path / "x.env"
    path.write_bytes(render(values, "dotenv").encode())
    assert by_shell(f"set -a; . {path}") == values


@given(one_line)
def test_docker_reads_back(values: dict[str, str]) -> None:
    assert by_docker(render(values, "docker")) == values


@given(anything)
def test_json_reads_back(values: dict[str, str]) -> None:
    assert json.loads(render(values, "json")) == values


@given(no_control)
def test_systemd_reads_back(values: dict[str, str]) -> None:
    assert by_systemd(render(values, "systemd")) == values


@pytest.mark.parametrize(
    ("form", "name", "value", "said"),
    [
        ("docker", "A", "x\ny", "A: an env file of docker can't hold a line break"),
        ("docker", "A", "x\ry", "A: an env file of docker can't hold a line break"),
        ("systemd", "A", "x\x1by", "A: an environment file of systemd can't hold control characters"),
        ("shell", "A", "x\0y", "A: a variable can't hold a zero byte"),
        ("shell", "A;B", "x", "'A;B' is no name of a variable"),
    ],
)
def test_what_a_format_cannot_carry_is_refused(form: str, name: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        render({name: value}, form)


def test_files_appear_by_namespace_and_sh_reads_them(tmp_path: Path) -> None:
    assert EnvFiles(tmp_path / "new" / "env").update(snapshot(service("a"), service("b", namespace="other"))) == 2
    path = tmp_path / "new" / "env" / "default.env"
    assert path.stat().st_mode & 0o777 == 0o644
    output = subprocess.run(["sh", "-c", f". {path}; echo $A_SERVICE_HOST"], capture_output=True, check=True).stdout
    assert output == b"10.0.0.5\n"


def test_unchanged_content_is_not_written_again(tmp_path: Path) -> None:
    files, one = EnvFiles(tmp_path), snapshot(service("a"))
    files.update(one)
    before = (tmp_path / "default.env").stat()
    assert files.update(one, ["default"]) == 0
    assert EnvFiles(tmp_path).update(one) == 0
    assert (tmp_path / "default.env").stat() == before


def test_a_change_replaces_the_file_by_rename(tmp_path: Path) -> None:
    files = EnvFiles(tmp_path)
    files.update(snapshot(service("a")))
    with (tmp_path / "default.env").open() as reader:
        assert files.update(snapshot(service("a", ip="10.0.0.9")), ["default"]) == 1
        assert "10.0.0.5" in reader.read()
    assert "10.0.0.9" in (tmp_path / "default.env").read_text()
    assert names_in(tmp_path) == ["default.env"]


def test_only_the_named_namespaces_are_touched(tmp_path: Path) -> None:
    files = EnvFiles(tmp_path)
    files.update(snapshot(service("a"), service("b", namespace="other")))
    assert files.update(snapshot(service("a", ip="10.0.0.9")), ["default"]) == 1
    assert (tmp_path / "other.env").exists()


def test_the_file_of_a_namespace_that_is_gone_goes(tmp_path: Path) -> None:
    files = EnvFiles(tmp_path)
    files.update(snapshot(service("a"), service("b", namespace="other")))
    assert files.update(snapshot(service("a")), ["other"]) == 1
    assert names_in(tmp_path) == ["default.env"]


def test_a_full_update_removes_what_an_earlier_run_left(tmp_path: Path) -> None:
    (tmp_path / "old.env").write_text("A=1\n")
    (tmp_path / "notes.txt").write_text("mine")
    assert EnvFiles(tmp_path).update(snapshot(service("a"))) == 2
    assert names_in(tmp_path) == ["default.env", "notes.txt"]


def test_a_file_that_somebody_removed_comes_back(tmp_path: Path) -> None:
    files, one = EnvFiles(tmp_path), snapshot(service("a"))
    files.update(one)
    (tmp_path / "default.env").unlink()
    assert files.update(one, ["default"]) == 1


def test_a_directory_that_cannot_be_written_is_reported_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("in the way")
    files, one = EnvFiles(tmp_path / "env"), snapshot(service("a"))
    with pytest.raises(OSError, match=str(tmp_path)):
        files.update(one)
    (tmp_path / "env").unlink()
    assert files.update(one, []) == 1


def test_collisions_are_reported_and_the_file_is_written(tmp_path: Path) -> None:
    files = EnvFiles(tmp_path)
    assert files.update(snapshot(service("a-b"), service("a.b", ip="10.0.0.6"))) == 1
    (problem,) = files.problems
    assert problem == "namespace default: service a.b: A_B_SERVICE_HOST is the variable of service a-b already"
    files.update(snapshot(service("a-b")), ["default"])
    assert not files.problems
