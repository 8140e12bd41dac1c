"""Functions that run inside a host: what it serves is created, changed and deleted, by the library,
the command line and a file."""
from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from lio_handover import errors
from lio_handover.cli import main
from lio_handover.kernel import tcmu
from lio_handover.kernel.configfs import Configfs
from lio_handover.local import managing
from lio_handover.local.managing import Done, Order
from lio_handover.manage import tree_file
from lio_handover.manage.changes import Request
from lio_handover.model.objects import Secret
from tests.support import inhost

IQN = "iqn.2026-11.org.example:made"
ME, YOU = "iqn.1994-05.org.example:me", "iqn.1994-05.org.example:you"
NAA, NEXUS = "naa.5001405000000001", "naa.5001405000000002"
T, L = f"/iscsi/{IQN}", f"/loopback/{NAA}"
CONFIG = "/run/lio-handover-manage.conf"
SECRET = "/run/lio-handover-manage.secret"


class Row(NamedTuple):
    """A cell of the table: a kind of object.

    ``before``: what has to be there; ``create``: how it is made, (path, words); ``set``: how it is
    changed, (path, words), and where the kernel shows that; ``delete``: how it goes; ``file``: what
    a file of `apply` says of it, once as it is made and once as it is changed, with what was
    before.
    """

    name: str
    before: tuple[tuple[str, ...], ...]
    create: tuple[str, ...]
    set: tuple[str, ...] = ()  # noqa: A003
    shown: tuple[str, str] = ("", "")
    delete: tuple[str, ...] = ()
    file: tuple[str, str] = ("", "")


STORE = ("create", "/backstores/fileio", "disk0", "{image}", "8M", "wwn=1234abcd")
RAM = ("create", "/backstores/ramdisk", "r", "1M", "wwn=5678ef")
TARGET = ("create", "/iscsi", IQN)
LOCAL = ("create", "/loopback", NAA)
LUN = ("create", f"{T}/tpg1/luns", "fileio/disk0")
ACL = ("create", f"{T}/tpg1/acls", ME)

#: What a file says, with capitals for names that `expanded` puts in.
_DISK = "fileio/disk0: {file_or_dev: IMAGE, size: 8M, wwn: 1234abcd}"


def _disk(more: str, size: str = "8M") -> str:
    return f"fileio/disk0: {{file_or_dev: IMAGE, size: {size}, wwn: 1234abcd{more}}}"


def _file(stores: str, tpg: str = "", more: str = "") -> str:
    return (f"backstores: {{{stores}}}\n" if stores else "") + (
        f"targets: {{iscsi/IQN: {{tpg1: {{{tpg}}}}}}}\n" if tpg else "") + more


def expanded(text: str, image: str) -> str:
    for word, name in (("IMAGE", image), ("IQN", IQN), ("NAA", NAA), ("NEXUS", NEXUS),
                       ("SECRET", SECRET), ("INITIATOR", ME)):
        text = text.replace(word, name)
    return text


