"""Commands of the handover engine: source, destination, status, recover, move.

Messages travel as files, or through pipes; this host does not trust their carrier.
"""
from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from typing import Callable, List, Mapping, Sequence

from .. import errors
from ..client import asking, ssh
from ..client.connection import Service
from ..dbus_names import API_VERSION
from ..document.envelope import MAX_BYTES
from ..handover.engine import Handover, HandoverEngine, Peer, Reply, reply_from_json, reply_to_json
from ..local import restoring
from ..protocol.authentication import Authentication
from ..protocol.messages import MAX_MESSAGES, Message, from_json, to_json
from ..protocol.table import DESTINATION, SOURCE, Mode
from ..settings import Settings
from ..system import document_file
from ..system.journald import Log
from ..verb_table import HANDOVER_VERBS, MESSAGES, VERBS, Verb
from ..views import json_view
from .output import PROG, print_data, say, seconds_text
from .session import Signals, Usage, find_service, load_settings, open_host, require_root

#: Verbs whose messages carry documents, which have secrets.
_SECRET = ("prepare", "export", "abort")


# --- one step ------------------------------------------------------------------------------------
def step(args: argparse.Namespace, signals: Signals) -> int:
    """Run ``source VERB`` or ``destination VERB``, and return the exit code."""
    role, verb = args.verb, args.step
    verbs = [name for name, row in HANDOVER_VERBS.items() if row.role == role and row.bus]
    if verb not in verbs:
        raise Usage(f"{verb} is no verb of the {role}: " + ", ".join(verbs))
    named = verb == "prepare" and not (len(args.names) == 1 and "/" not in args.names[0])
    _refuse_untaken(args, HANDOVER_VERBS[verb], named or bool(args.messages))
    require_root(f"{role} {verb}")
    if args.output == document_file.STREAM and verb in _SECRET:
        document_file.check_stream()
    handovers = _open_handovers(args)
    messages = _read_messages(args.messages)
    targets: Sequence[str] = ()
    if named:
        targets, handover_id = [word.strip("/") for word in args.names], ""
    else:
        handover_id = _handover_id(args.names, handovers, role, verb, messages)
    signals.deferred = True
    service = find_service(args)
    if service:
        answer = _ask_service(service, args, handover_id, targets, messages, signals)
    else:
        _log_assertions(args, handovers, handover_id)
        answer = handovers.do(
            verb, role, handover_id, targets=targets,
            mode=getattr(args, "mode", "") or Mode.ISCSI.value, messages=messages,
            assertions=frozenset(args.assertions), asserted_by=_user(), allow=args.allow,
            maps=getattr(args, "map", ()), peer=args.peer, probe=getattr(args, "probe", False),
            progress=signals.progress, stop=signals.stop)
    signals.progress.clear()
    return _print_answers(args, [answer])


def _refuse_untaken(args: argparse.Namespace, row: Verb, begins: bool) -> None:
    """Refuse the options of another step, which this one would ignore.  ``begins``: the step can
    begin a handover, so it takes what only a beginning has.  Raises Usage."""
    taken = {option.name for option in row.of_call(begins).values()}
    if row.takes == MESSAGES:
        taken.add("messages")
    for option in VERBS[row.role].typed:
        flag = option.flags[-1]
        if option.name in taken or not flag.startswith("-") or not (
                option.bus or option.name == "messages"):
            continue  # an argument, or where the answer goes
        given = option.name in args.assertions if option.asserts else \
            getattr(args, option.name) not in ([], False, option.default)
        if given:
            later = option.bus in row.on_bus
            raise Usage(f"{row.role} {row.name} takes no {flag}"
                        + (" for a handover that is there already" if later else ""))


def _ask_service(service: Service, args: argparse.Namespace, handover_id: str,
                 targets: Sequence[str], messages: Sequence[Message], signals: Signals) -> Reply:
    """Have the service run the step."""
    _, data = service.run_handover(
        args.step, handover_id, targets, getattr(args, "mode", ""),
        to_json(messages) if messages else b"",
        {"allow": args.allow, "maps": getattr(args, "map", []),
         "peer": getattr(args, "peer", ""), "probe": getattr(args, "probe", False),
         **{name: True for name in args.assertions}},
        stop=signals.stop)
    answer = reply_from_json(data)
    return replace(answer, notes=(*answer.notes, "done by lio-handoverd"))


def _handover_id(names: Sequence[str], handovers: HandoverEngine, role: str, verb: str,
                 messages: Sequence[Message]) -> str:
    """The named handover's id, or that of the only handover under way.  Raises Usage."""
    if len(names) > 1:
        raise Usage("name one handover")
    if names:
        return names[0]
    if verb in ("stage", "abort") and messages:
        return messages[0].handover
    ids = [handover.id for handover in handovers.list()
           if handover.role == role and not handover.over]
    if len(ids) != 1:
        raise Usage(f"{len(ids)} handovers are under way here: name one, as `{PROG} status` has it"
                    if verb != "prepare" else "name targets")
    return ids[0]


