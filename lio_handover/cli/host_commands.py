"""The commands of a host's verbs: they have this host or its service run the verb, and print the
result as text or JSON.

verb_table.py has the verbs and their options, local/verbs.py their work.
"""
from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Callable, Mapping, Optional, Sequence

from .. import errors
from ..client.connection import Service
from ..document import document as documents
from ..document.document import Document
from ..local import results, verbs
from ..local.ours import Ours
from ..local.results import Result
from ..system import document_file
from ..verb_table import A_DOCUMENT, ANY_TARGETS, HOST_VERBS, READ, TARGETS, WRITE, Verb
from ..views import changed, diff_columns, json_view, phrases, plan_steps, tree
from ..views.terminal import Terminal
from .output import (BY_SERVICE, PROG, credit, print_data, print_lines, quoted, repeat_option, say,
                     say_done, say_notes, seconds_text, writes_text)
from .session import (Signals, Usage, ask_service, chosen_targets, find_service, open_host,
                      require_root, target_names)

#: Verbs that any user may try: the kernel decides whether the user may look.
_FOR_ANYBODY = ("show", "diff")
#: Verbs that cannot be ended in the middle, and change nothing that could be rolled back.
_UNINTERRUPTED = ("prepare", "export")


# --- from arguments to a result ------------------------------------------------------------------
def run(args: argparse.Namespace, signals: Signals) -> int:
    """Run the verb that ``args.verb`` names, and return the exit code.  Raises its error."""
    verb = args.verb if not getattr(args, "dry_run", False) else "plan"
    row = HOST_VERBS[verb]
    if verb == "show" and (args.as_file or args.uses):
        return _show_otherwise(args)
    if args.verb == "import" and args.from_saveconfig:
        return _import_saved(args, signals)
    service = find_service(args) if row.action == WRITE else None
    if not service and verb not in _FOR_ANYBODY:
        require_root(args.verb)
    if "output" in args:
        _check_output(args.output)
    try:
        result = _ask_service(service, row, args, signals) if service else \
            _carry_out(row, args, signals)
    except errors.VerifyFailed as error:
        if verb != "verify":
            raise
        raise errors.VerifyFailed(error.what, do=_command(args, "diff")) from None
    except errors.HandoverError as error:
        if verb in ("adopt", "giveback"):  # the error's line has only the first finding
            say_notes(args, [f"{finding.subject}: {finding.sentence}"
                             for finding in error.findings])
        raise
    signals.progress.clear()
    if isinstance(result, results.Exported):
        _write_document(args.output, result)
    if args.json and getattr(args, "output", "") != document_file.STREAM:
        print_data({**json_view.tree(result, args.allow if "allow" in args else ()),
                    **({"file": args.output} if "output" in args else {})})
    return _TEXTS.get(type(result), _done)(args, result)


def _carry_out(row: Verb, args: argparse.Namespace, signals: Signals) -> Result:
    """Run a verb in this process."""
    def begin() -> None:
        signals.deferred = True

    host = open_host(args)
    call = verbs.Call(
        _targets(row, args), getattr(args, "all", False), getattr(args, "allow", ()),
        getattr(args, "map", ()), getattr(args, "probe", False),
        _read_document(args, host) if row.takes == A_DOCUMENT else None,
        signals.progress, signals.stop, begin)
    # The verb may have made a scratch nexus, which it has to remove.
    with signals.later() if row.name in _UNINTERRUPTED else nullcontext():
        return verbs.VERBS[row.name](host, call)


def _targets(row: Verb, args: argparse.Namespace) -> Sequence[str]:
    if row.takes == TARGETS:
        return chosen_targets(args)
    return target_names(args) if row.takes == ANY_TARGETS else ()


def _ask_service(service: Service, row: Verb, args: argparse.Namespace, signals: Signals) -> Result:
    """Have the service run a verb."""
    document: Optional[Document] = None
    if row.takes == A_DOCUMENT:
        document = _read_document(args, open_host(args))
    answer, data = ask_service(service, row.name.capitalize(), args, signals,
                               documents.dumps(document) if document else None)
    result = results.from_answer(row.name, {**answer, **BY_SERVICE})
    if isinstance(result, results.Exported):
        return replace(result, data=data,
                       digest=result.digest or documents.digest_told(data))
    return replace(result, document=document) if isinstance(result, results.Imported) and document \
        else result


def _read_document(args: argparse.Namespace, host: Ours) -> Document:
    limit = host.settings.document_bytes
    return documents.loads(document_file.read(args.file, limit), limit)


def _check_output(place: str) -> None:
    """Raises BadFile where a document cannot be written."""
    if place == document_file.STREAM:
        document_file.check_stream()
    else:
        document_file.check_place(place)


def _write_document(place: str, result: results.Exported) -> None:
    try:
        document_file.write(place, result.data)
    except errors.HandoverError as error:
        if result.recorded:
            error.changed = f"{', '.join(result.targets)}: recorded as exported, though nobody " \
                "has the document; export again hands out the same"
        raise


