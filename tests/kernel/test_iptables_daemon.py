"""The daemon on iptables, as a client and an operator see it: starts, changes, switches of mode, damage, cleanup."""

import signal
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

import pytest

from tests.harness.files import endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.until import until

pytestmark = [pytest.mark.kernel, pytest.mark.needs("iptables")]

WEB = service("web", VIP, VIP6, ipFamilyPolicy="RequireDualStack")
TALK_VIP, TALK_PORTS = "10.0.0.9", (8081, 8082)
_PORTS = [{"name": f"p{port}", "port": port, "protocol": "TCP"} for port in TALK_PORTS]
TALK = service("talk", TALK_VIP, ports=_PORTS), endpoints("talk", A) | {"ports": _PORTS}
"""A service that leads to ports where nothing answers by itself."""
IPTABLES, NFTABLES, USERSPACE = "--mode=iptables", "--mode=nftables", "--mode=userspace"
VARIANTS = ("legacy", "nft")


SHOP = ("-A", "INPUT", "-m", "comment", "--comment", "shop", "-j", "ACCEPT")


def choose(minion: Minion, variant: str) -> None:
    """Put a rule of somebody else in the tables of one variant: svcnet goes where the machine's rules are."""
    for command in ("iptables", "ip6tables"):
        done = minion.run(f"{command}-{variant}", *SHOP)
        assert done.returncode == 0, done.stderr


def in_force(minion: Minion, variant: str) -> set[str]:
    """The modes that have something in the kernel."""
    there = {
        "nftables": "table ip svcnet" in minion.ruleset(),
        "iptables": "SVCNET-" in rules(minion, variant),
        "userspace": bool(minion.run("ip", "route", "show", "table", "local", "proto", "115").stdout),
    }
    return {mode for mode, is_there in there.items() if is_there}