def _read_messages(paths: Sequence[str]) -> List[Message]:
    messages: List[Message] = []
    for path in paths:
        messages += from_json(document_file.read(path, 2 * MAX_BYTES))
    if len(messages) > MAX_MESSAGES:
        raise Usage(f"{len(messages)} messages: a handover has fewer")
    return messages


# --- all handovers -------------------------------------------------------------------------------
def _check_health(args: argparse.Namespace) -> int:
    """Print one line for a monitoring system; the exit code is as monitoring plugins have it."""
    from ..local import health
    try:
        require_root("check")
        told = health.check(open_host(args))
    except errors.HandoverError as error:
        told = health.Health(health.UNKNOWN, (health.Fault(health.UNKNOWN, error.what),))
    if args.json:
        print_data({"level": health.WORDS[told.level], "code": told.level, **dict(told.counts),
                    "faults": [{"level": health.WORDS[fault.level], "said": fault.said}
                               for fault in told.faults]})
    else:
        print(told.line)
    return told.level


def status(args: argparse.Namespace, signals: Signals) -> int:
    if args.check:
        return _check_health(args)
    require_root("see handovers")
    answers = _open_handovers(args).status(args.id)
    if args.whole or args.output == document_file.STREAM:
        return _print_answers(args, answers)
    host = open_host(args)
    names = [name for answer in answers for name in host.local_names(answer.handover)] \
        if args.id else []
    restorers = host.restorers(names)
    if not args.json:
        _print_answers(args, answers)
        for restorer in restorers:
            say(f"{restorer.target}: restored at a boot by {restorer.who}"
                + (f" ({restorer.where})" if restorer.where else "")
                + "".join(f"; {note}" for note in restorer.notes))
        return errors.SAME
    if args.output:
        document_file.write(args.output, to_json(
            [message for answer in answers for message in answer.messages]))
    print_data({"version": API_VERSION, "handovers": [
        _answer_tree(answer) for answer in answers], "targets": [
        {"target": restorer.target, "restored_by": restorer.who, "where": restorer.where,
         "notes": list(restorer.notes)} for restorer in restorers]})
    return errors.SAME


def recover(args: argparse.Namespace, signals: Signals) -> int:
    require_root("recover")
    if args.id and (args.boot or args.units):
        raise Usage("--boot and --units are of every handover: name none")
    handovers = _open_handovers(args)
    if args.boot:
        return _recover_at_boot(args, handovers)
    signals.deferred = True
    _log_assertions(args, handovers, args.id)
    # The other host is asked by the caller's ssh, not by the service's: the caller may have an
    # agent.
    if args.units and not args.id:
        host = open_host(args)
        with_units = host.to_restore()
        failure = restoring.start_units(host, with_units)
        if failure:
            say(failure)
        ids = [handover.id for handover in handovers.list()
               if failure or not set(host.local_names(handover)) & set(with_units)]
        answers = handovers.recover_each(ids)
    else:
        answers = handovers.recover(args.id, frozenset(args.assertions),
                                    _user(), args.allow, args.peer)
    signals.progress.clear()
    _print_answers(args, answers)
    codes = [answer.error_code for answer in answers if answer.error_code]
    if codes:
        return codes[0]
    return errors.Undecided.code if any(answer.undecided for answer in answers) else errors.SAME


def _recover_at_boot(args: argparse.Namespace, handovers: HandoverEngine) -> int:
    notes = list(handovers.before_targetcli_restore())
    host = open_host(args)
    failure = restoring.start_units(host, host.to_restore())
    notes += [failure] if failure else []
    if args.json:
        print_data({"notes": notes})
    for note in notes:
        say(note)
    return errors.SAME


def move(args: argparse.Namespace, signals: Signals) -> int:
    from ..drivers import moves
    order = moves.Order(
        args.to, [word.strip("/") for word in args.targets], args.resume, args.here, args.mode,
        args.guest, args.guest_there, args.guest_uri, args.deadline, args.map, args.allow,
        args.probe)
    wrong = order.wrong()
    if wrong:
        raise Usage(wrong)
    signals.deferred = True
    try:
        moved = moves.carry_out(order, ssh.RemoteService(),
                                lambda progress: signals.progress.say(progress.text), signals.stop)
    except errors.HandoverError as error:
        signals.progress.clear()
        for finding in error.findings if len(error.findings) > 1 and not args.json else ():
            say(f"{finding.subject}: {finding.sentence}" + (finding.do and f"; {finding.do}"))
        raise
    signals.progress.clear()
    if args.json:
        print_data(json_view.tree(moved))
        return errors.SAME
    for note in moved.notes:
        say(note)
    if order.mode == Mode.VHOST_INBAND.value and not order.resume:
        say(f"{', '.join(moved.targets)}: {moved.destination} is ready; "
            f"{seconds_text(moved.seconds)}")
        say("next: migrate the guest, with lio-handover-vmstate on both hosts; or take it back: "
            f"lio-handover source thaw {moved.handover}, and on {moved.destination} lio-handover "
            f"recover {moved.handover}")
        return errors.SAME
    say(f"moved {', '.join(moved.targets)} to {moved.destination}"
        + (f": {moved.contents}" if moved.contents else "") + f"; {seconds_text(moved.seconds)}"
        + (f"; {moved.cost}" if moved.cost else ""))
    return errors.SAME