def _command(args: argparse.Namespace, verb: str, more: Sequence[str] = ()) -> str:
    """A command with another verb, and with this command's document and maps."""
    return quoted([PROG, verb, args.file, *repeat_option("--map", args.map), *more])


def _import_saved(args: argparse.Namespace, signals: Signals) -> int:
    """Serve what a save file of targetcli's says, and keep it."""
    from ..manage import settable
    from ..savefile import read_back
    if args.map:
        raise Usage("--map is for documents, not for a save file")
    if not args.dry_run:
        require_root(args.verb)

    def begin() -> None:
        signals.deferred = True

    back = read_back.of_text(read_back.read(args.file), args.file, settable.knows)
    if back.others:
        raise errors.CannotRepresent(f"{', '.join(back.others)}: lio-handover knows no such fabric",
                                     do="targetcli restoreconfig, or take it out of the file")
    result = verbs.VERBS["apply"](open_host(args), verbs.Call(
        allow=args.allow, progress=signals.progress, stop=signals.stop, begin=begin,
        tree=back.tree, secret=back.secret, dry_run=args.dry_run))
    signals.progress.clear()
    assert isinstance(result, results.Managed)
    if args.json:
        print_data(json_view.tree(result, args.allow))
    else:
        print_lines(changed.lines(result.changes, Terminal.of(sys.stdout)))
    say_notes(args, [*back.notes, *result.notes])
    against = errors.stopping(result.findings, args.allow) if result.planned else ()
    if against:
        return say_against(args, against, "this import")
    nothing = result.planned or result.same
    say_done(args, errors.NOTHING_CHANGED if nothing else f"imported {args.file}: "
             f"{writes_text(result.writes)} in {seconds_text(result.seconds)}, read back and the "
             "same")
    return errors.SAME


# --- texts: both hosts ---------------------------------------------------------------------------
def _done(args: argparse.Namespace, result: Result) -> int:
    """Print the text for a result that has no text of its own."""
    say_notes(args, result.notes)
    say_done(args, f"{args.verb}: {', '.join(result.targets) or 'no target'}{credit(result)}; "
             + (errors.NOTHING_CHANGED if HOST_VERBS[args.verb].action == READ else "done"))
    return errors.SAME


def _show(args: argparse.Namespace, result: results.Shown) -> int:
    view = result.view
    if not args.json:
        print_lines(tree.tree(view, Terminal.of(sys.stdout)))
    if view.unclear:
        say(f"reservations are not shown: {view.unclear}")
    for note in view.notes:
        say(note)
    return errors.SAME


def _show_otherwise(args: argparse.Namespace) -> int:
    """Print the file that apply takes, or who serves a path."""
    from ..host import uses
    from ..local import managing
    host = open_host(args)
    if args.as_file and args.uses:
        raise Usage("either --as-file or --uses")
    if args.as_file:
        sys.stdout.write(managing.as_file(host, target_names(args)))
        return errors.SAME
    users = uses.of(host, args.uses)
    if args.json:
        print_data({"path": args.uses, "backstores": [
            {"backstore": use.backstore, "luns": list(use.luns)} for use in users]})
    for use in users if not args.json else ():
        print(errors.one_line(f"{use.backstore}: {', '.join(use.luns) or 'no LUN exports it'}"))
    if not users:
        say_done(args, f"no backstore of this host is on {args.uses}; nothing was changed")
    return errors.SAME


def say_against(args: argparse.Namespace, against: Sequence[errors.Finding], what: str) -> int:
    """Print the number of findings, which are printed already; the exit code is the first one's."""
    if not args.json:
        kinds = ", ".join(sorted({finding.error.__name__ for finding in against}))
        say(f"{phrases.count(len(against), 'finding')} against {what} ({kinds}); "
            f"{errors.NOTHING_CHANGED}; next: see each finding")
    return against[0].error.code


# --- the source ----------------------------------------------------------------------------------
def _prepared(args: argparse.Namespace, result: results.Prepared) -> int:
    document, state = result.document, result.document.state
    if not args.json:
        print(errors.one_line(f"{phrases.names(state, 99)}: {phrases.contents(state)}"))
        print_lines(plan_steps.findings(result.findings, Terminal.of(sys.stdout), args.allow))
    say_notes(args, result.notes)
    against = errors.stopping(result.findings, args.allow)
    if against:
        return say_against(args, against, "a handover")
    targets = quoted(result.targets)
    do = f"{PROG} {'export' if document.frozen else 'freeze'} {targets}"
    if not document.frozen and any(target.startswith("vhost/") for target in result.targets):
        do = f"{PROG} move {targets} --to HOST --guest SOCKET --guest-there SOCKET; or, where no " \
             f"guest is attached, {do}"
    say_done(args, "nothing speaks against a handover; nothing was changed", do)
    return errors.SAME


def _frozen(args: argparse.Namespace, result: results.Frozen) -> int:
    say_done(args, f"froze {', '.join(result.targets)}: gates shut, no command executing, data on "
             f"the storage; {writes_text(result.writes)} in {result.seconds['freeze']:.2f} s"
             f"{credit(result)}", result.next)
    return errors.SAME


