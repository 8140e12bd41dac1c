"""The command line, without a kernel: what it understands, hides and answers."""
from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lio_handover import __version__, errors, started, verb_table
from lio_handover.cli import host_commands, main, output, parser
from lio_handover.document import document
from lio_handover.execute.executor import Outcome
from lio_handover.kernel import fixes, portals
from lio_handover.kernel.configfs import Configfs
from lio_handover.local.ours import Ours
from lio_handover.local.results import Prepared
from lio_handover.model import objects
from lio_handover.model.objects import State
from lio_handover.plan.planner import plan
from lio_handover.settings import Settings
from tests.support import samples
from tests.support.commandline import (CHECKOUT, FACTS, FINDINGS, NAME, STATE, Captured, Fake,
                                       ready, run, shape, terminal, view, with_acl)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Every verb talks to this façade, as root."""
    fake = Fake()
    monkeypatch.setattr(host_commands, "open_host", lambda args: fake)
    monkeypatch.setattr(fixes, "notes", tuple)   # of the machine that runs the tests
    monkeypatch.setattr(portals, "silent", lambda state: [])
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


def test_what_comes_after_prepare_is_what_fits_the_target(capsys: Captured) -> None:
    """A guest that runs is moved; by file it would have to be stopped."""
    args = argparse.Namespace(json=False, allow=())
    move = "move vhost/naa.1 --to HOST --guest SOCKET --guest-there SOCKET; or, where no guest " \
        "is attached, lio-handover "
    for target, more in (("iscsi/iqn.x", ""), ("vhost/naa.1", move)):
        assert host_commands._prepared(args, Prepared(targets=(target,))) == errors.SAME
        assert capsys.readouterr().err.endswith(
            f"nothing was changed; next: lio-handover {more}freeze {target}\n")


# ── what is understood ───────────────────────────────────────────────────────────────────────

def test_every_verb_of_the_manual_is_there(capfd: Captured) -> None:
    wanted = ["show", "prepare", "freeze", "export", "thaw", "diff", "plan", "import", "verify",
              "remove", "adopt", "giveback", "create", "set", "delete", "apply", "shell", "restore",
              "clear", "source", "destination", "status", "recover", "move", "keygen", "errors"]
    assert list(verb_table.VERBS) == wanted
    assert {*started.COMMANDS, "errors"} == set(wanted)
    for name in set(started.COMMANDS.values()):
        of_module = [verb for verb, module in started.COMMANDS.items() if module == name]
        assert set(importlib.import_module(name).RUN) == set(of_module)
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
    parsed = parser.parser("show").parse_args(["--config", "/a", "show", "--debug"])
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
    monkeypatch.setattr(host_commands, "open_host",
                        lambda args: Ours(Settings(), Configfs("/nonexistent")))
    for words in (["show"], ["prepare", NAME], ["freeze", NAME], ["export", "--all"],
                  ["thaw", NAME], ["plan", doc], ["import", doc], ["import", doc, "--dry-run"],
                  ["diff", doc], ["verify", doc], ["thaw", "--all"]):
        code, out, err = run(capfd, *words)
        assert (code, out) == (errors.NoTargetModules.code, ""), words
        assert "modprobe target_core_mod" in "; ".join(shape(err))


def test_an_error_nobody_thought_of_is_one_line_too(capfd: Captured, core: Fake) -> None:
    core.error = KeyError(objects.Secret(samples.SECRET))
    code, out, err = run(capfd, "show")
    assert code == errors.HandoverError.code
    assert shape(err)[0] == "lio-handover: KeyError in lio-handover"
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
        "(stage 0.10 s, activate 0.02 s), read back and the same; lio-handover "
        "restores it here at a boot, not targetcli; next: on a.example: "
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
    text = (CHECKOUT / "docs" / "usage" / "command-line.md").read_text()
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
    text = (CHECKOUT / "docs" / "usage" / "command-line.md").read_text()
    core.here = with_acl(auth_userid="other")
    plan_ = json.loads(run(capfd, "plan", doc, "--json")[1])
    differing = json.loads(run(capfd, "diff", doc, "--json")[1])
    for one in (failed["error"]["findings"][0], plan_["steps"][0], plan_["maps"][0],
                differing["changes"][0]):
        assert all(f"`{name}`" in text for name in one), one


# ── secrets ──────────────────────────────────────────────────────────────────────────────────

def test_no_output_but_the_document_holds_a_secret(capfd: Captured, core: Fake,
                                                   doc: str, tmp_path: Path) -> None:
    core.here = with_acl(auth_password=objects.Secret("another"))
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


# ── terminals and pipes ──────────────────────────────────────────────────────────────────────

def test_progress_is_one_line_on_a_terminal_and_nothing_elsewhere(
        monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.setenv("TERM", "xterm")
    step = ready().plan.steps[0]
    with terminal(40) as (ours, its), open(its, "w", closefd=False) as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        progress = output.Progress()
        progress(0, 300, step._replace(path="x" * 80))
        progress.clear()
        said = ""
        while said.count("\x1b[K") < 2:
            said += os.read(ours, 4096).decode()
    assert said.startswith("\r1/300 stage: module, x") and said.endswith("\r\x1b[K")
    assert len(said.split("\x1b[K")[0]) <= 40 and "\n" not in said
    monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))
    quiet = output.Progress()
    quiet(0, 300, step)
    assert not quiet.active and not quiet.shown


def test_a_document_never_goes_to_a_terminal(core: Fake, monkeypatch: pytest.MonkeyPatch,
                                             capfd: Captured) -> None:
    with terminal(80) as (ours, its), open(its, "w", closefd=False) as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        assert main.main(["export", NAME]) == errors.BadFile.code
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    assert "is a terminal" in capfd.readouterr().err


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

    monkeypatch.setitem(host_commands.RUN, "show", hit)
    code, out, err = run(capfd, "show")
    assert (code, out) == (128 + number, "")
    assert shape(err)[:2] == ["lio-handover: interrupted", "nothing was changed"]


@pytest.mark.parametrize("verb", ["import", "remove", "freeze"])
def test_a_signal_stops_a_change_between_two_steps(capfd: Captured, core: Fake, doc: str,
                                                   verb: str) -> None:
    def change(*args: Any, stop: Any, **more: Any) -> Any:
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
    def change(*args: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise errors.UndoFailed("it failed", "the host is left in between")

    setattr(core, "import_", change)
    assert run(capfd, "import", doc)[0] == errors.UndoFailed.code


def test_a_signal_that_is_ignored_stays_ignored(core: Fake, capfd: Captured) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert run(capfd, "show")[0] == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
