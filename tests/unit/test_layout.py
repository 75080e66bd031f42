"""The layout that docs/architecture.md promises: rooms, directions, sizes, links."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("dns", "proxy", "iptables", "bench")
CODE = ("svcnet", *LINKED, "tests")
MODULE_LINES, FUNCTION_LINES = 400, 40

DECIDING = {
    "endpoints",
    "topology",
    "nearness",
    "policy",
    "terms",
    "node_address",
    "membership",
    "census",
    "tracker",
    "plan",
    "virtual_ip",
    "probe",
    "balance",
    "rendezvous",
    "jhash",
    "pacing",
    "health",
    "http_probe",
    "traffic",
}
"""Modules of svcnet/ that decide and do no I/O."""
CORE = {"model", "codec"} | DECIDING
PARTS = {"iptables", "proxy", "dns"}
SMALL = {"overlap", "instance", "sd_notify", "handover"}
"""Thin shells over one system call each; the daemon composes them."""

MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "codec": {"model"},
    **{module: {"model"} | DECIDING for module in DECIDING},
    "store": {"model", "codec", "virtual_ip"},
    **{part: CORE | {part, "feed", "wire", "handover"} for part in PARTS},
    "feed": {"model"},
    "wire": set(),
    "supervisor": {"model", "pacing", "feed"},
    **{small: {"model"} for small in SMALL},
    "doctor": {"model"},
    "trace": CORE | {"iptables"},
    "option_kind": {"model"},
    "config": {"model", "option_kind"},
    "checkpoint": {"model", "codec"},
    "env": CORE,
    "run": CORE | {"env"},
    "lab": {"model"},
    "status": CORE | PARTS | {"store", "env", "agent", "feed", "prober"},
    "keeper": CORE,
    "script": {"model"},
    "prober": CORE | {"script"},
    "tally": CORE | {"iptables"},
    "parts": CORE | PARTS | {"store"},
    "agent": CORE | PARTS | SMALL | {"config", "checkpoint", "store", "env", "run", "status", "keeper", "parts"},
}
"""Room → the rooms that it may import besides itself. Those that are absent (cli, bench, tests) may import all."""
FREE = {"cli", "bench", "tests"}


def sources() -> Iterator[Path]:
    """Every Python file, once, by its real path."""
    for top in CODE:
        yield from sorted(path for path in (ROOT / top).rglob("*.py") if not path.is_symlink())


def room(path: Path) -> str:
    """The room of a file: its top directory, or for svcnet/ the package or module below it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "svcnet" else parts[0]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of ours, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "svcnet" and rest:
                yield node.lineno, rest.partition(".")[0]


def test_every_room_imports_only_what_the_table_allows() -> None:
    wrong = []
    for path in sources():
        here = room(path)
        if here in FREE or here == "__init__":
            continue
        assert here in MAY_IMPORT, f"{path.relative_to(ROOT)}: a room that the table does not know"
        wrong += [
            f"{path.relative_to(ROOT)}:{line}: {here} imports {other}"
            for line, other in imported(ast.parse(path.read_text()))
            if other not in MAY_IMPORT[here] | {here, "__version__"}
        ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", sorted(PARTS))
def test_the_three_parts_never_import_each_other(part: str) -> None:
    assert not MAY_IMPORT[part] & PARTS - {part}


def test_the_table_sees_an_import_inside_a_function() -> None:
    tree = ast.parse(
        "def f():\n    from svcnet.proxy import pool\n    import svcnet.dns.zone\n    from svcnet import cli"
    )
    assert list(imported(tree)) == [(2, "proxy"), (3, "dns"), (4, "cli")]


def test_modules_have_at_most_400_lines() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert not {name: size for name, size in sizes.items() if size > MODULE_LINES}


def test_functions_have_at_most_40_lines() -> None:
    long = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                # A test is a scenario told from its begin to its end.
                if size > FUNCTION_LINES and not (room(path) == "tests" and node.name.startswith("test_")):
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}: {size} lines")
    assert not long, "\n".join(long)


def test_modules_say_what_they_own() -> None:
    silent = [str(p.relative_to(ROOT)) for p in sources() if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent


@pytest.mark.parametrize("name", LINKED)
def test_linked_directories_are_reached_by_a_relative_link(name: str) -> None:
    link = ROOT / "svcnet" / name
    assert link.is_symlink()
    assert link.readlink() == Path(f"../{name}")
    assert (ROOT / name).is_dir()


@pytest.mark.parametrize("name", LINKED)
def test_linked_directories_hold_no_init(name: str) -> None:
    """One in dns/ would hide dnspython whenever the tree is on sys.path."""
    assert not (ROOT / name / "__init__.py").exists()


def tracked() -> list[Path]:
    """Every file that git tracks, or without git every Python file."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return [*sources()]
    # safe.directory: root may test a tree that belongs to another user.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file() and not path.is_symlink()]


def test_the_six_code_directories_are_all_there_is() -> None:
    tops = {path.relative_to(ROOT).parts[0] for path in tracked() if len(path.relative_to(ROOT).parts) > 1}
    assert tops <= {*CODE, "docs", ".ci"}


def test_no_file_names_a_directory_of_one_machine() -> None:
    private = re.compile(r"(?<![\w.])/(?:home|work|Users)/[a-z]\w+|/root/\.")
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if private.search(line) or (len(ROOT.parts) > 2 and str(ROOT) in line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
