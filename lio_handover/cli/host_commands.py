"""Commands of one host's verbs: show, prepare, freeze, export, thaw, diff, plan, import, verify,
remove.  Each takes the words apart, calls the façade or the service, and says what came of it."""
from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any, Callable, Dict, Mapping, Sequence

from .. import errors
from ..client import connection
from ..document import document as documents
from ..document.document import Document
from ..handover import next_steps
from ..host.looked_at import Ready
from ..kernel import cautions
from ..local.ours import Ours
from ..system import document_file
from ..views import diff_columns, json_view, phrases, plan_steps, tree
from ..views.terminal import Screen
from .output import (PROG, credit, print_data, print_lines, quoted, repeat_option, say, say_done,
                     say_notes, seconds_text, writes_text)
from .session import (Signals, ask_service, chosen_targets, find_service, open_host, require_root,
                      target_names)


# --- both hosts ----------------------------------------------------------------------------------
def show(args: argparse.Namespace, signals: Signals) -> int:
    view = open_host(args).view(target_names(args))
    if args.json:
        print_data(json_view.view_tree(view))
    else:
        print_lines(tree.tree(view, Screen.of(sys.stdout)))
    if view.unclear:
        say(f"reservations are not shown: {view.unclear}")
    for note in view.notes:
        say(note)
    return errors.SAME


def _say_against(args: argparse.Namespace, against: Sequence[errors.Finding], what: str) -> int:
    """Findings were shown: say how many; the exit code of the first."""
    if not args.json:
        kinds = ", ".join(sorted({finding.error.__name__ for finding in against}))
        say(f"{phrases.count(len(against), 'finding')} against {what} ({kinds}); "
            f"{errors.NOTHING_CHANGED}; next: see each finding")
    return against[0].error.code


# --- the source ----------------------------------------------------------------------------------
def prepare(args: argparse.Namespace, signals: Signals) -> int:
    require_root("prepare")
    host = open_host(args)
    wanted = host.some(chosen_targets(args), args.all)
    with signals.later():  # a scratch nexus may be there
        document, findings = host.prepare(wanted, args.probe)
    against = errors.stopping(findings, args.allow)
    notes = [*document.notes, *cautions.before_handover(host.fs, document.state)]
    names = [target.name for target in document.state.targets]
    if args.json:
        print_data({"targets": names, "frozen": document.frozen, "bytes": document.size,
                    "notes": notes, "findings": [json_view.finding_tree(finding, args.allow)
                                                 for finding in findings]})
    else:
        print(errors.one_line(f"{phrases.names(document.state, 99)}: "
                              f"{phrases.contents(document.state)}"))
        print_lines(plan_steps.findings(findings, Screen.of(sys.stdout), args.allow))
    say_notes(args, notes)
    if against:
        return _say_against(args, against, "a handover")
    say_done(args, "nothing speaks against a handover; nothing was changed",
             f"{PROG} " + ("export" if document.frozen else "freeze") + f" {quoted(names)}")
    return errors.SAME


def freeze(args: argparse.Namespace, signals: Signals) -> int:
    service = find_service(args)
    answer = ask_service(service, "Freeze", args, signals)[0] if service else \
        _freeze(args, signals)
    names = answer["targets"]
    if args.json:
        print_data(answer)
    say_done(args, f"froze {', '.join(names)}: gates shut, no command executing, data on the "
             f"storage; {writes_text(answer['writes'])} in {answer['seconds']['freeze']:.2f} s"
             f"{credit(answer)}", answer["next"])
    return errors.SAME


def _freeze(args: argparse.Namespace, signals: Signals) -> Dict[str, Any]:
    require_root("freeze")
    host = open_host(args)
    wanted = host.some(chosen_targets(args), args.all)
    signals.deferred = True
    signals.progress.say("shutting the gates, waiting for commands, flushing data")
    started = time.monotonic()
    state = host.freeze(wanted, args.allow, signals.stop, None, args.probe)
    took = time.monotonic() - started
    signals.progress.clear()
    names = [target.name for target in state.targets]
    return {"targets": names, "writes": host.fs.changes, "seconds": {"freeze": round(took, 6)},
            "next": next_steps.frozen(host.held(names), names)}


