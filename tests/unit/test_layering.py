"""How the modules may use each other, and what each may touch.

The layers stand in setup.cfg, where import-linter reads them; `scripts/layers` shows them.
"""
from __future__ import annotations

import ast
import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lio_handover import started

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "lio_handover"
LINTER = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()",
          "--no-cache"]
#: Lines of a module, modules of a package.
LONGEST, MOST = 450, 12
#: Tables of pure data, which may be longer.
TABLES = {"model.attributes", "protocol.table", "verb_table"}
#: Those that import modules by their names in started.py, once a verb, or a name of the API, is
#: wanted.
BY_NAME = {"cli.main", "local.verbs", "__init__"}
#: What modules have of the package's root, beside its modules: importing these runs nothing else.
OF_THE_ROOT = {"__version__"}

#: Whom extras are for, a package or a module of it; rtslib's one module is not chosen yet.
ONLY = {"dbus": {"service", "client", "vmstate"}, "gi": {"service", "client", "vmstate"},
        "configshell_fb": {"shell"}}
ONCE = "rtslib_fb"

#: Who changes anything, and where.
KERNEL = {"kernel.configfs", "kernel.scsi_bus"}
FILES = {"scsi.endpoint_holder", "scsi.holder_process", "records.journal", "system.locks",
         "cli.quick",  # a user's preferences of the shell, by a program that loads next to nothing
         "records.removed", "records.pr_record", "records.copy_changes", "execute.step_runner",
         "savefile.save_file",
         "savefile.writers", "shell.preferences", "shell.root",
         "actions.surviving_registrations", "execute.rollback",
         "storage.made_files", "manage.schema", "system.atomic_file",
         "system.external_program",  # into a pipe
         "service.main", "service.jobs", "service.workers", "service.uploads", "service.worker",
         "client.connection", "client.asking", "vmstate.main", "vmstate.worker", "hooks.unit",
         "service.bus.interfaces"}
DEVICES = {"scsi.sg", "scsi.virtqueue", "scsi.vhost_ioctl", "cli.output"}
#: What one of FILES names of /sys, only to look at it.
LOOKED_AT = {("execute.step_runner", "/sys/module/"), ("service.worker", "/sys/"),
             ("local.survey", "/sys/module/target_core_mod")}

_DEEDS = set("""chmod link makedirs mkdir mknod remove rename renames replace rmdir symlink truncate
    unlink write pwrite writev pwritev write_text write_bytes touch""".split())
_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"}

Module = tuple[str, ast.AST]


@functools.cache
def paths() -> dict[str, Path]:
    """The module's name, without the package's → its file."""
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
            for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def sources() -> list[Module]:
    """Each module, parsed once for all rules."""
    return [(name, ast.parse(path.read_text())) for name, path in paths().items()]


def imports(tree: ast.AST) -> Iterator[str]:
    """The first word of what is imported, wherever in the text; nothing of our own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name.split(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


def by_name(modules: list[Module]) -> list[str]:
    """What is imported or started by name elsewhere than by started.py's table."""
    wrong = []
    for module, tree in modules:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and module not in BY_NAME and getattr(
                    node.func, "attr", getattr(node.func, "id", "")) in (
                    "import_module", "__import__"):
                wrong.append(f"{module} imports by name")
            if isinstance(node, ast.Constant) and isinstance(node.value, str) \
                    and node.value.removeprefix("lio_handover.") in paths() \
                    and node.value.startswith("lio_handover.") and module != "started":
                wrong.append(f"{module} names {node.value}")
    return wrong