# --- the handovers of this host, and the caller --------------------------------------------------
def _open_handovers(args: argparse.Namespace) -> HandoverEngine:
    def on_late(handover: Handover, verb: str) -> None:
        say(f"{verb} of {handover.id} takes longer than it should; it goes on")

    host, command = open_host(args), getattr(args, "ask", "")
    return HandoverEngine(host, _peer_by_command(command, host.settings)
                          if command else asking.asker(host.settings), on_late)


def _user() -> str:
    """The name of the caller, for the journal."""
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.getuid()}"


def _log_assertions(args: argparse.Namespace, handovers: HandoverEngine, handover_id: str) -> None:
    """Log the caller's assertions to syslog."""
    if not args.assertions:
        return
    import syslog
    syslog.openlog(PROG)
    try:
        targets = handovers.get(handover_id).targets if handover_id else ()
    except errors.HandoverError:
        targets = ()
    Log(program=PROG, otherwise=syslog.syslog).given(args.assertions, _user(), handover_id,
                                                     " ".join(targets))


def _peer_by_command(command: str, settings: Settings) -> Peer:
    """A peer that is asked by running lio-handover there: ``ssh b lio-handover``."""
    words = shlex.split(command)

    def ask(handover: Handover, verb: str) -> Reply:
        import subprocess
        question = asking.Question.of(handover, verb, settings)
        if verb == "status":
            more = ["status", handover.id, "--whole"]
        else:
            more = [DESTINATION, verb, handover.id, "--messages", "-", "--whole"]
        if question.text:
            more += ["--question", question.text]
        try:
            code, data, said = asking.answered([*words, *more], question, stderr=subprocess.PIPE)
        except OSError as error:
            raise errors.PeerUnreachable(f"{words[0]}: {error.strerror}") from None
        if code is None:
            raise errors.PeerUnreachable(f"{words[0]}: no answer in time")
        if code == errors.NoSuchHandover.code:
            raise errors.NoSuchHandover(f"the other host has no handover {handover.id}")
        if code:
            what = f"{words[0]} ended with {code}" + (
                f", and says: {errors.shown(said)}" if said else "")
            # ssh ends with 255 where it cannot connect, otherwise with the remote command's code.
            raise errors.PeerUnreachable(what) if code == 255 else ssh.host_answers(what)
        return question.reply(data, words[0])
    return ask


# --- answers -------------------------------------------------------------------------------------
def _print_answers(args: argparse.Namespace, answers: Sequence[Reply]) -> int:
    messages = [message for answer in answers for message in answer.messages]
    if args.output:
        document_file.write(args.output, to_json(messages))
    if args.whole:
        if len(answers) != 1:
            raise Usage("name one handover with --whole")
        document_file.write(document_file.STREAM, reply_to_json(
            answers[0], Authentication.to_say(load_settings(args.config)),
            getattr(args, "question", "")))
    elif args.json and args.output != document_file.STREAM:
        print_data([_answer_tree(answer) for answer in answers])
    if not args.json:
        for answer in answers:
            _say_answer(answer)
        if not answers:
            say("there is no handover on this host")
    return errors.SAME


def _answer_tree(answer: Reply) -> Mapping[str, object]:
    from dataclasses import asdict
    return {**asdict(answer.handover), "targets": list(answer.handover.targets),
            "messages": [message.type.name.lower() for message in answer.messages],
            "notes": list(answer.notes), "next": answer.next, "stays": answer.undecided}


def _say_answer(answer: Reply) -> None:
    handover = answer.handover
    state = handover.state or ("in no state that is known" if answer.error_code else "begun")
    says = ", ".join(message.type.name.lower() for message in answer.messages)
    say(f"{handover.id}: {handover.role} of {', '.join(handover.targets)}: {state} "
        f"(epoch {handover.epoch}, {handover.mode})" + (f"; says {says}" if says else ""))
    for note in answer.notes:
        say(note)
    if answer.next:
        say(f"next: {answer.next}")


RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = {
    SOURCE: step, DESTINATION: step, "status": status, "recover": recover, "move": move}
