"""Who may import whom, and who may write what: read from the sources, nothing is run."""
from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lio_handover"

#: A module imports what stands before it, wherever in its text and if by name.  Packages count as
#: one.
ORDER = """__init__
    errors configuration names directories programs supervisor watching arrivals wholefile
    kernel_fixes locks model order transitions
    attributes parameters handler settings files shape values objects sealed document devices
    protection storage_evidence storage_policy opened late limits
    fresh diff aptpl reservations dynamic places treepaths configfs scsibus initiator
    portals dbroot cautions facts pr_reader
    papers journal owners json_splice rtslib_names rtslib_entries savefile_places
    savefile_writers savefile savefile_outline not_saved
    reader revival plan unit_serials plan_draft plan_exports plan_reservations planner
    staged readback running undo executor restored host
    probes mapping ports
    representable preflight removed core
    holder runtime answer standing away identity surviving followed survivors savefile_steps copies
    adoption gate_actions build_actions deeds meddling fence evidence onward
    admission handover byfile ours
    wording screen tree columns steps as_json log client remote move restoring tree_watches
    targetctl guard
    cli_output cli_parser cli_session cli_host_commands cli_handover_commands
    cli_restore_commands cli_main service boot""".split()
#: The one that imports modules by names in a table of its own, once a verb is wanted.
BY_NAME = "cli_main"

#: Whom extras are for; rtslib's one module is not chosen yet.
ONLY = {"dbus": {"service", "client", "remote"}, "gi": {"service", "client"},
        "configshell_fb": {"shell"}}
ONCE = "rtslib_fb"

#: Who changes anything, and where.
KERNEL = {"configfs", "scsibus"}
FILES = {"holder", "journal", "locks", "removed", "restored",
         "running", "savefile", "savefile_writers", "survivors", "undo", "wholefile", "service",
         "client"}
DEVICES = {"initiator", "cli_output"}  # /dev/sg*, /dev/vhost-scsi; /dev/null
#: What one of FILES names of /sys, only to look at it.
LOOKED_AT = {("running", "/sys/module/"), ("service", "/sys/"),
             ("service", "/sys/module/target_core_mod")}

_DEEDS = set("""chmod link makedirs mkdir mknod remove rename renames replace rmdir symlink truncate
    unlink write pwrite writev pwritev write_text write_bytes touch""".split())
_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"}

Module = tuple[str, ast.AST]


def sources() -> list[Module]:
    """(the module's name in ORDER, its syntax) of every file of the package."""
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), ast.parse(path.read_text()))
            for path in sorted(PACKAGE.rglob("*.py"))]


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names; for ``from a import b``, both what b may be: a module or something of a's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            words = (["lio_handover"] if node.level else []) + [node.module or ""]
            yield from (".".join([word for word in words if word] + [one.name])
                        for one in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) \
                and re.fullmatch(r"lio_handover(\.\w+)+", node.value):
            yield node.value  # imported, or started, by name


def imports_by_name(tree: ast.AST) -> bool:
    called = {node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
              for node in ast.walk(tree) if isinstance(node, ast.Call)
              and isinstance(node.func, (ast.Attribute, ast.Name))}
    return bool(called & {"import_module", "__import__"})


def downward(modules: list[Module]) -> list[str]:
    """Imports against the order, and of what is not in it."""
    wrong = []
    for module, tree in modules:
        if module != BY_NAME and imports_by_name(tree):
            wrong.append(f"{module} imports by name")
        for name in imports(tree):
            top, _, rest = name.partition(".")
            if top != "lio_handover":
                continue
            other = rest.split(".")[0]
            if other not in ORDER and not ((PACKAGE / f"{other}.py").exists()
                                           or other and (PACKAGE / other).is_dir()):
                other = "__init__"
            if module != other and (
                    module not in ORDER or other not in ORDER[:ORDER.index(module)]):
                wrong.append(f"{module} imports {other}")
    return wrong


def foreign(modules: list[Module]) -> list[str]:
    """Extras where they must not be needed."""
    found = [(module, name.split(".")[0]) for module, tree in modules for name in imports(tree)]
    wrong = [f"{module} imports {name}" for module, name in found
             if module not in ONLY.get(name, {module})]
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


def test_every_module_has_its_place() -> None:
    assert {module for module, _ in sources()} == set(ORDER) and len(set(ORDER)) == len(ORDER)


def test_imports_go_one_way() -> None:
    assert downward(sources()) == []


def test_extras_are_imported_where_they_are_for() -> None:
    assert foreign(sources()) == []


def test_the_kernel_is_changed_in_two_places() -> None:
    modules = sources()
    assert changing(modules) == []
    assert KERNEL | FILES | DEVICES == {module for module, tree in modules if writes(tree)}


@pytest.mark.parametrize("rule, module, source", [
    (downward, "model", "from .core import Core"),
    (downward, "errors", "def f():\n    from . import model"),
    (downward, "diff", "import lio_handover.plan"),
    (downward, "unheard_of", "from . import errors"),
    (downward, "cli_session", "def f():\n    from .cli_main import main"),
    (downward, "cli_parser", "MODULES = {'show': 'lio_handover.cli_host_commands'}"),
    (downward, "core", "import importlib\nimportlib.import_module(name)"),
    (downward, "core", "__import__('json')"),
    (foreign, "core", "import dbus.service"),
    (foreign, "client", "from configshell_fb import ConfigNode"),
    (foreign, "cli_session", "def f():\n    from gi.repository import GLib"),
    (changing, "diff", "open(path, 'w')"),
    (changing, "reader", "import os\nos.open(path, os.O_WRONLY)"),
    (changing, "plan", "from os import path\nopen(name, mode=how)"),
    (changing, "storage_evidence", "Path(name).write_text('1')"),
    (changing, "core", "import os\nos.mkdir(f'/sys/kernel/config/target/{name}')"),
    (changing, "running", "open('/sys/module/x/parameters/y', 'wb')"),
])
def test_what_breaks_a_rule_is_found(rule: Callable[[list[Module]], list[str]], module: str,
                                     source: str) -> None:
    assert rule([(module, ast.parse(source))])


def test_rtslib_has_one_module() -> None:
    one, other = (ast.parse(f"import {ONCE}"), ast.parse(f"from {ONCE} import root"))
    assert foreign([("core", one), ("core", other)]) == []
    assert foreign([("core", one), ("cli_session", other)])
