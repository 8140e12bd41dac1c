"""The command line, without a kernel: what it understands, shows, hides and answers."""
from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import (__version__, answers, cli, columns, diff, document, errors, files, model,
                          steps, tree, verbs, wording)
from lio_handover.configfs import Configfs
from lio_handover.core import Core, Ready, View
from lio_handover.executor import Outcome
from lio_handover.model import State
from lio_handover.plan import plan
from lio_handover.reader import Facts
from lio_handover.screen import Screen
from lio_handover.settings import Settings
from tests import samples

CHECKOUT = Path(__file__).resolve().parents[1]
LAUNCHER = CHECKOUT / "scripts" / "lio-handover"
FACTS = Facts("7.2.0", "boot", "/etc/target", (), (), True, {})
NAME = f"iscsi/{samples.IQN}"
STATE = samples.both(
    samples.iscsi(luns=6, acls=3, registrants=2, chap=True, portals=samples.PORTALS,
                  groups=("fast",)),
    samples.vhost(wwn="naa.600140500000beef", fabric="loopback"))
FINDINGS = (
    errors.Finding(errors.StorageMissing, "fileio/disk0", "/srv/disk0.img does not exist here",
                   do="name it with --map"),
    errors.Finding(errors.NotFrozen, NAME, "was served meanwhile", "not-frozen", "freeze it"))


def view(state: State = STATE, **more: Any) -> View:
    return View(state, "a.example", "6.1.0", sizes={
        one.key: 1 << 26 for one in state.backstores}, **more)


def ready(state: State = STATE, findings: Sequence[errors.Finding] = ()) -> Ready:
    return Ready(samples.document(state, True), State(), plan(State(), state, FACTS),
                 tuple(findings), FACTS, (("device", "/dev/sdb", "/dev/sdc"),))


class Fake(Core):
    """A façade that answers without a kernel, or raises what it is told to."""

    def __init__(self) -> None:
        super().__init__(Settings(), Configfs("/nonexistent"))
        self.error: BaseException | None = None
        self.findings: tuple[errors.Finding, ...] = ()
        self.here = STATE
        self.outcome = Outcome(3, 2, {"stage": 0.1, "activate": 0.02}, ("a note",))

    def _answer(self) -> None:
        if self.error:
            raise self.error

    def names(self, targets: Sequence[str], everything: bool = False) -> list[tuple[str, str]]:
        self._answer()
        return [("iscsi", samples.IQN)]

    def view(self, targets: Sequence[str] = ()) -> View:
        self._answer()
        return view(frozen=(NAME,))

    def prepare(self, names: Any, probe: bool = False) -> Any:
        return samples.document(STATE), list(self.findings)

    def export(self, names: Any, allow: Any = (), probe: bool = False) -> document.Document:
        self._answer()
        return samples.document(STATE, True)

    def freeze(self, *args: Any) -> State:
        self._answer()
        return STATE

    def thaw(self, names: Any, allow: Any = ()) -> State:
        self._answer()
        return STATE

    def ready(self, document: Any, maps: Any = ()) -> Ready:
        self._answer()
        return ready(findings=self.findings)

    def import_(self, one: Ready, allow: Sequence[str] = (), *more: Any) -> Outcome:
        self._answer()
        errors.refuse(one.findings, allow)
        return self.outcome

    def compare(self, document: Any, maps: Any = ()) -> Any:
        self._answer()
        return self.here, STATE, diff.diff(self.here, STATE)

    def remove(self, *args: Any) -> tuple[Outcome, str]:
        self._answer()
        return self.outcome, "/var/lib/lio-handover/removed/1.json"


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Every verb talks to this façade, as root."""
    fake = Fake()
    monkeypatch.setattr(verbs, "_core", lambda args: fake)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return fake


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The test runner's signal handlers come back."""
    kept = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for one, handler in kept.items():
        signal.signal(one, handler)


@pytest.fixture
def doc(tmp_path: Path) -> str:
    path = tmp_path / "doc.json"
    path.write_bytes(document.dumps(samples.document(STATE, True)))
    return str(path)


Captured = pytest.CaptureFixture[str]