def export(args: argparse.Namespace, signals: Signals) -> int:
    service = find_service(args)
    if not service:
        require_root("export")
    if args.output == document_file.STREAM:
        document_file.check_stream()
    else:
        document_file.check_place(args.output)
    answer, data = ask_service(service, "Export", args, signals) if service \
        else _export(args, signals)
    names, frozen = answer["targets"], answer["frozen"]
    try:
        document_file.write(args.output, data)
    except errors.HandoverError as error:
        if answer["recorded"]:
            error.changed = f"{', '.join(names)}: recorded as exported, though nobody has the " \
                "document; export again hands out the same"
        raise
    if args.json and args.output != document_file.STREAM:
        print_data({**answer, "file": args.output})
    say_notes(args, answer["notes"])
    how = "frozen" if frozen else "NOT frozen: import will refuse it"
    say_done(args, f"exported {', '.join(names)} ({how}), {len(data)} bytes, "
             f"digest {answer['digest'][:12]}…{credit(answer)}; " + (
              "recorded: no boot brings it back here" if answer["recorded"] else
              errors.NOTHING_CHANGED),
             f"{PROG} import FILE on the other host" if frozen else
             f"{PROG} freeze {quoted(names)}, and export again")
    return errors.SAME


def _export(args: argparse.Namespace, signals: Signals) -> connection.Came:
    host = open_host(args)
    wanted = host.some(chosen_targets(args), args.all)
    with signals.later():
        document = host.export(wanted, args.allow, args.probe)
    data = documents.dumps(document)
    return {"targets": [target.name for target in document.state.targets],
            "frozen": document.frozen, "digest": document.digest, "bytes": len(data),
            "notes": list(document.notes), "recorded": bool(document.carried)}, data


def thaw(args: argparse.Namespace, signals: Signals) -> int:
    service = find_service(args)
    answer = ask_service(service, "Thaw", args, signals)[0] if service else _thaw(args, signals)
    thawed = answer["targets"]
    if args.json:
        print_data(answer)
    say_notes(args, answer.get("notes", ()))
    if thawed:
        say_done(args, f"thawed {', '.join(thawed)}: initiators are let in again; "
                 f"{writes_text(answer['writes'])}{credit(answer)}",
                 f"{PROG} show {quoted(thawed)}")
    else:
        say_done(args, "nothing is frozen; nothing was changed")
    return errors.SAME


def _thaw(args: argparse.Namespace, signals: Signals) -> Dict[str, Any]:
    require_root("thaw")
    host = open_host(args)
    names = chosen_targets(args)
    if args.all:
        names = [name for handover in host.held() for name in handover.targets]
    wanted = host.names(names)
    signals.deferred = True
    state = host.thaw(wanted, args.allow) if wanted else None
    return {"targets": [target.name for target in state.targets] if state else [],
            "writes": host.fs.changes, "notes": host.notes}


def remove(args: argparse.Namespace, signals: Signals) -> int:
    service = find_service(args)
    answer = ask_service(service, "Remove", args, signals)[0] if service else \
        _remove(args, signals)
    names, kept = answer["targets"], answer["kept"]
    if args.json:
        print_data(answer)
    say_done(args, f"removed {', '.join(names) or 'every target'}: "
             f"{writes_text(answer['writes'])} in {seconds_text(answer['seconds'])}"
             f"{credit(answer)}" + (f"; what it was is kept in {kept}" if kept else ""),
             f"{PROG} show")
    return errors.SAME


def _remove(args: argparse.Namespace, signals: Signals) -> Dict[str, Any]:
    require_root("remove")
    host = open_host(args)
    names = chosen_targets(args)
    signals.deferred = True
    outcome, kept = host.remove(names, args.all, args.allow, signals.progress, signals.stop)
    signals.progress.clear()
    return {"targets": names, "kept": kept, **json_view.outcome_tree(outcome)}


# --- the destination -----------------------------------------------------------------------------
def _read_document(args: argparse.Namespace, host: Ours) -> Document:
    limit = host.settings.document_bytes
    return documents.loads(document_file.read(args.file, limit), limit)