def rules(minion: Minion, variant: str) -> str:
    """All rules and chains of a variant, sorted by chain, without counters and dates."""
    saved = [minion.run(f"{command}-{variant}-save").stdout for command in ("iptables", "ip6tables")]
    lines = [line for text in saved for line in text.splitlines() if line.startswith(("-A", ":SVCNET-"))]
    return "\n".join(sorted(lines, key=lambda line: line.split()[:2]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_service_is_reached_changed_refused_and_taken_away(minion: Minion, variant: str) -> None:
    choose(minion, variant)
    minion.put(WEB, endpoints("web", A, B), endpoints("web", A6, B6), service("none", "10.0.0.6"))
    daemon = minion.daemon(IPTABLES).ready()
    status = daemon.status()
    assert status["mode"] == "iptables"
    assert f"{variant} tables" in status["mode_reason"]
    assert minion.reaches(VIP, A, B)
    assert minion.reaches(VIP6, A6, B6)
    assert minion.reaches(VIP, A, B, protocol="udp")
    assert [minion.ask("10.0.0.6"), minion.ask(VIP, port=81), minion.ask("10.0.0.7")] == [
        "refused",
        "refused",
        "silence",
    ]
    assert ("SVCNET-10.0.0.5.tcp.80" in minion.ruleset()) == (variant == "nft")  # nft lists every rule of ours
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    minion.remove(endpoints("web", C))
    assert minion.reaches(VIP, "refused")
    minion.put(endpoints("none", B))
    assert minion.reaches("10.0.0.6", B)
    minion.remove(WEB)
    assert minion.reaches(VIP, "silence")
    assert daemon.status()["drift"] == 0
    assert daemon.status()["last_error"] == ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_udp_conversation_moves_when_its_endpoint_goes(minion: Minion, variant: str) -> None:
    choose(minion, variant)
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon(IPTABLES).ready()
    with minion.conversation(VIP) as talk:
        assert talk.say() == A
        minion.put(endpoints("web", B))
        daemon.until(lambda: talk.say() == B)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_start_over_the_same_records_changes_no_rule_and_fails_no_client(minion: Minion, variant: str) -> None:
    choose(minion, variant)
    minion.put(WEB, endpoints("web", A, B), endpoints("web", A6, B6))
    first = minion.daemon(IPTABLES).ready()
    before = rules(minion, variant)
    assert VIP in before
    with minion.hammer(VIP) as four, minion.hammer(VIP6) as six:
        first.kill()
        second = minion.daemon(IPTABLES).ready()
        assert rules(minion, variant) == before
        asked = four.answers, six.answers
        until(lambda: four.answers > asked[0] + 20 and six.answers > asked[1] + 20)
    assert second.stop() == 0
    assert rules(minion, variant) == before
    assert plan(minion) == "0 to create, 0 to update, 0 to delete"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_change_leaves_all_other_chains_alone(minion: Minion, variant: str) -> None:
    """Counters start at 0 in a chain that is written again."""
    choose(minion, variant)
    minion.put(WEB, endpoints("web", A), service("other", "10.0.0.6"), endpoints("other", B))
    minion.daemon(IPTABLES).ready()
    chain = ("-t", "nat", "-S", "SVCNET-10.0.0.6.tcp.80", "-v")
    assert minion.ask("10.0.0.6") == B
    counted = minion.run(f"iptables-{variant}", *chain).stdout
    assert " -c 1 " in counted
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    assert minion.run(f"iptables-{variant}", *chain).stdout == counted


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("old", "new"), [(NFTABLES, IPTABLES), (IPTABLES, NFTABLES)])
def test_a_switch_of_mode_fails_no_client_and_leaves_nothing_of_the_old(
    minion: Minion, variant: str, old: str, new: str
) -> None:
    choose(minion, variant)
    minion.put(WEB, endpoints("web", A, B), endpoints("web", A6, B6))
    first = minion.daemon(old).ready()
    with minion.hammer(VIP) as four, minion.hammer(VIP6) as six:
        until(lambda: four.answers > 20 and six.answers > 20)
        first.signal(signal.SIGTERM)
        first.ended()
        second = minion.daemon(new).ready()
        asked = four.answers, six.answers
        until(lambda: four.answers > asked[0] + 50 and six.answers > asked[1] + 50)
    until(lambda: in_force(minion, variant) == {new.removeprefix("--mode=")})
    assert "shop" in rules(minion, variant)
    assert second.status()["last_error"] == ""


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("old", [NFTABLES, IPTABLES])
def test_userspace_takes_over_fails_no_client_and_leaves_nothing_of_the_old(
    minion: Minion, variant: str, old: str
) -> None:
    choose(minion, variant)
    minion.put(WEB, endpoints("web", A, B), endpoints("web", A6, B6))
    first = minion.daemon(old).ready()
    with minion.hammer(VIP) as four, minion.hammer(VIP6) as six:
        until(lambda: four.answers > 20 and six.answers > 20)
        assert first.stop() == 0
        second = minion.daemon(USERSPACE).ready()
        until(lambda: in_force(minion, variant) == {"userspace"})
        asked = four.answers, six.answers
        until(lambda: four.answers > asked[0] + 50 and six.answers > asked[1] + 50)
    assert minion.reaches(VIP, A, B)
    assert minion.reaches(VIP6, A6, B6)
    assert "shop" in rules(minion, variant)
    assert second.status()["last_error"] == ""


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("old", [NFTABLES, IPTABLES])
def test_what_is_open_goes_on_in_userspace_mode_and_the_rules_end_with_it(
    minion: Minion, variant: str, old: str
) -> None:
    choose(minion, variant)
    minion.put(*TALK, WEB, endpoints("web", A))
    first = minion.daemon(old).ready()
    with minion.call(TALK_VIP, A, TALK_PORTS[0]) as call, minion.conversation(VIP) as talk:
        assert [call.say("before"), talk.say()] == ["before", A]
        first.stop()
        second = minion.daemon(USERSPACE).ready()
        second.until(lambda: "silenced" in second.log)
        minion.put(endpoints("web", B))
        second.until(lambda: talk.say() == B)  # UDP has no end that rules could wait for
        assert call.say("after") == "after"
        assert len(in_force(minion, variant)) == 2
    second.until(lambda: in_force(minion, variant) == {"userspace"})


SWITCHES = [
    (variant, old, new)
    for old, new in permutations(["nftables", "iptables", "userspace"], 2)
    for variant in (VARIANTS if "iptables" in (old, new) else VARIANTS[:1])
]


@pytest.mark.parametrize(("variant", "old", "new"), SWITCHES)
def test_a_reload_in_another_mode_fails_no_client_and_cuts_no_connection(
    minion: Minion, variant: str, old: str, new: str
) -> None:
    """Of the minion itself and of a pod; the connections say nothing while the mode changes."""
    choose(minion, variant)
    minion.put(*TALK, WEB, endpoints("web", A, B), endpoints("web", A6, B6))
    config, pod = minion.root / "svcnet.toml", minion.pod()
    config.write_text(f'mode = "{old}"\n')
    daemon = minion.daemon(f"--config={config}").ready()
    hammers = [minion.hammer(address, where) for address in (VIP, VIP6) for where in ("", pod)]
    with ExitStack() as clients:
        here, there = (
            clients.enter_context(minion.call(TALK_VIP, A, port, where))
            for port, where in zip(TALK_PORTS, ("", pod), strict=True)
        )
        for hammer in hammers:
            clients.enter_context(hammer)
        until(lambda: all(hammer.answers > 20 for hammer in hammers))
        assert [here.say("before"), there.say("it")] == ["before", "it"]
        config.write_text(f'mode = "{new}"\n')
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda: daemon.status()["mode"] == new)
        daemon.ready()
        asked = [hammer.answers for hammer in hammers]
        until(lambda: all(hammer.answers > before + 50 for hammer, before in zip(hammers, asked, strict=True)))
        assert [here.say("after"), there.say("all")] == ["after", "all"]
    daemon.until(lambda: in_force(minion, variant) == {new})
    assert "shop" in rules(minion, variant)
    assert daemon.status()["last_error"] == ""