_LUNS = "luns: {0: fileio/disk0}"
_G1 = ", alua: {g1: {tag: 16}}"
ROWS = (
    Row("backstore/fileio", (), STORE[1:], ("/backstores/fileio/disk0", "size=16M"),
        ("core/fileio_0/disk0/info", "16777216"), ("/backstores/fileio", "disk0"),
        (_file(_DISK), _file(_disk("", "16M")))),
    Row("backstore/block", (), ("/backstores/block", "ub", "/dev/ubda", "wwn=77aa"),
        ("/backstores/block/ub", "attribute", "emulate_3pc=0"),
        ("core/iblock_0/ub/attrib/emulate_3pc", "0\n"), ("/backstores/block", "ub"),
        (_file("block/ub: {dev: /dev/ubda, wwn: 77aa}"),
         _file("block/ub: {dev: /dev/ubda, wwn: 77aa, attributes: {emulate_3pc: 0}}"))),
    Row("backstore/ramdisk", (), RAM[1:], ("/backstores/ramdisk/r", "wwn", "vendor_id=ME"),
        ("core/rd_mcp_0/r/wwn/vendor_id", "ME\n"), ("/backstores/ramdisk", "r"),
        (_file("ramdisk/r: {size: 1M, wwn: 5678ef}"),
         _file("ramdisk/r: {size: 1M, wwn: 5678ef, inquiry: {vendor_id: ME}}"))),
    Row("ALUA group", (STORE,), ("/backstores/fileio/disk0/alua", "g1", "16"),
        ("/backstores/fileio/disk0/alua/g1", "alua", "preferred=1"),
        ("core/fileio_0/disk0/alua/g1/preferred", "1\n"), ("/backstores/fileio/disk0/alua", "g1"),
        (_file(_disk(_G1)), _file(_disk(", alua: {g1: {tag: 16, preferred: 1}}")))),
    Row("LU group", (STORE,), ("/backstores/lu_groups", "lug", "7"),
        ("/backstores/fileio/disk0", "lu_group=lug"), ("core/alua/lu_gps/lug/members", "disk0"),
        ("/backstores/lu_groups", "lug"),
        (_file(_DISK, more="lu_groups: {lug: {id: 7}}\n"),
         _file(_disk(", lu_group: lug"), more="lu_groups: {lug: {id: 7}}\n"))),
    Row("target", (), ("/iscsi", IQN), (f"{T}/tpg1", "attribute", "login_timeout=20"),
        (f"iscsi/{IQN}/tpgt_1/attrib/login_timeout", "20\n"), ("/iscsi", IQN),
        (_file("", "enable: true"), _file("", "attributes: {login_timeout: 20}"))),
    Row("TPG", (TARGET,), (T, "2"), (f"{T}/tpg2", "parameter", "InitialR2T=No"),
        (f"iscsi/{IQN}/tpgt_2/param/InitialR2T", "No\n"), (T, "2"),
        ("targets: {iscsi/IQN: {tpg1: , tpg2: {portals: []}}}\n",
         "targets: {iscsi/IQN: {tpg1: , tpg2: {portals: [], parameters: {InitialR2T: No}}}}\n")),
    Row("gate", (TARGET,), (), (f"{T}/tpg1", "enable=false"),
        (f"iscsi/{IQN}/tpgt_1/enable", "0\n"), (), ("", _file("", "enable: false"))),
    Row("portal", (TARGET,), (f"{T}/tpg1/portals", "198.18.0.99", "3261"), (), ("", ""),
        (f"{T}/tpg1/portals", "198.18.0.99", "3261"),
        (_file("", 'portals: ["[::0]:3260", "198.18.0.99:3261"]'), "")),
    Row("LUN", (STORE, TARGET), LUN[1:], (), ("", ""), (f"{T}/tpg1/luns", "0"),
        (_file(_DISK, _LUNS), "")),
    Row("LUN in a group", (STORE, TARGET, ("create", "/backstores/fileio/disk0/alua", "g1", "16")),
        LUN[1:], (f"{T}/tpg1/luns/lun0", "alua", "alua_tg_pt_gp_name=g1"),
        (f"iscsi/{IQN}/tpgt_1/lun/lun_0/alua_tg_pt_gp", "TG Port Alias: g1"),
        (f"{T}/tpg1/luns", "0"),
        (_file(_disk(_G1), _LUNS), _file(
            _disk(_G1), "luns: {0: {backstore: fileio/disk0, alua_tg_pt_gp_name: g1}}"))),
    Row("ACL", (STORE, TARGET, LUN), ACL[1:], (f"{T}/tpg1/acls/{ME}", "attribute",
                                               "nopin_timeout=20"),
        (f"iscsi/{IQN}/tpgt_1/acls/{ME}/attrib/nopin_timeout", "20\n"), (f"{T}/tpg1/acls", ME),
        (_file(_DISK, f"{_LUNS}, acls: {{INITIATOR: }}"),
         _file(_DISK, f"{_LUNS}, acls: {{INITIATOR: {{attributes: {{nopin_timeout: 20}}}}}}"))),
    Row("mapped LUN", (STORE, TARGET, LUN, ("create", f"{T}/tpg1/acls", ME, "false")),
        (f"{T}/tpg1/acls/{ME}", "5", "0"), (f"{T}/tpg1/acls/{ME}/mapped_lun5", "write_protect=1"),
        (f"iscsi/{IQN}/tpgt_1/acls/{ME}/lun_5/write_protect", "1\n"), (f"{T}/tpg1/acls/{ME}", "5"),
        (_file(_DISK, f"{_LUNS}, acls: {{INITIATOR: {{mapped_luns: {{5: 0}}}}}}"),
         _file(_DISK, f"{_LUNS}, acls: {{INITIATOR: {{mapped_luns: "
               "{5: {lun: 0, write_protect: true}}}}"))),
    Row("CHAP of a TPG", (TARGET,), (), (f"{T}/tpg1", "auth", "userid=me", f"password=@{SECRET}"),
        (f"iscsi/{IQN}/tpgt_1/auth/password", "secretsecret12"), (),
        ("", _file("", "auth: {userid: me, password: {file: SECRET}}"))),
    Row("CHAP of an ACL", (TARGET, ACL), (),
        (f"{T}/tpg1/acls/{ME}", "auth", "userid=me", f"password=@{SECRET}", "mutual_userid=you",
         f"mutual_password=@{SECRET}"), (
            f"iscsi/{IQN}/tpgt_1/acls/{ME}/auth/password_mutual", "secretsecret12"),
        (), ("", _file("", "acls: {INITIATOR: {auth: {userid: me, password: {file: SECRET}, "
                       "mutual_userid: you, mutual_password: {file: SECRET}}}}"))),
    Row("discovery authentication", (TARGET,), (), ("/iscsi", "userid=d", f"password=@{SECRET}",
                                                    "enable=true"),
        ("iscsi/discovery_auth/password", "secretsecret12"), ("/iscsi", "discovery_auth"),
        ("", "discovery_auth: {userid: d, password: {file: SECRET}, enable: true}\n")),
    Row("relative port", (TARGET, ("set", f"{T}/tpg1", "enable=false")), (),
        (f"{T}/tpg1", "rtpi=77"), (f"iscsi/{IQN}/tpgt_1/rtpi", "0x4d"), (),
        ("", _file("", "enable: false, rtpi: 77"))),
    Row("nexus", (LOCAL, ("delete", f"{L}/tpg1/nexus")), (f"{L}/tpg1/nexus", NEXUS), (), ("", ""),
        (f"{L}/tpg1/nexus",), ("targets: {loopback/NAA: {tpg1: {nexus: NEXUS}}}\n", "")),
)
#: Backstores that need a device, or a program, besides.
OTHERS = (
    Row("backstore/pscsi", (), ("/backstores/pscsi", "p", "/dev/sda"), (), ("", ""),
        ("/backstores/pscsi", "p"), (_file("pscsi/p: {dev: /dev/sda}"), "")),
    Row("backstore/user", (), ("/backstores/user", "u", "1M", "lab/x", "wwn=77bb"),
        ("/backstores/user/u", "attribute", "cmd_time_out=7"),
        ("core/user_0/u/attrib/cmd_time_out", "7\n"), ("/backstores/user", "u"),
        (_file("user/u: {size: 1M, cfgstring: lab/x, wwn: 77bb}"),
         _file("user/u: {size: 1M, cfgstring: lab/x, wwn: 77bb, attributes: {cmd_time_out: 7}}"))),
)
WAYS = ("library", "command line", "file")