def run(capfd: Captured, *words: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command."""
    capfd.readouterr()
    code = cli.main(words)
    out, err = capfd.readouterr()
    return code, out, err


def shape(err: str) -> list[str]:
    """The parts of the one line of an error."""
    assert err.endswith("\n") and err.count("\n") == 1, err
    assert err.startswith("lio-handover: ")
    return err[:-1].split("; ")


# ── what is understood ───────────────────────────────────────────────────────────────────────

def test_every_verb_of_the_manual_is_there(capfd: Captured) -> None:
    wanted = ["show", "prepare", "freeze", "export", "thaw", "diff", "plan", "import", "verify",
              "remove", "errors"]
    assert list(cli.VERBS) == wanted
    assert [*verbs.RUN, "errors"] == wanted
    code, out, _ = run(capfd, "--help")
    assert code == 0
    for verb in wanted:
        assert f"\n    {verb} " in out
        code, help_of_verb, _ = run(capfd, verb, "--help")
        assert code == 0 and "--json" in help_of_verb and "--config" in help_of_verb
        assert verb == "errors" or f"lio-handover {verb}" in help_of_verb.partition("\n\n")[2]
    assert run(capfd, "--version")[1] == f"lio-handover {__version__}\n"


@pytest.mark.parametrize("words", [
    [], ["sho"], ["import"], ["import", "a", "b"], ["prepare"], ["freeze", "--all", "x/y"],
    ["show", "nonsense"], ["show", "--nonsense"], ["export", "\x1b[31mred"], ["--config"],
    ["remove", "--json"],
])
def test_what_is_not_understood_is_said_in_one_line(capfd: Captured, core: Fake,
                                                    words: list[str]) -> None:
    code, out, err = run(capfd, *words)
    assert (code, out) == (errors.USAGE, "")
    assert shape(err)[-2] == errors.NOTHING_CHANGED and shape(err)[-1].startswith("next: ")
    assert "\x1b" not in err


def test_options_stand_before_or_after_the_verb(capfd: Captured, core: Fake) -> None:
    one = run(capfd, "--json", "show")
    assert one == run(capfd, "show", "--json") and json.loads(one[1])
    parsed = cli.parser("show").parse_args(["--config", "/a", "show", "--debug"])
    assert parsed.config == "/a" and parsed.debug and not parsed.json
    assert run(capfd, "--config", "import", "errors")[0] == 0


def test_targets_may_be_written_as_in_targetcli(capfd: Captured, core: Fake) -> None:
    seen: list[Sequence[str]] = []
    core.names = lambda targets, everything=False: (  # type: ignore[method-assign]
        seen.append(targets) or [("iscsi", samples.IQN)])  # type: ignore[func-returns-value]
    run(capfd, "prepare", f"/{NAME}/")
    assert seen == [[NAME]]


# ── the table ────────────────────────────────────────────────────────────────────────────────

def test_the_table_is_whole_and_no_code_is_given_twice(capfd: Captured) -> None:
    table = list(errors.table())
    codes = [code for code, _, _ in table]
    assert len(set(codes)) == len(codes)
    assert all(errors.USAGE < code < 100 for code in codes)
    assert all(who and "\n" not in who and who.endswith(".") for _, _, who in table)
    code, out, _ = run(capfd, "errors")
    assert code == 0
    for number, name, who in table:
        assert f"{number:>5}  {name:<17}  {who}" in out.splitlines()
    told = json.loads(run(capfd, "errors", "--json")[1])
    assert [(one["code"], one["name"]) for one in told][3:] == [one[:2] for one in table]


@pytest.mark.parametrize("kind", [errors.NotRoot, errors.NoSuchTarget, errors.CannotRepresent,
                                  errors.KernelRefused, errors.UndoFailed])
@pytest.mark.parametrize("verb", ["show", "freeze", "export", "import", "diff", "remove"])
def test_an_error_is_one_line_and_its_own_code(
        capfd: Captured, core: Fake, doc: str, kind: type[errors.HandoverError],
        verb: str) -> None:
    core.error = kind("some\nthing \x1b[2Jfailed", do="look")
    word = doc if verb in ("import", "diff") else NAME
    code, out, err = run(capfd, verb, word)
    assert (code, out) == (kind.code, "")
    assert shape(err) == ["lio-handover: some\\nthing \\x1b[2Jfailed", "nothing was changed",
                          "next: look"]
    code, out, again = run(capfd, verb, word, "--json")
    assert code == kind.code and again == err
    assert json.loads(out)["error"]["name"] == kind.__name__


def test_root_is_asked_for_first(capfd: Captured, core: Fake, doc: str,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for words in (["prepare", NAME], ["freeze", "--all"], ["export", NAME], ["thaw", NAME],
                  ["plan", doc], ["import", "/nonexistent"], ["verify", doc], ["remove", NAME]):
        code, out, err = run(capfd, *words)
        assert (code, out) == (errors.NotRoot.code, "")
        assert len(shape(err)) == 3


def test_a_permission_that_is_missing_means_no_root(capfd: Captured, core: Fake,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    core.error = PermissionError(13, "Permission denied", "/sys/kernel/config/target")
    assert run(capfd, "show")[0] == errors.NotRoot.code


def test_without_modules_every_verb_says_so(capfd: Captured, doc: str,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(verbs, "_core",
                        lambda args: Core(Settings(), Configfs("/nonexistent")))
    for words in (["show"], ["prepare", NAME], ["freeze", NAME], ["export", "--all"],
                  ["thaw", NAME], ["plan", doc], ["import", doc], ["import", doc, "--dry-run"],
                  ["diff", doc], ["verify", doc], ["thaw", "--all"]):
        code, out, err = run(capfd, *words)
        assert (code, out) == (errors.NoTargetModules.code, ""), words
        assert "modprobe target_core_mod" in "; ".join(shape(err))


def test_an_error_nobody_thought_of_is_one_line_too(capfd: Captured, core: Fake) -> None:
    core.error = KeyError(model.Secret(samples.SECRET))
    code, out, err = run(capfd, "show")
    assert code == errors.HandoverError.code
    assert shape(err)[0] == "lio-handover: KeyError: (secret)"
    assert "--debug" in shape(err)[-1]
    code, out, err = run(capfd, "show", "--debug")
    assert "Traceback" in err and samples.SECRET not in err
    core.error = OSError(5, "Input/output error", "/sys/kernel/config/target/core")
    assert run(capfd, "show")[0] == errors.KernelRefused.code


def test_a_configuration_that_is_named_must_be_there(capfd: Captured, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "wrong").write_text("[nonsense]\n")
    for name in ("missing", "fifo", "wrong", "."):
        code, out, err = run(capfd, "show", "--config", str(tmp_path / name))
        assert (code, out) == (errors.BadSettings.code, "")
        assert len(shape(err)) == 3


# ── answers ──────────────────────────────────────────────────────────────────────────────────

def test_success_is_one_line_with_what_comes_next(capfd: Captured, core: Fake, doc: str) -> None:
    code, out, err = run(capfd, "import", doc)
    assert (code, out) == (0, "")
    note, line = err.splitlines()
    assert note == "lio-handover: note: a note"
    assert line == (
        f"lio-handover: imported {NAME}, loopback/naa.600140500000beef: 2 kernel writes in 0.12 s "
        "(stage 0.10 s, activate 0.02 s), read back and the same; next: on a.example: "
        f"lio-handover remove {NAME} loopback/naa.600140500000beef --allow reserved")
    core.outcome = Outcome()
    assert "just so already; nothing was changed" in run(capfd, "import", doc)[2]
    for words in (["freeze", NAME], ["thaw", NAME], ["remove", NAME], ["verify", doc],
                  ["prepare", NAME]):
        code, out, err = run(capfd, *words)
        assert code == 0 and len(err.splitlines()) == 1 and NAME in err + out + doc
        code, out, err = run(capfd, *words, "--json")
        assert (code, err) == (0, "") and json.loads(out)


def test_diff_answers_with_its_exit_code(capfd: Captured, core: Fake, doc: str) -> None:
    code, out, err = run(capfd, "diff", doc)
    assert (code, out) == (errors.SAME, "") and "the same: 2 targets" in err
    assert json.loads(run(capfd, "diff", doc, "--json")[1]) == {"changes": [], "same": True}
    core.here = State()
    code, out, err = run(capfd, "diff", doc)
    assert code == errors.DIFFERENT and "only in the document (+)" in err
    assert run(capfd, "verify", doc)[0] == errors.VerifyFailed.code
    assert f"next: lio-handover diff {doc}" in run(capfd, "verify", doc)[2]


def test_findings_are_all_shown_and_the_first_gives_the_code(capfd: Captured, core: Fake,
                                                             doc: str) -> None:
    core.findings = FINDINGS
    for words in (["prepare", NAME], ["plan", doc], ["import", doc, "--dry-run"]):
        code, out, err = run(capfd, *words)
        assert code == errors.StorageMissing.code
        assert "StorageMissing: fileio/disk0: /srv/disk0.img does not exist here" in out
        assert "next: freeze it, or --allow not-frozen to go on all the same" in out
        assert "2 findings against" in shape(err)[0]
        told = json.loads(run(capfd, *words, "--json")[1])["findings"]
        assert [(one["error"], one["override"]) for one in told] == [
            ("StorageMissing", ""), ("NotFrozen", "not-frozen")]
        core.findings = FINDINGS[1:]
        assert run(capfd, *words)[0] == errors.NotFrozen.code
        code, out, err = run(capfd, *words, "--allow", "not-frozen")
        assert code == 0 and "allowed: " in out
        core.findings = FINDINGS
    code, out, err = run(capfd, "import", doc)
    assert code == errors.StorageMissing.code and "and 1 more" in err and not out
    assert run(capfd, "import", doc, "--allow", "not-frozen")[0] == errors.StorageMissing.code


def documented(what: str) -> set[str]:
    """The members that the manual gives one of its rows."""
    text = (CHECKOUT / "docs" / "command-line.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| {what} |"))
    return set(row.split("|")[2].split("(")[0].split("`")[1::2])


def test_json_is_as_documented(capfd: Captured, core: Fake, doc: str, tmp_path: Path) -> None:
    core.findings = FINDINGS[1:]
    allow = ["--allow", "not-frozen"]
    for what, words in (
            ("`show`", ["show"]), ("`prepare`", ["prepare", NAME]), ("`freeze`", ["freeze", NAME]),
            ("`export -o FILE`", ["export", NAME, "-o", str(tmp_path / "out")]),
            ("`thaw`", ["thaw", NAME]), ("`diff`", ["diff", doc]),
            ("`plan`, `import --dry-run`", ["plan", doc]),
            ("`plan`, `import --dry-run`", ["import", doc, "--dry-run"]),
            ("`import`", ["import", doc, *allow]), ("`verify`", ["verify", doc]),
            ("`remove`", ["remove", NAME])):
        assert json.loads(run(capfd, *words, "--json")[1]).keys() == documented(what), what
    for one in json.loads(run(capfd, "errors", "--json")[1]):
        assert one.keys() == documented("`errors`")
    failed = json.loads(run(capfd, "import", doc, "--json")[1])
    assert {"error", *failed["error"]} == documented("any that fails")
    text = (CHECKOUT / "docs" / "command-line.md").read_text()
    core.here = with_acl(auth_userid="other")
    plan_ = json.loads(run(capfd, "plan", doc, "--json")[1])
    differing = json.loads(run(capfd, "diff", doc, "--json")[1])
    for one in (failed["error"]["findings"][0], plan_["steps"][0], plan_["maps"][0],
                differing["changes"][0]):
        assert all(f"`{name}`" in text for name in one), one


# ── secrets ──────────────────────────────────────────────────────────────────────────────────

def test_no_output_but_the_document_holds_a_secret(capfd: Captured, core: Fake,
                                                   doc: str, tmp_path: Path) -> None:
    core.here = with_acl(auth_password=model.Secret("another"))
    core.findings = FINDINGS
    for words in (["show"], ["prepare", NAME], ["freeze", NAME], ["thaw", NAME], ["diff", doc],
                  ["plan", doc], ["import", doc, "--dry-run"], ["verify", doc], ["import", doc],
                  ["remove", NAME], ["export", NAME, "-o", str(tmp_path / "out")]):
        for more in ([], ["--json"], ["--debug"]):
            _, out, err = run(capfd, *words, *more)
            for secret in (samples.SECRET, "another"):
                assert secret not in (out + err).replace("(another secret)", ""), words
    code, out, err = run(capfd, "diff", doc)
    assert "(secret)" in out and "(another secret)" in out
    assert samples.SECRET in run(capfd, "export", NAME)[1]
    assert samples.SECRET.encode() in (tmp_path / "out").read_bytes()
    for one in (STATE, plan(State(), STATE, FACTS), ready(), view()):
        assert samples.SECRET not in repr(one)


def with_acl(**changed: str) -> State:
    """STATE with other attributes of its first ACL."""
    target = STATE.targets[0]
    tpg = target.tpgs[0]
    acl = replace(tpg.acls[0], attributes={**tpg.acls[0].attributes, **{
        name.replace("_", "/", 1): value for name, value in changed.items()}})
    return with_tpg(acls=(acl, *tpg.acls[1:]))


def with_tpg(**changed: Any) -> State:
    target = STATE.targets[0]
    return replace(STATE, targets=(replace(target, tpgs=(
        replace(target.tpgs[0], **changed),)), *STATE.targets[1:]))


# ── what is shown ────────────────────────────────────────────────────────────────────────────

def test_the_tree_tells_what_an_engineer_asks() -> None:
    sessions = with_tpg(sessions=(samples.initiator(0), "iqn.dynamic:x"))
    lines = list(tree.tree(view(sessions, off=frozenset({STATE.backstores[1].key})),
                           Screen()))
    text = "\n".join(lines)
    for words in (
            "o- a.example .", "[kernel 6.1.0]", "[/srv/disk0.img, 64 MiB, write-thru, 1 LUN]",
            "[Write Exclusive, Registrants Only (type 5), generation 5, no APTPL]",
            "[key 0x000000000000abc0, isid 00023d000000, tpg1 lun0, HOLDER]",
            "[/srv/disk1.img, 64 MiB, write-thru, NOT ENABLED, 1 LUN]",
            "[enabled, relative port 1, no authentication]", "o- [2001:db8::1]:3260",
            f"o- {samples.initiator(0)} ................... [logged in, CHAP]",
            f"o- {samples.initiator(1)} ............... [not logged in, CHAP]",
            "[logged in, by a dynamic ACL]", "o- mapped_lun0…5 .", "ALUA group fast",
            "[nexus naa.5001405000000001]", "serial 000001db-0000-4000-8000-000000000000"):
        assert words in text, words
    assert text.count("HOLDER") == 1
    assert "\x1b" not in text
    frozen = "\n".join(tree.tree(view(frozen=(NAME,)), Screen()))
    assert f"o- {NAME} ............. [FROZEN by lio-handover]" in frozen
    missing = "\n".join(tree.tree(replace(view(), sizes={}), Screen()))
    assert "[/srv/disk0.img IS NOT THERE, write-thru, 1 LUN]" in missing
    unclear = "\n".join(tree.tree(view(unclear="two could be meant"), Screen()))
    assert "reservations" in unclear and "[can't be told]" in unclear
    assert "HOLDER" not in unclear


@pytest.mark.parametrize("kind, holders", [(0, 0), (5, 1), (7, 2), (8, 2)])
def test_who_holds_is_marked(kind: int, holders: int) -> None:
    held = samples.registrations(2, kind=kind, holder=0 if kind in (5, 7, 8) else None)
    state = replace(STATE, backstores=(
        replace(STATE.backstores[0], reservations=held), *STATE.backstores[1:]))
    text = "\n".join(tree.tree(view(state), Screen()))
    assert text.count("HOLDER") == holders
    assert ("registered, not reserved" in text) is (kind == 0)


LONG = "/srv/" + "very-long-name/" * 12 + "disk.img"


def everything(screen: Screen) -> Iterator[str]:
    """All that is shown of a host, a difference and a plan with long names."""
    store = STATE.backstores[0]
    state = replace(STATE, backstores=(replace(store, parameters={
        **store.parameters, "fd_dev_name": LONG}), *STATE.backstores[1:]))
    yield from tree.tree(view(state), screen)
    yield from columns.columns(columns.rows(STATE, state, diff.diff(STATE, state)), "here: a",
                               "document: b", screen)
    yield from columns.columns(columns.rows(State(), state, diff.diff(State(), state)), "here: a",
                               "document: b", screen)
    yield from steps.plan(ready(state, FINDINGS), screen)


@pytest.mark.parametrize("width", [40, 80, 119, 160, 400])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = list(everything(Screen(width)))
    assert max(map(len, lines)) <= width
    together = "".join("".join(lines).split())
    assert "very-long-name/disk.img"[-8:] in together
    # Colours add nothing that is seen.
    import re
    coloured = list(everything(Screen(width, True)))
    assert [re.sub("\x1b\\[[0-9;]*m", "", line) for line in coloured] == lines
    assert coloured != lines


def test_without_a_terminal_nothing_is_wrapped() -> None:
    lines = list(everything(Screen()))
    assert any(LONG in line and len(line) > 200 for line in lines)


def test_no_control_character_reaches_the_terminal() -> None:
    bad = "a\x1b[31m\nb\x07\u202e\x9b"
    key = ("backstore", "fileio", bad)
    store = replace(STATE.backstores[0], key=key, parameters={"fd_dev_name": f"/srv/{bad}"},
                    attributes={"wwn/vpd_unit_serial": bad})
    tpg = replace(STATE.targets[0].tpgs[0], sessions=(bad,), luns=(), acls=(
        model.Acl(("target", "iscsi", samples.IQN, "1", "acl", bad)),))
    state = State((), (store,), (replace(STATE.targets[0], tpgs=(tpg,)),))
    changes = diff.diff(STATE, state)
    shown = [
        *tree.tree(view(state), Screen(80)),
        *columns.columns(columns.rows(STATE, state, changes), bad, bad, Screen(80)),
        *columns.columns(columns.rows(STATE, state, changes), bad, bad, Screen()),
        *steps.plan(replace(ready(), mapped=(("device", bad, bad),), findings=(
            errors.Finding(errors.InUse, bad, bad, bad, bad),)), Screen(80))]
    assert all(line.isprintable() for line in shown)
    assert sum("\\x1b" in line for line in shown) > 5
    assert errors.one_line(bad) == "a\\x1b[31m\\nb\\x07\\u202e\\x9b"


def rows_of(have: State, want: State) -> list[tuple[str, str, str, str]]:
    return [(row.mark, row.label, row.here, row.there)
            for row in columns.rows(have, want, diff.diff(have, want)) if row.mark]


def test_every_kind_of_difference_is_a_row() -> None:
    first = STATE.backstores[0]
    held = first.reservations
    other = replace(held, type=8, generation=9, aptpl=True, registrations=(
        replace(held.registrations[1], key=0xff), held.registrations[0]))

    def store(**changed: Any) -> State:
        return replace(STATE, backstores=(replace(first, **changed), *STATE.backstores[1:]))

    assert rows_of(STATE, STATE) == []
    assert rows_of(STATE, store(parameters={**first.parameters, "fd_dev_size": "1"})) == [
        ("!", "control/fd_dev_size", "67108864", "1")]
    assert rows_of(STATE, with_acl(auth_userid="")) == [("!", "auth/userid", "user", '""')]
    assert rows_of(STATE, with_acl(auth_password=model.Secret("x"))) == [
        ("!", "auth/password", "(secret)", "(another secret)")]
    assert rows_of(STATE, with_tpg(luns=STATE.targets[0].tpgs[0].luns[:5])) == [
        ("-", "lun5", "fileio/disk5", "(not there)")]
    lun = STATE.targets[0].tpgs[0].luns[0]
    assert rows_of(with_tpg(luns=(replace(lun, backstore=None),
                                  *STATE.targets[0].tpgs[0].luns[1:])), STATE) == [
        ("!", "backstore", "nothing", "fileio/disk0")]
    marks = {label: (mark, here, there) for mark, label, here, there in rows_of(
        STATE, store(reservations=other))}
    name = samples.initiator(1) + " isid 00023d000001"
    assert marks["generation"] == ("!", "5", "9") and marks["APTPL"] == ("!", "no", "yes")
    assert marks["type"][2] == "Exclusive Access, All Registrants (type 8)"
    assert marks[name] == ("!", "0x000000000000abc1", "0x00000000000000ff HOLDER")
    assert "order of the registrants" in marks
    gone = rows_of(STATE, store(reservations=model.NO_RESERVATIONS))
    assert ("-", name, "0x000000000000abc1", "(not there)") in [
        (mark, label, here.split()[0], there) for mark, label, here, there in gone]
    created = rows_of(State(), STATE)
    assert {mark for mark, *_ in created} == {"+"} and len(created) > 30


def test_columns_stand_beside_each_other() -> None:
    want = with_tpg(attributes={**STATE.targets[0].tpgs[0].attributes,
                                "attrib/login_timeout": "30"})
    found = columns.rows(STATE, want, diff.diff(STATE, want))
    assert list(columns.columns(found, "here: a", "document: b", Screen(80))) == [
        "                            here: a | document: b",
        "------------------------------------+------------",
        f"  {NAME}",
        "    tpg1",
        "!     attrib/login_timeout  15      | 30"]


def test_a_plan_is_numbered_through_and_says_why() -> None:
    one = ready()
    lines = list(steps.plan(one, Screen()))
    text = "\n".join(lines)
    numbers = [int(line.split()[0]) for line in lines if line.split()[0].isdigit()]
    assert numbers == list(range(1, len(one.plan.steps) + 1))
    stage = lines.index(f"stage: while the source still serves ({len(one.plan.stage)} steps)")
    activate = lines.index(f"activate: when the source has let go ({len(one.plan.activate)} steps)")
    assert stage < activate
    assert "  gate: initiators are let in" in lines[activate:]
    assert "device: /dev/sdb -> /dev/sdc" in text
    # The contents of files are not shown: they are long, and nobody checks them by eye.
    step = next(step for step in one.plan.steps if step.op == "file")
    assert step.value.decode()[:20] not in text
    assert f"auth/password = {model.Secret('x')}" in text
    for note in one.plan.notes:
        assert note in text
    told = answers.plan_tree(one)
    assert [each["number"] for each in told["steps"]] == numbers
    assert all(each["value"] is None for each in told["steps"]
               if each["secret"] or each["op"] == "file")
    assert json.dumps(told)


def test_sizes_and_counts_are_said_as_people_say_them() -> None:
    assert [wording.size(one) for one in (0, 512, 1 << 26, 1536 << 20, 5 << 50)] == [
        "0 bytes", "512 bytes", "64 MiB", "1.5 GiB", "5 PiB"]
    assert wording.count(1, "LUN") + wording.count(0, "LUN") == "1 LUN0 LUNs"


# ── terminals ────────────────────────────────────────────────────────────────────────────────

@contextmanager
def terminal(columns: int) -> Iterator[tuple[int, int]]:
    import fcntl
    import struct
    import termios
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        yield ours, its
    finally:
        os.close(ours)
        os.close(its)


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with terminal(123) as (_, its), open(its, "w", closefd=False) as screen, \
            (tmp_path / "out").open("w") as file:
        assert Screen.of(file) == Screen(0, False)
        assert Screen.of(screen) == Screen(123, True)
        monkeypatch.setenv("NO_COLOR", "1")
        assert Screen.of(screen) == Screen(123, False)
        monkeypatch.setenv("COLUMNS", "70")
        assert Screen.of(screen).width == 70


def test_progress_is_one_line_on_a_terminal_and_nothing_elsewhere(
        monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.setenv("TERM", "xterm")
    step = ready().plan.steps[0]
    with terminal(40) as (ours, its), open(its, "w", closefd=False) as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        progress = verbs.Progress()
        progress(0, 300, replace(step, path="x" * 80))
        progress.clear()
        said = ""
        while said.count("\x1b[K") < 2:
            said += os.read(ours, 4096).decode()
    assert said.startswith("\rstage 1/300: module, x") and said.endswith("\r\x1b[K")
    assert len(said.split("\x1b[K")[0]) <= 40 and "\n" not in said
    monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))
    quiet = verbs.Progress()
    quiet(0, 300, step)
    assert not quiet.active and not quiet.shown


def test_a_document_never_goes_to_a_terminal(core: Fake, monkeypatch: pytest.MonkeyPatch,
                                             capfd: Captured) -> None:
    with terminal(80) as (ours, its), open(its, "w", closefd=False) as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        assert cli.main(["export", NAME]) == errors.BadFile.code
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    assert "is a terminal" in capfd.readouterr().err


# ── files ────────────────────────────────────────────────────────────────────────────────────

def test_a_document_is_written_for_its_owner_alone_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "doc"
    path.write_text("old")
    path.chmod(0o644)
    with path.open() as still_open:
        mask = os.umask(0)
        try:
            files.write(str(path), b"new")
        finally:
            os.umask(mask)
        assert still_open.read() == "old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["doc"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "doc"
    path.write_text("old")

    def fails(fd: int) -> None:
        assert all(stat.S_IMODE(os.stat(tmp_path / one).st_mode) == 0o600
                   for one in os.listdir(tmp_path) if one != "doc")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(errors.BadFile, match="No space left"):
        files.write(str(path), b"new")
    assert os.listdir(tmp_path) == ["doc"] and path.read_text() == "old"

    def stopped(fd: int) -> None:
        raise verbs.Stopped(15)

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(verbs.Stopped):
        files.write(str(path), b"new")
    assert os.listdir(tmp_path) == ["doc"]


def special_files(folder: Path) -> list[Path]:
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    return [folder / "fifo", folder / "folder", Path("/dev/zero"), Path("/dev/tty")]


def test_only_files_are_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    for path in (*special_files(tmp_path), tmp_path / "link", tmp_path / "no" / "folder",
                 Path("a\0b"), Path("")):
        with pytest.raises(errors.BadFile):
            files.write(str(path) if path != Path("") else "", b"new")
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder", "link"]


def test_only_files_are_read_and_nothing_hangs(tmp_path: Path) -> None:
    for path in (*special_files(tmp_path), tmp_path / "missing", Path("a\0b"), Path("/dev/null")):
        with pytest.raises(errors.BadFile):
            files.read(str(path), 100)


def test_reading_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "doc"
    path.write_bytes(b"x" * 100)
    assert files.read(str(path), 100) == b"x" * 100
    with pytest.raises(errors.TooLarge):
        files.read(str(path), 99)
    with open("/dev/zero") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(errors.TooLarge):
            files.read("-", 1 << 20)
    with path.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert files.read("-", 100) == b"x" * 100
    with terminal(80) as (_, its), open(its, closefd=False) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(errors.BadFile, match="is a terminal"):
            files.read("-", 100)


def test_a_document_goes_through_a_pipe(core: Fake, capfd: Captured,
                                        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, out, err = run(capfd, "export", NAME)
    assert code == 0 and len(shape(err)) == 3
    (tmp_path / "in").write_text(out)
    with (tmp_path / "in").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run(capfd, "import", "-")[0] == 0


# ── signals ──────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_changes_nothing_at_once(capfd: Captured, core: Fake, number: int,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    def hit(*_: object) -> int:
        os.kill(os.getpid(), number)
        time.sleep(5)
        return 0

    monkeypatch.setitem(verbs.RUN, "show", hit)
    code, out, err = run(capfd, "show")
    assert (code, out) == (128 + number, "")
    assert shape(err)[:2] == ["lio-handover: interrupted", "nothing was changed"]


@pytest.mark.parametrize("verb", ["import", "remove", "freeze"])
def test_a_signal_stops_a_change_between_two_steps(capfd: Captured, core: Fake, doc: str,
                                                   verb: str) -> None:
    def change(*args: Any) -> Any:
        stop = next(one for one in reversed(args) if callable(one))
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        os.kill(os.getpid(), signal.SIGINT)  # in the middle of the undo
        raise errors.Interrupted("interrupted before it was done")

    setattr(core, {"import": "import_"}.get(verb, verb), change)
    code, out, err = run(capfd, verb, doc if verb == "import" else NAME)
    assert (code, out) == (128 + signal.SIGTERM, "")
    assert shape(err)[1] == "nothing was changed"


def test_an_undo_that_failed_says_so_in_spite_of_a_signal(capfd: Captured, core: Fake,
                                                          doc: str) -> None:
    def change(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise errors.UndoFailed("it failed", "the host is left in between")

    setattr(core, "import_", change)
    assert run(capfd, "import", doc)[0] == errors.UndoFailed.code


def test_a_signal_that_is_ignored_stays_ignored(core: Fake, capfd: Captured) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert run(capfd, "show")[0] == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


# ── the program itself ───────────────────────────────────────────────────────────────────────

def launch(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(LAUNCHER), *words], capture_output=True, text=True,
                          timeout=60, **more)


def test_the_launcher_works_from_any_directory(tmp_path: Path) -> None:
    done = launch("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"lio-handover {__version__}\n")
    link = tmp_path / "lio"
    link.symlink_to(LAUNCHER)
    assert os.access(LAUNCHER, os.X_OK)
    done = subprocess.run([sys.executable, str(link), "errors"], capture_output=True, cwd="/",
                          text=True, check=True)
    assert "NotRoot" in done.stdout


def test_a_reader_that_goes_away_is_no_error() -> None:
    for words in (["errors"], ["errors", "--json"], ["--help"]):
        program = subprocess.Popen([sys.executable, str(LAUNCHER), *words], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert program.stdout and program.stderr
        program.stdout.close()
        assert program.stderr.read() == ""
        assert program.wait(30) in (128 + signal.SIGPIPE, 0)
        program.stderr.close()


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, str(LAUNCHER), "errors"], stdout=full, text=True,
                              stderr=subprocess.PIPE)
    assert done.returncode == errors.BadFile.code and "No space left" in done.stderr
    assert len(shape(done.stderr)) == 3
    closed = subprocess.run(["sh", "-c", '"$0" "$1" errors >&- 2>&-', sys.executable,
                             str(LAUNCHER)])
    assert closed.returncode == 0


def imported(code: str) -> set[str]:
    text = f"import sys; before = set(sys.modules); {code}; " \
           "print(*(set(sys.modules) - before), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", text], cwd=CHECKOUT, text=True, check=True,
                          capture_output=True)
    return set(done.stderr.split())


def test_little_is_imported_to_begin_with() -> None:
    assert imported("import lio_handover") == {"lio_handover"}
    start = imported("import lio_handover.cli as c; c.main(['--version']); c.main(['errors']); "
                     "c.main(['--help']); c.main(['import', '--help'])")
    assert not {"dataclasses", "typing", "json", "shutil", "subprocess", "logging",
                "signal", "dbus", "lio_handover.core", "lio_handover.verbs"} & start
    verb = imported("import lio_handover.verbs")
    assert not {one for one in verb if one.split(".")[0] in ("dbus", "gi", "rtslib_fb",
                                                             "configshell_fb", "asyncio")}


@pytest.mark.parametrize("words", [["--version"], ["errors"], ["--help"]])
def test_it_starts_fast(words: list[str], tmp_path: Path) -> None:
    """Within three times what Python itself takes; the best of several, on a busy machine."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def best(argv: Sequence[str], before: float) -> float:
        started = time.perf_counter()
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, env=environment)
        return min(before, time.perf_counter() - started)

    least, ours = 9.0, 9.0
    for attempt in range(60):
        least = best([sys.executable, "-c", "pass"], least)
        ours = best([sys.executable, str(LAUNCHER), *words], ours)
        if attempt > 5 and ours < 3 * least:
            break
    assert ours < 3 * least
