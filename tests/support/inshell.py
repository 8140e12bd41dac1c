"""What tests of `lio-handover shell` run inside a host: its lines, and the same by targetcli."""
from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab import inside
from tests.support import inhost
from tests.support.inmanage import command

#: What runs a story: targetcli of the distribution, the newest one, our shell.
OLD, NEW, OURS = "targetcli 2.1.53", "targetcli 3.0.2", "lio-handover shell"
CONFIG = "/run/lio-handover-shell.conf"

#: Runs lines of targetcli in one process, each as a process of its own would: the tree is read
#: anew.  It needs a system bus for backstores in user space alone.
_DRIVER = """
import importlib.machinery, importlib.util, io, json, sys
real, sys.stdout, sys.stderr = sys.stdout, io.StringIO(), io.StringIO()
from targetcli import ui_backstore
ui_backstore.UIBackstores._user_backstores = lambda self: iter(())
from targetcli.ui_root import UIRoot
try:
    from targetcli.targetcli_shell import TargetCLI
except ImportError:
    loader = importlib.machinery.SourceFileLoader("script", "/usr/bin/targetcli")
    script = importlib.util.module_from_spec(importlib.util.spec_from_loader("script", loader))
    loader.exec_module(script)
    TargetCLI = script.TargetCLI
shell = TargetCLI(sys.argv[1])
root = UIRoot(shell, as_root=True)
liked = {name: value for name, value in shell.default_prefs.items() if name[:5] == "auto_"}
for line in sys.stdin:
    for stream in (sys.stdout, sys.stderr):
        stream.seek(0); stream.truncate()
    code = 0
    try:
        if json.loads(line) == "new user":
            for name, value in liked.items():
                shell.prefs[name] = value
            continue
        root.refresh()
        shell._current_node = root
        shell.run_cmdline(json.loads(line))
    except Exception as error:
        code = 1
        sys.stderr.write(str(error) + "\\n")
    real.write(json.dumps([code, sys.stdout.getvalue(), sys.stderr.getvalue()]) + "\\n")
    real.flush()
"""

#: Folders of counters, and files that change with each reading, that say who was there before, or
#: in which order things came.
_COUNTERS = ("statistics", "fabric_statistics")
_LOOSE = re.compile(r"dbroot|.*/pr/res_aptpl_.*|core/alua/lu_gps/.*/members|.*/rtpi"
                    r"|iscsi/lio_version")
_HBA = re.compile(r"\b(core/|)(fileio|iblock|rd_mcp|pscsi)_[0-9]+(?=/)")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Told(NamedTuple):
    """What a line came to: its exit code, what it said, and the kernel's tree then."""

    code: int
    out: str
    err: str
    tree: dict[str, str]


def tree() -> dict[str, str]:
    """The kernel's tree, file by file, but for what may be any way: numbers of HBAs, names of
    links, and names that are made up are alike."""
    found: dict[str, str] = {}
    _read(str(inside.TARGET), "", found)
    return found