def run_by_the_root(tree: ast.Module) -> list[str]:
    """What the package's root imports of our own, but for names.  (A block for type checkers does
    not run; started.py, which is asked with a name, imports nothing that runs.)"""
    blocks = [node for node in ast.walk(tree) if not (
        isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    typed = {id(node) for block in ast.walk(tree) if block not in blocks
             for node in ast.walk(block)}
    return [ast.unparse(node) for node in blocks
            if id(node) not in typed and isinstance(node, ast.ImportFrom) and node.level
            and node.module != "started"]


def of_the_root(modules: list[Module]) -> list[str]:
    """What is imported from the package's root that is none of its modules."""
    return [f"{module} imports {name.name}" for module, tree in modules if module != "__init__"
            for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.module
            and node.level == len(module.split("."))
            for name in node.names
            if name.name not in OF_THE_ROOT | {path.split(".")[0] for path in paths()}]


def foreign(modules: list[Module]) -> list[str]:
    """Extras where they must not be needed."""
    found = [(module, name) for module, tree in modules for name in imports(tree)]
    wrong = [f"{module} imports {name}" for module, name in found
             if name in ONLY and module.split(".")[0] not in ONLY[name]]
    users = {module for module, name in found if name == ONCE}
    return wrong + [f"{module} imports {ONCE}" for module in sorted(users) if len(users) > 1]


def writes(tree: ast.AST) -> bool:
    """Whether something is opened for writing, made, renamed or removed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) \
                and node.value.id == "os" and node.attr in _DEEDS | _FLAGS:
            return True
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("write_text", "write_bytes"):
            return True
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            modes = [*node.args[1:2], *(one.value for one in node.keywords if one.arg == "mode")]
            if any(not isinstance(one, ast.Constant) or set("wax+") & set(str(one.value))
                   for one in modes):
                return True
    return False


def changing(modules: list[Module]) -> list[str]:
    """Writers that are not known, and those of files that know a path below /sys."""
    wrong = []
    for module, tree in modules:
        if module in KERNEL or not writes(tree):
            continue
        if module not in FILES | DEVICES:
            wrong.append(f"{module} writes")
        wrong += [f"{module} names {node.value}" for node in ast.walk(tree)
                  if isinstance(node, ast.Constant) and isinstance(node.value, str)
                  and node.value.startswith("/sys") and (module, node.value) not in LOOKED_AT]
    return wrong


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LINTER, "setup.cfg"], cwd=folder, capture_output=True, text=True)


def test_imports_go_one_way() -> None:
    done = linted(CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module, line", [
    ("model/objects", "from ..host import verbs"),
    ("errors", "def f():\n    from .model import objects"),
    ("plan/order", "import lio_handover.cli.main"),
    ("model/directories", "from .objects import State"),  # a circle
    ("unheard_of", "from . import errors"),
])
def test_an_import_that_goes_up_is_found(module: str, line: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "lio_handover")
    shutil.copy(CHECKOUT / "setup.cfg", tmp_path)
    with open(tmp_path / "lio_handover" / f"{module}.py", "a") as file:
        file.write(f"\n{line}\n")
    done = linted(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr


def test_a_room_can_be_overseen() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in paths().items()}
    assert {name: count for name, count in lines.items()
            if count > LONGEST and name not in TABLES} == {}
    rooms: dict[str, int] = {}
    for name in lines:
        room, _, leaf = name.rpartition(".")
        rooms[room] = rooms.get(room, 0) + (leaf != "__init__")
    assert {room: count for room, count in rooms.items() if count > MOST} == {}


def test_modules_are_named_in_one_table() -> None:
    assert by_name(sources()) == []
    named = {*started.COMMANDS.values(), started.WORKER, started.ENDPOINT_HOLDER, started.LIBRARY,
             started.VMSTATE_WORKER, started.ASKER, started.LINES}
    assert {name.removeprefix("lio_handover.") for name in named} <= set(paths())


def test_the_root_only_names() -> None:
    """Each module has the package's root imported first: so that may import none of them."""
    assert run_by_the_root(ast.parse(paths()["__init__"].read_text())) == []
    assert of_the_root(sources()) == []
    for line in ("from . import library", "def f():\n    from .library import Host"):
        assert run_by_the_root(ast.parse(line))
    assert of_the_root([("host.verbs", ast.parse("from .. import Host"))])


def test_extras_are_imported_where_they_are_for() -> None:
    assert foreign(sources()) == []


def test_the_kernel_is_changed_in_two_places() -> None:
    modules = sources()
    assert changing(modules) == []
    assert KERNEL | FILES | DEVICES == {module for module, tree in modules if writes(tree)}


@pytest.mark.parametrize("rule, module, source", [
    (by_name, "cli.parser", "MODULES = {'show': 'lio_handover.cli.host_commands'}"),
    (by_name, "host.verbs", "import importlib\nimportlib.import_module(name)"),
    (by_name, "host.verbs", "__import__('json')"),
    (foreign, "host.verbs", "import dbus.service"),
    (foreign, "client.connection", "from configshell_fb import ConfigNode"),
    (foreign, "cli.session", "def f():\n    from gi.repository import GLib"),
    (changing, "model.diff", "open(path, 'w')"),
    (changing, "kernel.reader", "import os\nos.open(path, os.O_WRONLY)"),
    (changing, "plan.plan", "from os import path\nopen(name, mode=how)"),
    (changing, "storage.evidence", "Path(name).write_text('1')"),
    (changing, "host.verbs", "import os\nos.mkdir(f'/sys/kernel/config/target/{name}')"),
    (changing, "execute.step_runner", "open('/sys/module/x/parameters/y', 'wb')"),
])
def test_what_breaks_a_rule_is_found(rule: Callable[[list[Module]], list[str]], module: str,
                                     source: str) -> None:
    assert rule([(module, ast.parse(source))])


def test_rtslib_has_one_module() -> None:
    one, other = (ast.parse(f"import {ONCE}"), ast.parse(f"from {ONCE} import root"))
    assert foreign([("host.verbs", one), ("host.verbs", other)]) == []
    assert foreign([("host.verbs", one), ("cli.session", other)])