def diff(args: argparse.Namespace, signals: Signals) -> int:
    host = open_host(args)
    document = _read_document(args, host)
    have, want, changes = host.compare(document, args.map)
    if args.json:
        print_data({"same": not changes,
                    "changes": [json_view.change_tree(change) for change in changes]})
        return errors.DIFFERENT if changes else errors.SAME
    rows = diff_columns.rows(have, want, changes)
    here = f"here: {os.uname().nodename}"
    there = f"document: {document.origin.host}" + (", frozen" if document.frozen else "")
    if rows:
        print_lines(diff_columns.columns(rows, here, there, Screen.of(sys.stdout)))
    say_done(args, diff_columns.alike(want, rows))
    return errors.DIFFERENT if changes else errors.SAME


def plan(args: argparse.Namespace, signals: Signals) -> int:
    require_root("plan")
    host = open_host(args)
    return _show_plan(args, host.ready(_read_document(args, host), args.map))


def _show_plan(args: argparse.Namespace, ready: Ready) -> int:
    against = errors.stopping(ready.findings, args.allow)
    if args.json:
        print_data(json_view.plan_tree(ready, args.allow))
    else:
        print_lines(plan_steps.plan(ready, Screen.of(sys.stdout), args.allow))
    if against:
        return _say_against(args, against, "this import")
    say_done(args, f"{plan_steps.about_plan(ready.plan)}; nothing was changed",
             _command(args, "import", repeat_option("--allow", args.allow)))
    return errors.SAME


def _command(args: argparse.Namespace, verb: str, more: Sequence[str] = ()) -> str:
    """The command that does ``verb`` with the document and the maps of this one."""
    return quoted([PROG, verb, args.file, *repeat_option("--map", args.map), *more])


def import_(args: argparse.Namespace, signals: Signals) -> int:
    service = find_service(args) if not args.dry_run else None
    if not service:
        require_root("import")
    host = open_host(args)
    document = _read_document(args, host)
    if service:
        answer, _ = ask_service(service, "Import", args, signals, documents.dumps(document))
    else:
        ready = host.ready(document, args.map)
        if args.dry_run:
            return _show_plan(args, ready)
        answer, document = _import(host, ready, args, signals), ready.document
    if args.json:
        print_data(answer)
    say_notes(args, answer["notes"])
    state, names = document.state, answer["targets"]
    what = phrases.listed(names) if names else phrases.names(state)
    if not answer["steps"]:
        say_done(args, f"this host serves {what} just so already; nothing was changed")
        return errors.SAME
    reserved = any(backstore.reservations for backstore in state.backstores)
    say_done(args, f"imported {what}: {writes_text(answer['writes'])} in "
             f"{seconds_text(answer['seconds'])}, read back and the same; lio-handover restores "
             f"it here at a boot, not targetcli{credit(answer)}",
             f"on {document.origin.host or 'the source'}: {PROG} remove {quoted(names)}"
             + (" --allow reserved" if reserved else ""))
    return errors.SAME


def _import(host: Ours, ready: Ready, args: argparse.Namespace, signals: Signals) \
        -> Dict[str, Any]:
    signals.deferred = True
    outcome = host.import_(ready, args.allow, signals.progress, signals.stop)
    signals.progress.clear()
    return {"targets": [target.name for target in ready.document.state.targets],
            "maps": json_view.maps_tree(ready), **json_view.outcome_tree(outcome)}


def verify(args: argparse.Namespace, signals: Signals) -> int:
    require_root("verify")
    host = open_host(args)
    document = _read_document(args, host)
    try:
        host.verify(document, args.map)
    except errors.VerifyFailed as error:
        raise errors.VerifyFailed(error.what, do=_command(args, "diff")) from None
    state = document.state
    if args.json:
        print_data({"same": True, "targets": [target.name for target in state.targets]})
    say_done(args, f"this host serves {phrases.names(state)} just as the document says: "
             f"{phrases.contents(state)}; nothing was changed")
    return errors.SAME


RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = {
    "show": show, "prepare": prepare, "freeze": freeze, "export": export, "thaw": thaw,
    "diff": diff, "plan": plan, "import": import_, "verify": verify, "remove": remove}