def _exported(args: argparse.Namespace, result: results.Exported) -> int:
    say_notes(args, result.notes)
    how = "frozen" if result.frozen else "NOT frozen: import will refuse it"
    say_done(args, f"exported {', '.join(result.targets)} ({how}), {result.bytes} bytes, "
             f"digest {result.digest[:12]}…{credit(result)}; " + (
                 "recorded: no boot brings it back here" if result.recorded else
                 errors.NOTHING_CHANGED),
             f"{PROG} import FILE on the other host" if result.frozen else
             f"{PROG} freeze {quoted(result.targets)}, and export again")
    return errors.SAME


def _thawed(args: argparse.Namespace, result: results.Thawed) -> int:
    say_notes(args, result.notes)
    if result.targets:
        say_done(args, f"thawed {', '.join(result.targets)}: initiators are let in again; "
                 f"{writes_text(result.writes)}{credit(result)}",
                 f"{PROG} show {quoted(result.targets)}")
    else:
        say_done(args, "nothing is frozen; nothing was changed")
    return errors.SAME


def _removed(args: argparse.Namespace, result: results.Removed) -> int:
    say_done(args, f"removed {', '.join(result.targets) or 'every target'}: "
             f"{writes_text(result.writes)} in {seconds_text(result.seconds)}"
             f"{credit(result)}"
             + (f"; what it was is kept in {result.kept}" if result.kept else ""), f"{PROG} show")
    return errors.SAME


# --- the destination -----------------------------------------------------------------------------
def _compared(args: argparse.Namespace, result: results.Compared) -> int:
    if not args.json:
        rows = diff_columns.rows(result.have, result.want, result.changes)
        here = f"here: {os.uname().nodename}"
        there = f"document: {result.document.origin.host}" \
            + (", frozen" if result.document.frozen else "")
        if rows:
            print_lines(diff_columns.columns(rows, here, there, Terminal.of(sys.stdout)))
        say_done(args, diff_columns.difference_summary(result.want, rows))
    return errors.DIFFERENT if result.changes else errors.SAME


def _planned(args: argparse.Namespace, result: results.Planned) -> int:
    ready = result.ready
    assert ready is not None
    if not args.json:
        print_lines(plan_steps.plan(ready, Terminal.of(sys.stdout), args.allow))
    against = errors.stopping(result.findings, args.allow)
    if against:
        return say_against(args, against, "this import")
    say_done(args, f"{plan_steps.about_plan(ready.plan)}; nothing was changed",
             _command(args, "import", repeat_option("--allow", args.allow)))
    return errors.SAME


def _imported(args: argparse.Namespace, result: results.Imported) -> int:
    say_notes(args, result.notes)
    state, origin = result.document.state, result.document.origin
    what = phrases.listed(result.targets) if result.targets else phrases.names(state)
    if not result.steps:
        say_done(args, f"this host serves {what} just so already; nothing was changed")
        return errors.SAME
    reserved = any(backstore.reservations for backstore in state.backstores)
    say_done(args, f"imported {what}: {writes_text(result.writes)} in "
             f"{seconds_text(result.seconds)}, read back and the same; lio-handover restores "
             f"it here at a boot, not targetcli{credit(result)}",
             f"on {origin.host or 'the source'}: {PROG} remove {quoted(result.targets)}"
             + (" --allow reserved" if reserved else ""))
    return errors.SAME


def _verified(args: argparse.Namespace, result: results.Verified) -> int:
    say_done(args, f"this host serves {phrases.names(result.state)} just as the document says: "
             f"{phrases.contents(result.state)}; nothing was changed")
    return errors.SAME


# --- who restores a target -----------------------------------------------------------------------
def _adopted(args: argparse.Namespace, result: results.Adopted) -> int:
    return _restorer(args, result, "adopted {}: lio-handover restores it at a boot, whole, and "
                     "targetcli does not; it was served all the time")


def _given_back(args: argparse.Namespace, result: results.GivenBack) -> int:
    return _restorer(args, result, "gave {} back: targetcli restores it at a boot")


def _restorer(args: argparse.Namespace, result: Result, text: str) -> int:
    say_notes(args, result.notes)
    say_done(args, text.format(", ".join(result.targets)) + credit(result), f"{PROG} status")
    return errors.SAME


#: Type of result → the function that prints its text, where --json does not.
_TEXTS: Mapping[type, Callable[[argparse.Namespace, Any], int]] = {
    results.Shown: _show, results.Prepared: _prepared, results.Frozen: _frozen,
    results.Exported: _exported, results.Thawed: _thawed, results.Removed: _removed,
    results.Compared: _compared, results.Planned: _planned, results.Imported: _imported,
    results.Verified: _verified, results.Adopted: _adopted, results.GivenBack: _given_back}

RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = dict.fromkeys(
    (name for name, verb in HOST_VERBS.items() if verb.command == "host_commands"), run)