def _read(folder: str, name: str, found: dict[str, str]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{name}{entry.name}"
            if entry.is_symlink():
                found[f"{name}@link"] = _HBA.sub(r"\1\2", os.path.realpath(entry.path))
            elif entry.is_dir():
                if entry.name not in _COUNTERS:
                    path = _HBA.sub(r"\1\2", f"{path}/")
                    found[path] = ""
                    _read(entry.path, path, found)
            elif not _LOOSE.fullmatch(path):
                found[path] = _alike(path, _said(entry.path))


def _said(path: str) -> str:
    """What a file says; the error's number where it can't be read."""
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            return os.read(fd, 4096).decode(errors="surrogateescape")
        finally:
            os.close(fd)
    except OSError as error:
        return f"errno {error.errno}"


def _alike(path: str, text: str) -> str:
    if path.endswith(("wwn/vpd_unit_serial", "wwn/vpd_assoc_logical_unit")) and (
            _UUID.search(text) or "vpd_assoc" in path):
        return "of a new serial"
    # The kernel's numbers; and of a queue depth once it was written, though it stayed the same.
    text = re.sub(r"(HBA Index|FILEIO ID|RamDisk ID|Max Queue Depth): \d+", r"\1", text)
    if path.endswith("/members"):
        return "\n".join(sorted(filter(None, re.split(r"[\n\0]+", text))))
    if "auth/" in path and text.strip() == "NULL":
        return "\n"  # the kernel's word for none
    return "of a new name" if path.endswith("/nexus") and "naa.5001405" in text else text


@contextlib.contextmanager
def _targetcli(newer: str) -> Iterator[subprocess.Popen[str]]:
    home = tempfile.mkdtemp(dir="/run")
    environ = {**os.environ, "PYTHONPATH": newer}
    program = subprocess.Popen(["/usr/bin/python3", "-W", "ignore", "-c", _DRIVER, home],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env=environ)
    try:
        yield program
    finally:
        assert program.stdin
        program.stdin.close()
        program.wait(20)
        shutil.rmtree(home)


#: A line and its row of differences.
Row = tuple[str, str]


def by_targetcli(program: subprocess.Popen[str], lines: Sequence[Row]) -> list[Told]:
    """A story told by targetcli."""
    assert program.stdin and program.stdout
    program.stdin.write('"new user"\n')
    told = []
    for line, _ in lines:
        program.stdin.write(json.dumps(line) + "\n")
        program.stdin.flush()
        code, out, err = json.loads(program.stdout.readline())
        told.append(Told(code, out, err, tree()))
    return told


def ours(lines: Sequence[Row]) -> list[Told]:
    """The same by our shell."""
    home = tempfile.mkdtemp(dir="/run")
    os.environ["LIO_HANDOVER_SHELL_HOME"] = home
    told = []
    for line, row in lines:
        more = ["--allow", "in-use"] if row == "in use" else []
        told.append(Told(*(typed(line) if row == "secrets" else
                           shell(*more, *shlex.split(line))), tree()))
    shutil.rmtree(home)
    return told


def shell(*words: str) -> tuple[int, str, str]:
    """`lio-handover shell WORDS`: (exit code, standard output, standard error)."""
    return command("shell", *words)


def typed(text: str) -> tuple[int, str, str]:
    """The same with lines on standard input."""
    was, sys.stdin = sys.stdin, io.StringIO(text + "\n")
    try:
        return shell()
    finally:
        sys.stdin = was


def stories(who: str, newer: str, texts: Sequence[Sequence[Row]], folder: str) -> list[list[Told]]:
    """Stories, each from nothing; afterwards nothing is there.  ``newer``: the folder of the newest
    targetcli."""
    told = []
    with contextlib.ExitStack() as stack:
        program = None if who == OURS else stack.enter_context(
            _targetcli(newer if who == NEW else ""))
        for lines in texts:
            shutil.rmtree(folder, ignore_errors=True)
            Path(folder).mkdir(mode=0o755)
            inhost.forget_all()
            for fabric in ("iscsi", "loopback"):  # which targetcli makes when it only looks
                (inside.TARGET / fabric).mkdir(exist_ok=True)
            told.append(by_targetcli(program, lines) if program else ours(lines))
            inside.clear_targets()
    return told


# ---- the rows of differences -----------------------------------------------------------------
IQN = "iqn.2026-11.org.example:rows"
TPG = f"/iscsi/{IQN}/tpg1"
ME, YOU = "iqn.1994-05.org.example:me", "iqn.1994-05.org.example:you"


def _begin() -> None:
    inside.clear_targets()
    inhost.forget_all()
    os.environ["LIO_HANDOVER_SHELL_HOME"] = tempfile.mkdtemp(dir="/run")


def told(*lines: str) -> list[tuple[int, str, str]]:
    """What each of these lines came to, as arguments of one call each."""
    return [shell(*shlex.split(line)) for line in lines]


def file(path: str) -> str:
    """A file of the kernel's tree, "-" where it is not there."""
    try:
        return (inside.TARGET / path).read_text().strip("\0\n")
    except OSError:
        return "-"


def serve(*more: str) -> None:
    """A target with a ramdisk as LUN 0, an ACL, and what ``more`` makes."""
    _begin()
    for line in ("/backstores/ramdisk create r 1M", f"/iscsi create {IQN}",
                 f"{TPG}/luns create /backstores/ramdisk/r", f"{TPG}/acls create {ME}", *more):
        code, out, err = shell(*shlex.split(line))
        assert code == 0, (line, out, err)


def row_lines() -> dict[str, Any]:
    """Exit codes, saving, quoting, empty values."""
    serve()
    found: dict[str, Any] = {}
    found["codes"] = [shell("ls")[0], shell("nonsense")[0], typed("nonsense\nls")[0],
                      typed("ls\npwd\n# no\n\n")[0], shell("help", "ls")[0],
                      typed("exit\nnonsense")[0]]
    found["lines go on"] = typed(f"nonsense\n{TPG}/acls create {YOU}")[2]
    found["acl"] = (inside.TARGET / f"iscsi/{IQN}/tpgt_1/acls/{YOU}").is_dir()
    found["saved"] = [path for path in ("/etc/target/saveconfig.json",
                                        "/etc/rtslib-fb-target/saveconfig.json")
                      if os.path.exists(path)]
    typed(f"{TPG}/acls/{ME} set auth userid='a|b {{c}}' password=\"s'e|c ret\\$12\"")
    acl = f"iscsi/{IQN}/tpgt_1/acls/{ME}/auth"
    found["quoted"] = file(f"{acl}/userid"), file(f"{acl}/password")
    found["unclosed"] = typed(f"{TPG}/acls/{ME} set auth userid='x")
    typed(f"{TPG}/acls/{ME} set auth userid= password=secretsecret99")
    found["empty"] = file(f"{acl}/userid"), file(f"{acl}/password")
    return found


def row_secrets() -> dict[str, Any]:
    serve()
    path = f"{TPG}/acls/{ME}"
    found: dict[str, Any] = {"argv": shell(path, "set", "auth", "userid=me",
                                           "password=secretsecret12")}
    found["kernel"] = file(f"iscsi/{IQN}/tpgt_1/acls/{ME}/auth/password")
    Path("/run/a.secret").write_text("secretsecret34\n")
    found["file"] = shell(path, "set", "auth", "userid=me", "password=@/run/a.secret")
    found["then"] = file(f"iscsi/{IQN}/tpgt_1/acls/{ME}/auth/password")
    found["shown"] = shell(path, "get", "auth")[1] + shell(path, "info")[1] + shell("ls")[1]
    home = Path(os.environ["LIO_HANDOVER_SHELL_HOME"])
    found["kept"] = "".join(one.read_text() for one in home.rglob("*") if one.is_file())
    return found


def row_maps() -> dict[str, Any]:
    """write_protect, taken numbers, IPv6, the default portal, listing, other fabrics, roots."""
    serve()
    acl, at = f"{TPG}/acls/{ME}", f"iscsi/{IQN}/tpgt_1"
    found: dict[str, Any] = {}
    told(f"{acl} create 5 0 true", f"{acl} create 6 0 write_protect=1", f"{acl} create 7 0 false")
    found["write_protect"] = [file(f"{at}/acls/{ME}/lun_{n}/write_protect") for n in (5, 6, 7)]
    found["neither"] = shell(*f"{acl} create 8 0 perhaps".split())[0]
    told("/backstores/ramdisk create s 1M")
    found["taken"] = shell(*f"{TPG}/luns create /backstores/ramdisk/s 5".split())
    found["mapped"] = sorted(path.name
                             for path in (inside.TARGET / f"{at}/acls/{ME}").glob("lun_*"))
    found["portals"] = [code for code, _, _ in told(
        f"{TPG}/portals delete ::0 3260", f"{TPG}/portals create [::1] 3261",
        f"{TPG}/portals create ::1 3262", f"{TPG}/portals create 0.0.0.0",
        f"{TPG}/portals create 127.0.0.1 x")]
    found["np"] = sorted(path.name for path in (inside.TARGET / f"{at}/np").iterdir())
    shell("/iscsi", "create", f"{IQN}2")
    found["second"] = [path.name for path in (inside.TARGET / f"iscsi/{IQN}2/tpgt_1/np").iterdir()]
    found["roots"] = shell(*"/backstores/fileio create f /etc/passwd".split())
    found["cd"] = shell("cd")
    return found


def row_listing() -> dict[str, Any]:
    """A listing changes nothing, on a host that has nothing and on one that serves."""
    _begin()
    (inside.TARGET / "iscsi").is_dir()
    before = tree()
    said = shell("ls")
    shell("/vhost", "ls")
    shell("/loopback/*", "status")
    empty = tree() == before
    told("/loopback create naa.5001405000000001")
    (inside.TARGET / "loopback/naa.5001405000000001/tpgt_1/nexus").write_text("NULL")
    before = tree()
    listed = shell("ls", "/loopback")
    same = tree() == before
    fixed = told("/loopback/naa.5001405000000001 set nexus wwn=naa.5001405000000077",
                 "/loopback/naa.5001405000000001 get nexus wwn",
                 "/loopback/naa.5001405000000001 status")
    return {"said": said, "empty": empty, "listed": listed, "same": same, "nexus": fixed,
            "kernel": file("loopback/naa.5001405000000001/tpgt_1/nexus")}


def row_other_fabrics() -> dict[str, Any]:
    """A fabric that is only shown: what its folder of the kernel's has is made up here."""
    from lio_handover.kernel.configfs import Configfs
    from lio_handover.local.managing import Order
    from lio_handover.shell import everywhere, objects
    from lio_handover.shell.changes import Session
    from lio_handover.shell.nodes import Tree
    from lio_handover.shell.preferences import Preferences
    folder = Path(tempfile.mkdtemp(dir="/run"))
    for path in ("core", "qla2xxx/21:00:00:24:ff:31:4c:48/tpgt_1/lun/lun_0",
                 "qla2xxx/21:00:00:24:ff:31:4c:48/tpgt_1/acls/21:00:00:24:ff:31:4c:4a"):
        (folder / path).mkdir(parents=True)
    (folder / "qla2xxx/21:00:00:24:ff:31:4c:48/tpgt_1/enable").write_text("1\n")
    session = Session(Tree(Configfs(str(folder))), Preferences(""), inhost.core, Order)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        everywhere.ls(session, session.tree.root, {"path": "/qla2xxx"})
    refused = []
    fabric = session.tree.node("/qla2xxx")
    luns = session.tree.node("/qla2xxx/21:00:00:24:ff:31:4c:48/luns")
    for work, node, given in ((objects.create_target, fabric, {"wwn": "x"}),
                              (objects.delete_target, fabric, {"wwn": "x"}),
                              (objects.delete_lun, luns, {"lun": "0"}),
                              (objects.disable, luns.tpg, {})):
        try:
            work(session, node, given)
        except Exception as error:
            refused.append(str(error))
    return {"said": out.getvalue(), "refused": refused}


def row_saving(shared: str) -> dict[str, Any]:
    """saveconfig and restoreconfig: all or nothing, and false is no."""
    serve()
    path = f"{shared}/rows.json"
    found: dict[str, Any] = {"saved": shell("saveconfig", path)}
    saved = json.loads(Path(path).read_text())
    found["names"] = [one["name"] for one in saved["storage_objects"]], [
        one["wwn"] for one in saved["targets"]]
    before = tree()
    found["false"] = shell("restoreconfig", path, "clear_existing=false")
    found["stays"] = tree() == before
    found["cleared"] = told("clearconfig", "clearconfig confirm=false", "clearconfig confirm=true")
    found["gone"] = not (inside.TARGET / f"iscsi/{IQN}").exists() and os.path.exists(path)
    found["restored"] = shell("restoreconfig", path)
    found["again"] = sorted(path for path in {*before, *tree()}
                            if before.get(path) != tree().get(path))
    saved["targets"][0]["tpgs"][0]["luns"][0]["storage_object"] = "/backstores/ramdisk/none"
    Path(path).write_text(json.dumps(saved))
    told("clearconfig confirm=true")
    before = tree()
    found["half"] = shell("restoreconfig", path)
    found["nothing"] = tree() == before
    found["missing"] = shell("restoreconfig", f"{shared}/none.json")
    return found


def sessions() -> dict[str, tuple[int, str, str]]:
    """What `sessions` says while somebody is logged in."""
    return {"list": shell("sessions"), "detail": shell("sessions", "detail"),
            "delete": shell("/iscsi", "delete", IQN)}


# ---- who calls targetcli ----------------------------------------------------------------------
def _as_targetcli(folder: Path) -> dict[str, str]:
    """The environment of a program that finds our shell under targetcli's name."""
    Path(CONFIG).write_text(inhost.CONFIG)
    folder.mkdir(exist_ok=True)
    program = Path(__file__).parents[2] / "scripts" / "lio-handover"
    (folder / "targetcli").write_text(
        f"#!/bin/sh\nexec {sys.executable} {program} --config {CONFIG} --alone shell "
        '--allow in-use "$@"\n')
    (folder / "targetcli").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def agents(root: str, image: str) -> list[tuple[str, int, str]]:
    """ClusterLabs' agents, start to stop: (agent and action, exit code, what it said)."""
    _begin()
    environ = {
        **_as_targetcli(Path("/run/agents")), "OCF_ROOT": root, "HA_RSCTMP": "/run/agents",
        "HA_LOGD": "no", "HA_debug": "0",
        "OCF_RESKEY_implementation": "lio-t", "OCF_RESKEY_iqn": IQN, "OCF_RESKEY_target_iqn": IQN,
        "OCF_RESKEY_portals": "127.0.0.1:3260", "OCF_RESKEY_allowed_initiators": f"{ME} {YOU}",
        "OCF_RESKEY_lun": "1", "OCF_RESKEY_path": image, "OCF_RESKEY_liot_bstype": "fileio",
        "OCF_RA_VERSION_MAJOR": "1", "OCF_RA_VERSION_MINOR": "0"}
    Path(image).write_bytes(bytes(1 << 20))
    ended = []
    for agent, action in (
            ("iSCSITarget", "monitor"), ("iSCSITarget", "start"), ("iSCSITarget", "monitor"),
            ("iSCSILogicalUnit", "start"), ("iSCSILogicalUnit", "monitor"), ("", "served"),
            ("iSCSILogicalUnit", "stop"), ("iSCSILogicalUnit", "monitor"), ("iSCSITarget", "stop"),
            ("iSCSITarget", "monitor")):
        if not agent:
            ended.append((action, 0, shell("ls", "/iscsi")[1]))
            continue
        done = subprocess.run([f"{root}/resource.d/heartbeat/{agent}", action],
                              env={**environ, "OCF_RESOURCE_INSTANCE": agent.lower()},
                              capture_output=True, text=True)
        ended.append((f"{agent} {action}", done.returncode, done.stdout + done.stderr))
    return ended


# ---- save files -------------------------------------------------------------------------------
def _rich(shared: str) -> None:
    """A host that serves much of what a save file can hold."""
    _begin()
    tpg, second = f"{TPG}", f"/iscsi/{IQN}/tpg2"
    text = "\n".join((
        f"/backstores/fileio create f {shared}/rich.img 8M wwn=11aa",
        f"/backstores/fileio create g {shared}/through.img 8M write_back=false wwn=22bb",
        "/backstores/ramdisk create r 1M nullio=true wwn=33cc",
        "/backstores/block create b /dev/ubda wwn=44dd",
        "/backstores/fileio/f set attribute emulate_tpu=1 emulate_3pc=0",
        "/backstores/fileio/f/alua create ano 2",
        "/backstores/fileio/f/alua/ano set alua alua_access_type=1 preferred=1",
        f"/iscsi create {IQN}", f"/iscsi/{IQN} create 2", f"{second} disable",
        f"{tpg}/luns create /backstores/fileio/f 3", f"{tpg}/luns create /backstores/fileio/g",
        f"{tpg}/luns create /backstores/block/b 12", f"{second}/luns create /backstores/ramdisk/r",
        f"{tpg}/luns/lun3 set alua alua_tg_pt_gp_name=ano",
        f"{tpg} set attribute login_timeout=20 authentication=1",
        f"{tpg} set parameter MaxOutstandingR2T=4 ImmediateData=No InitialR2T=No",
        f"{tpg} set auth userid=tpg password=secretsecret12 mutual_userid=back "
        "mutual_password=secretsecret34",
        f"{tpg}/portals delete ::0 3260", f"{tpg}/portals create 127.0.0.1 3261",
        f"{tpg}/portals create ::1 3262",
        f"{tpg}/acls create {ME}", f"{tpg}/acls create {YOU} false",
        f"{tpg}/acls/{YOU} create 7 12 true",
        f"{tpg}/acls/{YOU} set auth userid=you password=secretsecret56",
        f"{tpg}/acls/{YOU} set attribute dataout_timeout=20",
        f"{tpg}/acls tag {ME} mine",
        "/iscsi set discovery_auth enable=1 userid=d password=secretsecret78",
        "/loopback create naa.5001405000000001",
        "/loopback/naa.5001405000000001/luns create /backstores/fileio/g"))
    code, out, err = typed(text)
    assert code == 0, err


def _targetctl(verb: str, path: str, newer: str) -> str:
    environ = {**os.environ, **({"PYTHONPATH": newer} if newer else {})}
    done = subprocess.run(["targetctl", verb, *([path] if path else [])], env=environ,
                          capture_output=True, text=True)
    return done.stdout + done.stderr


def save_files(newer: str, shared: str) -> dict[str, Any]:
    """Both ways with targetctl of a generation of rtslib."""
    _rich(shared)
    path, ours = f"{shared}/theirs.json", f"{shared}/ours.json"
    found: dict[str, Any] = {"saved": _targetctl("save", path, newer)}
    before, text = tree(), Path(path).read_bytes()
    found["again"] = shell("saveconfig", path)
    found["unchanged"] = Path(path).read_bytes() == text
    found["cleared"] = typed("clearconfig confirm=true")  # the loopback disk is in use
    found["cleared"] = shell("--allow", "in-use", "clearconfig", "confirm=true")
    found["restored"] = shell("restoreconfig", path)
    found["differs"] = _differing(before, tree())
    found["written"] = shell("saveconfig", ours)
    found["clear"] = shell("--allow", "in-use", "clearconfig", "confirm=true")
    found["theirs"] = _targetctl("restore", ours, newer)
    found["theirs differ"] = _differing(before, tree())
    # What nobody knows, and what others own.
    saved = json.loads(text)
    saved["of"] = [1, {"others": None}]
    saved["targets"].insert(0, {"fabric": "tcm_fc", "wwn": "naa.2000001999a834bc", "odd": 1.50,
                                "tpgs": []})
    saved["targets"][1]["note"] = "kept"
    Path(path).write_text(json.dumps(saved, indent=1))
    text = Path(path).read_bytes()
    found["others"] = shell("saveconfig", path)
    found["others unchanged"] = Path(path).read_bytes() == text
    shell("/backstores/fileio", "delete", "f")
    shell("saveconfig", path)
    after = json.loads(Path(path).read_text())
    found["left"] = (after["of"], after["targets"][0], after["targets"][1]["note"],
                     sorted(store["name"] for store in after["storage_objects"]))
    found["refused"] = command("import", "--from-saveconfig", path)
    found["preview"] = command("import", "--from-saveconfig", ours, "--dry-run")
    shell("--allow", "in-use", "clearconfig", "confirm=true")
    found["imported"] = command("import", "--from-saveconfig", ours)
    found["imported differs"] = _differing(before, tree())
    found["json"] = command("import", "--from-saveconfig", ours, "--json")
    inside.clear_targets()
    inhost.forget_all()
    return found


def _differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [f"{path}: {before.get(path)!r} {after.get(path)!r}"
            for path in sorted({*before, *after}) if before.get(path) != after.get(path)]


# ---- texts -------------------------------------------------------------------------------------
#: Lines that change nothing, of a host as `_rich` makes it, and whose texts scripts read.
READ = (
    "ls", "ls /backstores 2", "/iscsi ls", "ls / 1", "/* status", "/backstores/fileio/* status",
    f"/iscsi/{IQN} status", f"{TPG} status", f"/iscsi/{IQN}/tpg2 status", f"{TPG}/luns status",
    f"{TPG}/luns/* status", f"{TPG}/acls/* status", f"{TPG}/acls/{YOU}/* status",
    f"{TPG}/portals/* status", "/backstores/fileio/f/alua/* status",
    f"{TPG} get attribute login_timeout authentication", f"{TPG} get attribute",
    f"{TPG} get parameter MaxConnections InitialR2T", f"{TPG} get parameter",
    f"{TPG} get auth userid mutual_userid", f"{TPG}/acls/{YOU} get attribute",
    f"{TPG}/acls/mine get attribute dataout_timeout", f"{TPG}/acls/{YOU} get auth userid",
    f"{TPG}/luns/lun3 get alua alua_tg_pt_gp_name", "/iscsi get discovery_auth enable userid",
    "/backstores/fileio/f get attribute emulate_tpu hw_block_size",
    "/backstores/fileio/f get attribute", "/backstores/fileio/f/alua/ano get alua",
    "get global auto_enable_tpgt tree_max_depth color_default", "pwd", "/iscsi pwd", "version bad",
    f"{TPG}/acls/mine info", f"{TPG}/luns/lun3 info", f"{TPG}/acls/{YOU}/mapped_lun7 info",
    f"/iscsi/{IQN} info", f"{TPG}/portals/127.0.0.1:3261 info", "/backstores/fileio/f info",
    "/backstores/block/b info", "/backstores/ramdisk/r info", "/backstores/fileio/f/alua/ano info",
    "/iscsi info", "bookmarks go none", "get nothing", f"{TPG} get attribute x",
    f"{TPG} set attribute x=1", "/nothing ls", "ls /iscsi/none", "nonsense", "sessions", "cd /none",
    "clearconfig", f"{TPG}/luns create", "/iscsi delete", "help nonsense",
    f"{TPG}/luns create /backstores/fileio/f", "sessions list 7", "sessions x", "sessions list x")


def texts(newer: str, shared: str) -> list[tuple[str, list[Any], list[Any]]]:
    """(line, what targetcli came to, what our shell did): exit code, output."""
    _rich(shared)
    rows: list[tuple[str, list[Any], list[Any]]] = []
    with _targetcli(newer) as program:
        assert program.stdin and program.stdout
        for line in READ:
            program.stdin.write(json.dumps(line) + "\n")
            program.stdin.flush()
            rows.append((line, json.loads(program.stdout.readline()),
                         list(shell(*shlex.split(line)))))
    inside.clear_targets()
    return rows


# ---- a terminal -------------------------------------------------------------------------------
_TMUX = ("tmux", "-u", "-L", "shell", "-f", "/dev/null")


def _tmux(*words: str) -> str:
    return subprocess.run([*_TMUX, *words], capture_output=True, text=True, check=True,
                          env={**os.environ, "LC_ALL": "C.UTF-8", "TMPDIR": "/run"}).stdout


def _until(wanted: str, colours: bool = False) -> str:
    """The terminal, once it shows what is wanted."""
    end = time.monotonic() + 30
    while True:
        shown = _tmux("capture-pane", "-p", *(["-e"] if colours else []))
        if wanted in shown:
            return shown
        assert time.monotonic() < end, f"no {wanted!r} in:\n{shown}"
        time.sleep(0.1)


def _open(newer: str) -> int:
    """Open a shell in a terminal; the process that it is."""
    Path(CONFIG).write_text(inhost.CONFIG)
    program = Path(__file__).parents[2] / "scripts" / "lio-handover"
    environ = [f"LIO_HANDOVER_SHELL_HOME={os.environ['LIO_HANDOVER_SHELL_HOME']}",
               "TERM=screen-256color", *([f"PYTHONPATH={newer}"] if newer else [])]
    _tmux("new-session", "-d", "-x", "110", "-y", "50", shlex.join(
        ["exec", "env", *environ, sys.executable, "-W", "ignore", str(program), "--config", CONFIG,
         "--alone", "shell"]), ";", "set-option", "-w", "remain-on-exit", "on")
    _until("\n/")
    return int(_tmux("list-panes", "-F", "#{pane_pid}"))


def _keys(*keys: str) -> None:
    _tmux("send-keys", *keys)


def terminal(newer: str) -> dict[str, Any]:
    """A shell in a real terminal: completion, colours, history, an end, and one that is no end.
    ``newer``: the folder of another configshell, "" for Debian's."""
    serve(f"{TPG}/acls delete {ME}")
    found: dict[str, Any] = {}
    _open(newer)
    _keys("/iscsi", "Enter")
    _until("/iscsi>")
    _keys(f"{IQN}/tpg1/lu", "Tab")
    _until("tpg1/luns/")
    _keys("C-c")
    _keys("/ba", "Tab")
    _until("/backstores/")
    _keys("C-c")
    _keys("cr", "Tab", "wwn=iqn.2026-11.org.example:typed", "Enter")
    _until("Created target iqn.2026-11.org.example:typed.")
    _keys("C-l")
    _keys(f"/iscsi/{IQN}/tpg1 set attr", "Tab", "generate_no", "Tab", "1", "Enter")
    found["set"] = _until("Parameter generate_node_acls is now '1'.")
    _keys("C-l", "ls", "Enter")
    found["ls"] = _until("no-auth", colours=True)
    _keys("C-l", "nonsense", "Enter")
    found["wrong"] = _until("Command not found")
    _keys(f"{TPG} set auth password=secretsecret99", "Enter")
    _until("********")
    _keys("exit", "Enter")
    found["end"] = _until("Configuration saved to")
    _until("Pane is dead")
    _tmux("kill-server")
    found["saved"] = Path("/etc/target/saveconfig.json").is_file()
    home = Path(os.environ["LIO_HANDOVER_SHELL_HOME"])
    found["kept"] = {path.name: path.read_text() for path in home.iterdir()}
    # The terminal goes away in the middle of a line.
    Path("/etc/target/saveconfig.json").unlink()
    before, pid = tree(), _open(newer)
    _keys("clearconfig confirm=tr")
    _until("confirm=tr")
    _tmux("kill-server")
    end = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.1)
    found["gone"] = not os.path.exists(f"/proc/{pid}")
    found["same"] = tree() == before and not Path("/etc/target/saveconfig.json").exists()
    return found