def change(verb: str, path: str, *words: str, allow: tuple[str, ...] = (), dry_run: bool = False,
           fs: Configfs | None = None, values: Mapping[str, str] = MappingProxyType({})) -> Done:
    """One change, as `lio-handover VERB PATH WORDS VALUES` makes it."""
    fs = fs or Configfs()
    return managing.change(inhost.core(fs), Request(verb, path, words, values),
                           Order("a test", f"{verb} {path}", allow, dry_run,
                                 stop=getattr(fs, "stop", lambda: False)))


def split(words: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """(words by position, values by name) of words as they are typed."""
    values = dict(word.split("=", 1) for word in words if "=" in word)
    return [word for word in words if "=" not in word], {
        name: Secret("secretsecret12") if value == f"@{SECRET}" else value
        for name, value in values.items()}


def call(verb: str, path: str, *words: str, fs: Configfs | None = None) -> Done:
    positional, values = split(words)
    return change(verb, path, *positional, values=values, fs=fs)


def does(verb: str, path: str, *words: str) -> str:
    """What a change was about."""
    return call(verb, path, *words).about


def command(*words: str) -> tuple[int, str, str]:
    """A command of lio-handover: (exit code, standard output, standard error)."""
    Path(CONFIG).write_text(inhost.CONFIG)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.main(["--config", CONFIG, "--alone", *words])
    return code, out.getvalue(), err.getvalue()


def apply(text: str, prune: bool = False, dry_run: bool = False,
          fs: Configfs | None = None) -> Done:
    tree = tree_file.load(text.encode())
    from lio_handover.manage import schema
    schema.check(tree)
    fs = fs or Configfs()
    return managing.apply(inhost.core(fs), tree or {}, prune, lambda path: "secretsecret12", Order(
        "a test", "apply", dry_run=dry_run, stop=getattr(fs, "stop", lambda: False)))


#: Files of a fabric's own, which stay.
_OF_FABRICS = ("iscsi/: ", "iscsi/lio_version", "iscsi/cpus_allowed_list", "iscsi/discovery_auth",
               "loopback/")


# ---- the table ----------------------------------------------------------------------------------
def clean() -> None:
    """Nothing is served, and nothing is remembered."""
    managing.apply(inhost.core(), {}, True, str, Order("a test", "apply", allow=("in-use",)))
    fs = Configfs()
    for fabric in ("iscsi", "loopback"):
        if fs.exists(fabric):
            with contextlib.suppress(OSError):
                call("delete", "/iscsi", "discovery_auth")
    inhost.forget_all()


def _put(row: Row, words: tuple[str, ...], image: str) -> tuple[str, ...]:
    return tuple(word.replace("{image}", image) for word in words)


def _do(way: str, verb: str, words: tuple[str, ...]) -> None:
    if way == "library":
        call(verb, *words)
        return
    code, out, err = command(verb, *words, "--json")
    assert code == 0, (verb, words, err)
    assert json.loads(out)["about"], out


def others(way: str, shared: str) -> dict[str, list[str]]:
    """The same for OTHERS: a SCSI disk in memory, a program that listens to tcmu."""
    for module in (["scsi_debug", "dev_size_mb=8"], ["target_core_pscsi"], ["target_core_user"]):
        subprocess.run(["modprobe", *module], check=True)
    until = time.monotonic() + 10
    while not Path("/dev/sda").exists() and time.monotonic() < until:
        time.sleep(0.02)
    before = inhost.SETTINGS, inhost.CONFIG
    inhost.SETTINGS = replace(inhost.SETTINGS, devices=("/dev/sd*",), user_configs=("lab/*",))
    inhost.CONFIG += "    /dev/sd*\nuser_configs =\n    lab/*\n"
    group = tcmu._group(b"TCM-USER", b"config")
    assert group is not None
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as line:
            line.bind((0, 0))
            line.setsockopt(270, 1, group)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
            return cells(way, shared, OTHERS)
    finally:
        inhost.SETTINGS, inhost.CONFIG = before


def cells(way: str, shared: str, rows: tuple[Row, ...] = ROWS) -> dict[str, list[str]]:
    """row/verb → what is wrong, for each cell of the table."""
    Path(SECRET).write_text("secretsecret12\n")
    wrong: dict[str, list[str]] = {}
    for number, row in enumerate(rows):
        clean()
        if row.name == "relative port" and not inhost.core().reader().has_rtpi():
            continue
        image = f"{shared}/{way.replace(' ', '')}{number}.img"
        for words in row.before:
            call(*_put(row, words, image))
        for verb, faults in _cells(way, row, image):
            wrong[f"{row.name}/{verb}"] = faults
    clean()
    return wrong


def _cells(way: str, row: Row, image: str) -> Iterator[tuple[str, list[str]]]:
    before = inhost.tree()
    for verb, words, text in (("create", row.create, row.file[0]), ("set", row.set, row.file[1]),
                              ("delete", row.delete, "")):
        if not words:
            continue
        try:
            if way == "file" and verb != "delete":
                apply(expanded(text, image))
                again = apply(expanded(text, image))
                if again.changes:
                    yield verb, [f"a second run changes {again.changes}"]
            elif way != "file":
                _do(way, verb, _put(row, words, image))
            else:
                _file_delete(row, words, image)
        except (errors.HandoverError, AssertionError) as error:
            yield verb, [str(error)]
            return
        now = inhost.tree()
        if verb == "create" and now == before:
            yield verb, ["nothing is there"]
        elif verb == "set" and row.shown[1] not in now.get(row.shown[0], "") and not any(
                row.shown[1] in text for path, text in now.items()
                if path.endswith(row.shown[0].partition("_0/")[2]) and "core/" in path):
            yield verb, [f"{row.shown[0]} is {now.get(row.shown[0])!r}"]
        elif verb == "delete":
            yield verb, [line for line in inhost.differences(before, now)
                         if not line.startswith(_OF_FABRICS) and row.name != "nexus"]
        else:
            yield verb, []


def _file_delete(row: Row, words: tuple[str, ...], image: str) -> None:
    """A file with what was there before, and --prune."""
    state = managing.as_file(inhost.core())
    tree: Any = tree_file.load(state.encode()) or {}
    managing.apply(inhost.core(), _without(tree, row), True, str,
                   Order("a test", "apply", allow=("in-use",)))


def _without(tree: Any, row: Row) -> Any:
    """A file's data without the row's object."""
    tpgs = (tree.get("targets") or {}).get(f"iscsi/{IQN}") or {}
    tpg = tpgs.get("tpg1") or {}
    name = row.name
    if name.startswith("backstore/"):
        tree["backstores"] = {}
    elif name == "ALUA group":
        tree["backstores"]["fileio/disk0"].pop("alua")
    elif name == "LU group":
        tree.pop("lu_groups")
        tree["backstores"]["fileio/disk0"].pop("lu_group", None)
    elif name == "target":
        tree["targets"] = {}
    elif name == "TPG":
        tpgs.pop("tpg2")
    elif name == "portal":
        tpg["portals"] = ["[::0]:3260"]
    elif name.startswith("LUN"):
        tpg.pop("luns")
    elif name == "ACL":
        tpg.pop("acls")
    elif name == "mapped LUN":
        tpg["acls"][ME]["mapped_luns"] = {}
    elif name == "discovery authentication":
        tree["discovery_auth"] = {}
    elif name == "nexus":
        tree["targets"] = {}
    return tree


#: CHAP that was never set can't be brought back quite: the kernel's word for none is as good.
_NEVER_SET = r"'\n' became 'NULL\n'"
#: The kernel has no name for the group of those that are in none, and it is said.
_NO_WAY_BACK = "its alua_lu_gp differs and can't be changed in place"


# ---- what goes wrong ----------------------------------------------------------------------------
def stopped(shared: str, how: str, only: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Each change of each row, stopped at each kernel write: (points, what was not as before)."""
    Path(SECRET).write_text("secretsecret12\n")
    points, wrong = 0, list[str]()
    for number, row in enumerate(ROWS):
        if only and row.name not in only or row.name == "relative port" \
                and not inhost.core().reader().has_rtpi():
            continue
        clean()
        image = f"{shared}/stopped{number}.img"
        for words in row.before:
            call(*_put(row, words, image))
        for verb, words in (("create", row.create), ("set", row.set), ("delete", row.delete)):
            more, faults = _stopped(verb, _put(row, words, image), how) if words else (0, [])
            points += more
            wrong += [f"{row.name}, {verb}, {fault}" for fault in faults]
        for text in row.file if not only else ():
            more, faults = _stopped("apply", (expanded(text, image),), how) if text else (0, [])
            points += more
            wrong += [f"{row.name}, file, {fault}" for fault in faults]
    clean()
    return points, wrong


def _stopped(verb: str, words: tuple[str, ...], how: str) -> tuple[int, list[str]]:
    before, point = inhost.tree(), 0
    files = _files(words)
    while True:
        point += 1
        fs = inhost.Stopping(point, how)
        try:
            if verb == "apply":
                apply(words[0], fs=fs)
            else:
                call(verb, *words, fs=fs)
        except (errors.HandoverError, KeyboardInterrupt) as error:
            faults = inhost.differences(before, inhost.tree())
            faults = [fault for fault in faults if not fault.startswith(_OF_FABRICS)
                      and not fault.endswith(_NEVER_SET)]
            if isinstance(error, errors.UndoFailed):
                if _NO_WAY_BACK in str(error) and all("lu_g" in fault for fault in faults):
                    return point, []
                faults.append(str(error))
            if _files(words) != files:
                faults.append(f"{words} has become {_files(words)}")
            if faults:
                return point, [f"point {point}: {fault}" for fault in faults[:4]]
        else:
            return point - 1, []


def _files(words: tuple[str, ...]) -> list[tuple[str, int]]:
    return [(word, Path(word).stat().st_size) for word in words
            if word.endswith(".img") and Path(word).exists()]


def two_at_once(shared: str) -> list[str]:
    """Two managers that add LUNs to one target at one time; what is there in the end."""
    import threading
    clean()
    for words in (STORE, TARGET):
        call(*(word.replace("{image}", f"{shared}/two.img") for word in words))
    said: list[str] = []

    def many() -> None:
        for _ in range(4):
            try:
                call(*LUN)
            except errors.StillRunning as error:  # it may say so
                said.append(str(error))
    threads = [threading.Thread(target=many) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    luns = Configfs().names(f"iscsi/{IQN}/tpgt_1/lun")
    clean()
    assert len(luns) + len(said) == 8, (luns, said)
    return luns


class Beside(inhost.Stopping):
    """A tree in which somebody else makes a LUN and an ACL just before a change fails."""

    def _stop_here(self) -> None:
        raise OSError(5, "injected")

    def link(self, path: str, target: str) -> None:
        if self.changes + 1 == self.point:
            root = Path(self.root)
            (root / f"iscsi/{IQN}/tpgt_1/lun/lun_77").mkdir()
            (root / f"iscsi/{IQN}/tpgt_1/lun/lun_77/x").symlink_to(root / "core/fileio_0/disk0")
            (root / f"iscsi/{IQN}/tpgt_1/acls/{YOU}").mkdir()
        super().link(path, target)


def targetcli_in_between(shared: str) -> tuple[str, list[str], list[str]]:
    """(what a change said that failed, LUNs, ACLs) where somebody else was at work meanwhile."""
    clean()
    for words in (STORE, TARGET, LUN):
        call(*(word.replace("{image}", f"{shared}/between.img") for word in words))
    said = ""
    try:
        call(*LUN, fs=Beside(2, "before"))
    except errors.HandoverError as error:
        said = str(error)
    tpg = f"iscsi/{IQN}/tpgt_1"
    there = Configfs().names(f"{tpg}/lun"), Configfs().names(f"{tpg}/acls")
    clean()
    return said, *there


def as_it_is(shared: str) -> tuple[str, list[str], list[str]]:
    """A host whose target has a relative port and a limit of its device that no file says: (its
    file, what applying that changes, and once more with all else pruned)."""
    clean()
    limit = ("set", "/backstores/fileio/disk0", "attribute", "optimal_sectors=128")
    for words in (STORE, limit, TARGET, LUN):
        call(*(word.replace("{image}", f"{shared}/as-it-is.img") for word in words))
    for value in ("enable=false", "rtpi=77", "enable=true"):
        call("set", f"/iscsi/{IQN}/tpg1", "tpg", value)
    text = managing.as_file(inhost.core())
    told = [[str(change) for change in apply(text, prune).changes] for prune in (False, True)]
    assert Configfs().read(f"iscsi/{IQN}/tpgt_1/rtpi").strip() == "0x4d"
    clean()
    return text, told[0], told[1]


def cut_off(shared: str) -> dict[str, Any]:
    """A program is killed when the kernel has its change, and the copy for the next boot has not:
    what the next command says, and the LUNs of the copy then.  A new target, and one more LUN."""
    clean()
    for words in (STORE, TARGET, LUN):
        row = tuple(word.replace("{image}", f"{shared}/cut.img") for word in words)
        if words is STORE:
            call(*row)
        else:
            _killed_before_the_copy(row)
    name, one = f"iscsi/{IQN}", inhost.core()
    found: dict[str, Any] = {"kernel": Configfs().names(f"{name}/tpgt_1/lun"),
                             "before": [(known.who, known.notes)
                                        for known in one.restorers([name])]}
    found["said"] = call("set", f"/iscsi/{IQN}/tpg1", "attribute", "login_timeout=20").notes
    found["again"] = call("set", f"/iscsi/{IQN}/tpg1", "attribute", "login_timeout=21").notes
    found["after"] = [(known.who, known.notes) for known in one.restorers([name])]
    _killed_before_the_copy(("create", f"/iscsi/{IQN}/tpg1/luns", "fileio/disk0", "7"))
    found["same"] = call("set", f"/iscsi/{IQN}/tpg1", "attribute", "login_timeout=21").notes
    handover, = one.handovers().list()
    from lio_handover.actions.adoption_actions import Adoption
    from lio_handover.records.journal import Journal
    copy = Adoption(one, Journal(one.settings.state_directory, handover.id)).durable()
    found["luns"] = [lun.number for _, _, lun in copy.state.all_luns()]
    clean()
    return found


def _killed_before_the_copy(words: tuple[str, ...]) -> None:
    pid = os.fork()
    if not pid:
        managing._log = lambda *_: os.kill(  # the kernel has it by then
            os.getpid(), signal.SIGKILL)
        try:
            call(*words)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def boots(shared: str) -> dict[str, Any]:
    """Who restores what was made: lio-handover a new target, targetcli one of its save file."""
    clean()
    for words in (STORE, TARGET, LUN):
        call(*(word.replace("{image}", f"{shared}/boots.img") for word in words))
    name = f"iscsi/{IQN}"
    one = inhost.core()
    new = [(known.who, known.notes) for known in one.restorers([name])]
    one.giveback(one.names([name]), ("not-saved",))
    notes = call(*LUN).notes
    saved = json.loads(Path("/etc/target/saveconfig.json").read_text())
    luns = [lun["index"] for target in saved["targets"] for tpg in target["tpgs"]
            for lun in tpg["luns"]]
    call("delete", "/iscsi", IQN)
    left = json.loads(Path("/etc/target/saveconfig.json").read_text())["targets"]
    clean()
    return {"new": new, "notes": notes, "luns": sorted(luns), "left": left}


def hostile(shared: str) -> list[str]:
    """Commands that are wrong: what was not refused in one line with an exit code, or changed
    something."""
    clean()
    for row in (STORE, TARGET, LUN, ACL):
        call(*(word.replace("{image}", f"{shared}/hostile.img") for word in row))
    wrong = list[str]()
    before = inhost.tree()
    wrong_words: tuple[tuple[str, ...], ...] = (
        ("create",), ("create", "/iscsi", "x"), ("create", "/iscsi", "iqn.x", "iqn.y"),
        ("create", f"{T}/tpg1/luns", "fileio/none"), ("set", f"{T}/tpg1", "a=1", "a=2"),
        ("set", f"{T}/tpg1", "userid=a", "b"), ("set", f"{T}/tpg1", "password=x"),
        ("set", f"{T}/tpg1", "password=@/nowhere"), ("set", f"{T}/tpg1", "password=@/"),
        ("create", "/backstores/fileio", "n", "/etc/n.img", "1M"),
        ("create", "/backstores/fileio", "n", f"{shared}/no/n.img", "1M"),
        ("create", "/backstores/fileio", "n", "/etc/passwd"),
        ("create", "/backstores/fileio", "n", f"{shared}/hostile.img"),
        ("create", "/backstores/block", "n", f"{shared}/hostile.img"),
        ("create", "/backstores/fileio", "x" * 4096, f"{shared}/n.img", "1M"),
        ("create", "/backstores/user", "n", "1M", "rbd/x"),
        ("create", "/backstores/fileio", "disk0", f"{shared}/n.img", "1M"),
        ("create", "/backstores/fileio", "n", f"{shared}/n.img", "1M", "wwn=1234abcd"),
        ("delete", "/backstores/fileio", "disk0"), ("delete", T), ("delete", "/iscsi"),
        ("set", "/backstores/fileio/disk0", "emulate_tas=0"),
        ("apply", "/nowhere"), ("apply", "/etc"), ("show", "--uses", "/nowhere"))
    for words in wrong_words:
        code, out, err = command(*words)
        lines = [line for line in err.splitlines() if line]
        if code in (0, 70) or code > 88 or len(lines) != 1 or out \
                or "nothing was changed" not in err:
            wrong.append(f"{words}: {code}, {out}{err}")
        wrong += [f"{words}: {line}" for line in inhost.differences(before, inhost.tree())]
    if Path(f"{shared}/n.img").exists():
        wrong.append("a file was left")
    clean()
    return wrong


# ---- while initiators are logged in --------------------------------------------------------------
def serve(shared: str, address: str, initiator: str) -> None:
    """A target with one LUN for an initiator."""
    clean()
    for words in (("create", "/backstores/fileio", "disk0", f"{shared}/live.img", "8M"),
                  TARGET, ("create", f"{T}/tpg1/acls", initiator), LUN):
        call(*words)
    assert address


def wrongs(shared: str, initiator: str) -> dict[str, str]:
    """What is refused while an initiator is logged in: change → the line."""
    said = {}
    for words in (("delete", f"{T}/tpg1/luns", "0"), ("delete", f"{T}/tpg1/acls", initiator),
                  ("delete", "/iscsi", IQN), ("set", f"{T}/tpg1", "enable=false"),
                  ("set", f"{T}/tpg1/acls/{initiator}", "cmdsn_depth=32"),
                  ("delete", f"{T}/tpg1/acls/{initiator}", "0")):
        before = inhost.tree()
        try:
            call(*words)
            said[" ".join(words)] = "was not refused"
        except errors.InUse as error:
            said[" ".join(words)] = str(error)
        # The kernel counts a session's commands there.
        assert not [line for line in inhost.differences(before, inhost.tree())
                    if "/info: " not in line]
    return said


def health(kind: str, shared: str) -> tuple[int, str]:
    """`status --check` of a host with a fault."""
    clean()
    if kind != "nothing":
        for words in (STORE, TARGET, LUN, ACL):
            call(*(word.replace("{image}", f"{shared}/health.img") for word in words))
    tpg = Path(Configfs().root, f"iscsi/{IQN}/tpgt_1")
    if kind == "portal":
        call("create", f"{T}/tpg1/portals", "203.0.113.77", "3261")
    elif kind == "boot":
        inhost.forget_all()
    elif kind == "hole":
        link, = (tpg / f"acls/{ME}/lun_0").glob("l*")
        link.unlink()
    code, out, _err = command("status", "--check")
    clean()
    return code, out


# ---- guests --------------------------------------------------------------------------------------
def makes_vhost(wwpn: str, nexus: str, device: str) -> None:
    """A vhost target with this disk, made from nothing."""
    inhost.SETTINGS = replace(inhost.SETTINGS, devices=(device,))
    tpg = f"/vhost/{wwpn}/tpg1"
    for words in (("create", "/backstores/block", "disk", device),
                  ("create", "/vhost", wwpn), ("delete", f"{tpg}/nexus"),
                  ("create", f"{tpg}/nexus", nexus), ("create", f"{tpg}/luns", "block/disk")):
        call(*words)


def takes_from_guest(wwpn: str) -> list[str]:
    """The lines with which it is refused to take something from a guest."""
    said = []
    for words in (("delete", f"/vhost/{wwpn}/tpg1/luns", "0"), ("delete", f"/vhost/{wwpn}", "1"),
                  ("delete", "/vhost", wwpn)):
        try:
            call(*words)
            said.append(f"{words} was not refused")
        except errors.InUse as error:
            said.append(str(error))
    return said