def test_rules_in_the_other_tables_give_way_too(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    choose(minion, "nft")
    minion.daemon(IPTABLES).ready().stop()
    for command in ("iptables", "ip6tables"):
        assert minion.run(f"{command}-nft", "-D", "INPUT", "2").returncode == 0
    choose(minion, "legacy")
    with minion.hammer(VIP) as four, minion.hammer(VIP6) as six:
        minion.daemon(IPTABLES).ready()
        asked = four.answers, six.answers
        until(lambda: four.answers > asked[0] + 20 and six.answers > asked[1] + 20)
    assert "SVCNET-" in rules(minion, "legacy")
    until(lambda: "SVCNET-" not in rules(minion, "nft"))


def test_rules_of_others_in_both_kinds_of_tables_are_warned_of(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    for variant in VARIANTS:
        choose(minion, variant)
    daemon = minion.daemon(IPTABLES).ready()
    assert "2 rules in " in daemon.log
    assert "packets pass both" in daemon.log


@pytest.mark.parametrize("variant", VARIANTS)
def test_cleanup_removes_our_chains_of_every_kind_and_nothing_else(minion: Minion, variant: str) -> None:
    choose(minion, variant)
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    daemon = minion.daemon(IPTABLES).ready()
    busy = minion.daemon("--cleanup")
    assert busy.ended() == 1
    daemon.stop()
    cleanup = minion.daemon("--cleanup")
    assert cleanup.ended() == 0
    assert f"removed iptables chains SVCNET- ({variant} tables)" in cleanup.log
    assert rules(minion, variant).splitlines() == ["-A INPUT -m comment --comment shop -j ACCEPT"] * 2
    again = minion.daemon("--cleanup")
    assert again.ended() == 0
    assert "nothing of svcnet" in again.log


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("damage", ["-t nat -F", "-t filter -F", "-t nat -D PREROUTING 1", "-t nat -F SVCNET-SERVICES"])
def test_what_somebody_else_broke_is_mended(minion: Minion, variant: str, damage: str) -> None:
    choose(minion, variant)
    minion.put(WEB, endpoints("web", A), service("none", "10.0.0.6"))
    daemon = minion.daemon(IPTABLES).ready()
    before = rules(minion, variant)
    assert minion.run(f"iptables-{variant}", *damage.split()).returncode == 0
    if damage == "-t filter -F":
        assert minion.run(f"iptables-{variant}", *SHOP).returncode == 0
    daemon.until(lambda: rules(minion, variant) == before)
    assert [minion.ask(VIP), minion.ask("10.0.0.6")] == [A, "refused"]
    daemon.until(lambda: daemon.status()["drift"] > 0)


def test_auto_takes_iptables_where_nft_is_missing_and_says_why(minion: Minion, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    minion.put(WEB, endpoints("web", A))
    hide = f'touch {programs}/nft && mount --bind {programs}/nft "$(readlink -f "$(command -v nft)")" && exec "$@"'
    hidden = ("unshare", "--mount", "sh", "-c", hide, "sh")
    daemon = minion.daemon("--mode=auto", wrap=hidden).ready()
    status = daemon.status()
    assert status["mode"] == "iptables"
    assert "the program nft is missing" in status["mode_reason"]
    assert minion.ask(VIP) == A


def plan(minion: Minion) -> str:
    done = minion.svcnet("plan", *minion.options(), IPTABLES)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]
