"""`lio-handover shell` beside targetcli, on real kernels."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import lab
from tests.conftest import HostsOf
from tests.lab import agents
from tests.support import inshell
from tests.support.inshell import NEW, OLD, OURS, Told
from tests.support.one_liners import LINES, STORIES

NEWER = str(Path(sys.prefix, "rtslib"))


def test_there_are_sixty_lines_each_with_its_source() -> None:
    assert len(LINES) == 60 and len(set(LINES)) == 60
    assert all(line.source for line in LINES)


def told(host: lab.Host, bed: lab.Lab, who: str) -> list[list[Told]]:
    folder = f"{bed.shared}/shell"
    texts = [[(line.text.replace("{dir}", folder).replace("{disk}", "/dev/ubda"), line.row)
              for line in story.lines] for story in STORIES]
    answers = host.call(inshell.stories, who, NEWER, texts, folder, timeout=280)
    return [[Told(*line) for line in lines] for lines in answers]


def differing(their: Told, mine: Told, portal: bool) -> list[str]:
    """The files of the kernel's tree that are others; ``portal``: the default one is that of old
    versions (row "default portal")."""
    theirs = {path.replace("/np/0.0.0.0:3260/", "/np/[::0]:3260/") if portal else path: text
              for path, text in their.tree.items()}
    return [f"{path}: {theirs.get(path)!r}, ours {mine.tree.get(path)!r}"
            for path in sorted({*theirs, *mine.tree}) if theirs.get(path) != mine.tree.get(path)]


def test_each_line_gives_the_same_kernel_tree(bed: lab.Lab, newest: lab.Host) -> None:
    compare(bed, newest)


@pytest.mark.full
@pytest.mark.parametrize("role", [role for role in lab.ROLES if role != "newest"])
def test_the_same_on_older_kernels(role: str, bed: lab.Lab, hosts: HostsOf) -> None:
    """Takes a minute each."""
    compare(bed, hosts(role)[0])


def compare(bed: lab.Lab, host: lab.Host) -> None:
    by = {who: told(host, bed, who) for who in (OLD, NEW, OURS)}
    wrong = []
    for place, story in enumerate(STORIES):
        portal = any(line.row == "default portal" for line in story.lines)
        for number, line in enumerate(story.lines):
            mine = by[OURS][place][number]
            for who in (OLD, NEW):
                theirs = by[who][place][number]
                if theirs.code != mine.code:
                    wrong.append(f"{line.text}: {who} exits with {theirs.code}, ours with "
                                 f"{mine.code}: {theirs.err or mine.err}")
                wrong += [f"{line.text}: {who}: {what}"
                          for what in differing(theirs, mine, portal and who == OLD)]
                if who == NEW and line.row != "secrets" and theirs.out != mine.out:
                    wrong.append(f"{line.text}: {who} says {theirs.out!r}, ours {mine.out!r}")
    assert not wrong, "\n".join(wrong[:60])


# ---- the rows of differences --------------------------------------------------------------------
PAGE = (Path(__file__).parents[2] / "docs" / "usage" / "shell.md").read_text()
#: Row of docs/usage/shell.md → the test that shows it.
ROWS = {
    "exit code": "lines", "saving at the end": "lines", "quoting": "lines", "empty value": "lines",
    "write_protect": "maps", "taken LUN numbers": "maps", "IPv6 portals": "maps",
    "default portal": "maps", "roots": "maps", "cd without a path": "maps",
    "listing": "listing", "nexus": "listing", "other fabrics": "other_fabrics",
    "secrets": "secrets", "clear_existing": "saving", "restoreconfig": "saving",
    "sessions": "sessions", "in use": "sessions", "PATH/*": "texts",
    "system bus": "lines"}  # no host of the lab has one


def test_each_row_of_the_page_has_a_test() -> None:
    rows = PAGE.partition("| row |")[2].splitlines()[2:]
    named = [line.split("|")[1].strip() for line in rows if line.startswith("|")]
    assert sorted(named) == sorted(ROWS)
    assert {f"test_{name}" for name in ROWS.values()} <= {*globals()}


def test_lines(bed: lab.Lab, newest: lab.Host) -> None:
    found = newest.call(inshell.row_lines)
    assert found["codes"] == [0, 1, 1, 0, 0, 0]
    assert "line 1: Command not found 'nonsense'" in found["lines go on"] and found["acl"]
    assert found["saved"] == []
    assert found["quoted"] == ("a|b {c}", "s'e|c ret$12")
    code, _, said = found["unclosed"]
    assert code == 1 and "is not closed; nothing was changed" in said
    assert found["empty"] == ("NULL", "secretsecret99")


def test_secrets(bed: lab.Lab, newest: lab.Host) -> None:
    found = newest.call(inshell.row_secrets)
    code, _, said = found["argv"]
    assert code == 1 and "can be read by every user (ps)" in said and "secret" not in said
    assert found["kernel"] in ("", "NULL")
    assert found["file"][0] == 0 and found["then"] == "secretsecret34"
    assert "password=********" in found["shown"]
    assert "secretsecret" not in found["shown"] + found["kept"] + "".join(map(str, found["file"]))


def test_maps(bed: lab.Lab, newest: lab.Host) -> None:
    found = newest.call(inshell.row_maps)
    assert found["write_protect"] == ["1", "1", "0"] and found["neither"] == 1
    code, said, _ = found["taken"]
    assert code == 0 and f"Created LUN 5->1 mapping in node ACL {inshell.ME}" in said
    assert found["mapped"] == ["lun_0", "lun_1", "lun_5", "lun_6", "lun_7"]
    assert found["portals"] == [0, 0, 0, 0, 1]
    assert found["np"] == ["0.0.0.0:3260", "[::1]:3261", "[::1]:3262"]
    assert found["second"] == ["0.0.0.0:3260"]
    code, _, said = found["roots"]
    assert code == 1 and "lies under no configured root" in said
    assert found["cd"][0] == 1 and "cd needs a path" in found["cd"][2]


def test_listing(bed: lab.Lab, newest: lab.Host) -> None:
    found = newest.call(inshell.row_listing)
    code, said, _ = found["said"]
    assert code == 0 and found["empty"] and found["same"]
    for name in ("iscsi", "loopback", "vhost", "xen-pvscsi"):
        assert f"o- {name} ..." in said
    assert "[None]" in found["listed"][1]
    assert found["nexus"][1][1] == "wwn=naa.5001405000000077 \n"
    assert "Status for /loopback/naa.5001405000000001: naa.5001405000000077" in found["nexus"][2][1]
    assert found["kernel"] == "naa.5001405000000077"


def test_other_fabrics(bed: lab.Lab, newest: lab.Host) -> None:
    found = newest.call(inshell.row_other_fabrics)
    assert "o- qla2xxx" in found["said"] and "21:00:00:24:ff:31:4c:48" in found["said"]
    assert "[no-gen-acls]" in found["said"] and "lun0" in found["said"]
    assert len(found["refused"]) == 4
    assert all("changes no qla2xxx" in said and "nothing was changed" in said
               for said in found["refused"]), found["refused"]


def test_saving(bed: lab.Lab, newest: lab.Host) -> None:
    found = newest.call(inshell.row_saving, str(bed.shared), timeout=120)
    assert found["saved"][0] == 0 and "Configuration saved to" in found["saved"][1]
    assert found["names"] == (["r"], [inshell.IQN])
    assert found["false"][0] == 1 and "exists, not restoring" in found["false"][2]
    assert found["stays"] and [code for code, _, _ in found["cleared"]] == [1, 1, 0]
    assert "As a precaution, confirm=True needs to be set" in found["cleared"][0][2]
    assert found["gone"] and found["restored"][0] == 0, found["restored"]
    assert found["again"] == []
    assert found["half"][0] == 1 and found["nothing"], found["half"]
    assert found["missing"][0] == 1 and "can't be read" in found["missing"][2]


def test_sessions(bed: lab.Lab, newest: lab.Host, client: lab.OpenIscsi) -> None:
    newest.call(inshell.serve)
    newest.call(inshell.told, f"{inshell.TPG} set attribute generate_node_acls=1 "
                "demo_mode_write_protect=0")
    session = client.login(inshell.IQN, newest.address)
    said = newest.call(inshell.sessions)
    assert "session-state: LOGGED_IN" in said["list"][1]
    assert f"name: {client.name} (NOT AUTHENTICATED)" in said["detail"][1]
    assert "mapped-lun: 0 backstore: ramdisk/r mode: rw" in said["detail"][1]
    code, _, why = said["delete"]
    assert code == 1 and "logged in" in why and "--allow in-use" in why
    session.logout()


# ---- who calls targetcli ------------------------------------------------------------------------
@pytest.mark.full
def test_pacemakers_agents_run_with_it(bed: lab.Lab, newest: lab.Host) -> None:
    """OCF: 0 success, 7 not running.  Takes half a minute."""
    ended = newest.call(inshell.agents, str(agents.folder()), f"{bed.shared}/agents.img",
                        timeout=200)
    codes = {"iSCSITarget start": 0, "iSCSILogicalUnit start": 0, "iSCSILogicalUnit stop": 0,
             "iSCSITarget stop": 0, "served": 0}
    monitors = [code for what, code, _ in ended if what.endswith("monitor")]
    assert [code for what, code, _ in ended if what in codes] == [0] * 5, ended
    assert monitors == [7, 0, 0, 7, 7], ended
    served = next(said for what, _, said in ended if what == "served")
    assert "o- 127.0.0.1:3260" in served and "o- 0.0.0.0" not in served
    assert served.count("Mapped LUNs: 1") == 2 and "lun1" in served


# ---- save files ---------------------------------------------------------------------------------
@pytest.mark.parametrize("newer", ["", pytest.param(NEWER, marks=pytest.mark.full)],
                         ids=["rtslib 2.1", "rtslib 2.2"])
def test_save_files_go_both_ways(newer: str, bed: lab.Lab, newest: lab.Host) -> None:
    """The newer one takes half a minute."""
    found = newest.call(inshell.save_files, newer, str(bed.shared), timeout=250)
    assert found["again"][0] == 0 and found["unchanged"], found["again"]
    assert found["cleared"][0] == 0 and found["restored"][0] == 0, found["restored"]
    assert found["differs"] == []
    assert found["written"][0] == 0 and "error" not in found["theirs"].lower(), found["theirs"]
    assert found["theirs differ"] == []
    assert found["others"][0] == 0 and found["others unchanged"]
    assert found["left"] == ([1, {"others": None}], {
        "fabric": "tcm_fc", "wwn": "naa.2000001999a834bc", "odd": 1.5, "tpgs": []}, "kept",
        ["b", "g", "r"])
    code, _, said = found["refused"]
    assert code == 38 and "tcm_fc/naa.2000001999a834bc: lio-handover knows no such fabric" in said
    code, out, said = found["preview"]
    assert code == 0 and "+ /backstores/fileio/f" in out and "nothing was changed" in said
    assert found["imported"][0] == 0 and "imported" in found["imported"][2], found["imported"]
    assert found["imported differs"] == []
    assert found["json"][0] == 0 and '"same": true' in found["json"][1], found["json"]


# ---- texts -------------------------------------------------------------------------------------
def undescribed(text: str) -> list[str]:
    """The lines without those that describe a parameter, which are our own."""
    lines = text.split("\n")
    return [line for above, line in zip(["", *lines], lines) if set(above) != {"-"}]


@pytest.mark.full
def test_texts(bed: lab.Lab, newest: lab.Host) -> None:
    """ls, status, get and info say what targetcli says, and what fails there fails here.  Takes
    twenty seconds."""
    rows = newest.call(inshell.texts, NEWER, str(bed.shared), timeout=150)
    wrong = []
    for line, (code, out, err), (mine, said, why) in rows:
        if "/*" in line:
            assert mine == 0 and said.count("Status for") == said.count("\n[") + 1, said
        elif code != mine or undescribed(out) != undescribed(said):
            wrong.append(f"{line}: {code} {out!r} {err!r}, ours {mine} {said!r} {why!r}")
    assert not wrong, "\n".join(wrong)
    assert len(rows) > 50


# ---- a terminal --------------------------------------------------------------------------------
@pytest.mark.parametrize("newer", [NEWER, pytest.param("", marks=pytest.mark.full)],
                         ids=["configshell 2.0", "configshell 1.1"])
def test_a_terminal(newer: str, bed: lab.Lab, newest: lab.Host) -> None:
    found = newest.call(inshell.terminal, newer, timeout=150)
    assert "\x1b[" in found["ls"] and "32m" in found["ls"]
    assert "iqn.2026-11.org.example:typed" in found["ls"]
    assert "Global pref auto_save_on_exit=true" in found["end"] and found["saved"]
    assert "set attribute generate_node_acls=1" in found["kept"]["history.txt"]
    assert "secretsecret" not in str(found["kept"])
    assert found["gone"] and found["same"]


@pytest.mark.full
def test_several_at_once(bed: lab.Lab, newest: lab.Host) -> None:
    """Takes ten seconds."""
    found = newest.call(inshell.at_once, NEWER, timeout=150)
    assert found["codes"] == [0, 0] and found["theirs"][0] == 0 and found["ours"][0] == 0
    assert found["there"] == ["a1", "a2", "a3", "b0", "b1", "b2", "b3", "theirs"]
    assert "a1" in found["seen"] and "a0" not in found["seen"]


# ---- bad input ---------------------------------------------------------------------------------
@pytest.mark.parametrize("hostile", [
    inshell.HOSTILE[:2], pytest.param(inshell.HOSTILE, marks=pytest.mark.full)],
    ids=["some", "all"])
def test_bad_input(hostile: tuple[str, ...], bed: lab.Lab, newest: lab.Host) -> None:
    """All of it takes a minute."""
    calls, wrong = newest.call(inshell.bad_input, str(bed.shared), hostile, timeout=280)
    assert not wrong, f"{len(wrong)} of {calls}:\n" + "\n".join(wrong[:40])
    assert calls > 200