def at_once(newer: str) -> dict[str, Any]:
    """Two shells, and targetcli's shell open beside ours."""
    _begin()
    Path(CONFIG).write_text(inhost.CONFIG)
    program = Path(__file__).parents[2] / "scripts" / "lio-handover"
    lines = ["".join(f"/backstores/ramdisk create {name}{number} 1M\n" for number in range(4))
             for name in "ab"]
    both = [subprocess.Popen([sys.executable, str(program), "--config", CONFIG, "--alone", "shell"],
                             stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in lines]
    for one, text in zip(both, lines):
        assert one.stdin
        one.stdin.write(text)
        one.stdin.close()
    found: dict[str, Any] = {"codes": [one.wait(60) for one in both]}
    with _targetcli(newer) as beside:
        assert beside.stdin and beside.stdout
        beside.stdin.write(json.dumps("/backstores/ramdisk create theirs 1M") + "\n")
        beside.stdin.flush()
        found["theirs"] = json.loads(beside.stdout.readline())
        found["ours"] = shell(*"/backstores/ramdisk delete a0".split())
        beside.stdin.write(json.dumps("ls /backstores/ramdisk 1") + "\n")
        beside.stdin.flush()
        found["seen"] = json.loads(beside.stdout.readline())[1]
    found["there"] = sorted(path.name for path in inside.TARGET.glob("core/rd_mcp_*/*")
                            if path.is_dir())
    return found


# ---- bad input --------------------------------------------------------------------------------
#: Kind of node → one of `_rich`.
NODES = {
    "": "/", "root": "/", "plugin": "/backstores/fileio", "fileio": "/backstores/fileio",
    "block": "/backstores/block", "pscsi": "/backstores/pscsi", "ramdisk": "/backstores/ramdisk",
    "user": "/backstores/user:glfs", "backstore": "/backstores/fileio/f",
    "alua": "/backstores/fileio/f/alua", "alua_group": "/backstores/fileio/f/alua/ano",
    "fabric": "/iscsi", "target": f"/iscsi/{IQN}", "tpg": TPG, "luns": f"{TPG}/luns",
    "lun": f"{TPG}/luns/lun3", "acls": f"{TPG}/acls", "acl": f"{TPG}/acls/{YOU}",
    "mapped_lun": f"{TPG}/acls/{YOU}/mapped_lun7", "portals": f"{TPG}/portals",
    "portal": f"{TPG}/portals/127.0.0.1:3261"}
HOSTILE = ("../../etc", "a\x1b[31mb", "x" * 5000, "ä \u202e", "-1", "$(id)", "a\nb", "9" * 30)


def bad_input(shared: str, hostile: Sequence[str]) -> tuple[int, list[str]]:
    """(calls, what is wrong): each command with each parameter missing, unknown, doubled and
    hostile fails in one line and changes nothing, or is taken for what it says."""
    from lio_handover.shell import commands
    _rich(shared)
    before, wrong, calls = tree(), [], 0
    for row in commands.rows():
        path, name = NODES[row.kinds], row.name
        if "." not in row.where or name in ("exit", "saveconfig"):
            continue
        names = [parameter.name for parameter in row.parameters]
        tries = [[f"{one}=1"] for one in ("unknown", "__class__")]
        tries += [["a", f"{names[0]}=b"]] if names else []
        tries += [["a"] * (len(names) + 1)] if row.more != "words" else []
        tries += [[f"{one}={word}" for one in names] for word in hostile if names]
        tries += [[f"{one}={word}"] for one in names for word in hostile]
        if any(parameter.needed for parameter in row.parameters):
            tries.append([])
        for words in tries:
            calls += 1
            try:
                code, _, err = shell(path, name, *words)
            except BaseException as error:  # noqa: B902 - whatever it is
                wrong.append(f"{path} {name} {words}: {error!r}")
                continue
            lines = err.rstrip("\n").split("\n")
            if code not in (0, 1) or code and (len(lines) != 1 or "nothing was changed" not in err
                                               or "report it" in err or "\x1b" in err):
                wrong.append(f"{path} {name} {words}: {code} {err[:300]!r}")
        if tree() != before:
            wrong.append(f"{path} {name}: {_differing(before, tree())[:3]}")
            before = tree()
    return calls, wrong
