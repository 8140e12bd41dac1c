"""The command line's verbs of the handover engine: source, destination, status, recover.

Papers travel as files, or through pipes; whoever carries them is trusted with nothing.
"""
from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from typing import Callable, List, Mapping, Sequence

from . import errors, files, remote, restoring
from .client import Service
from .cli import PROG, say
from .handover import Answer, Handover, Handovers, Peer, answer_from_json, answer_to_json
from .log import Log
from .papers import MAX_PAPERS, Message, from_json, to_json
from .sealed import MAX_BYTES
from .transitions import DESTINATION, OF_ONE_HOST, SOURCE, VERBS, Paper
from .verbs import Signals, Usage, as_root, print_data, the_core, the_service

#: Verbs whose papers carry documents, and these secrets.
_SECRET = ("prepare", "export", "abort")


def step(args: argparse.Namespace, signals: Signals) -> int:
    """``source VERB`` and ``destination VERB``."""
    role = args.verb
    verbs = [name for name, (whose, _, _) in VERBS.items()
             if whose == role and name not in OF_ONE_HOST]
    if args.step not in verbs:
        raise Usage(f"{args.step} is no verb of the {role}: " + ", ".join(verbs))
    as_root(f"{role} {args.step}")
    if args.output == files.STREAM and args.step in _SECRET:
        files.check_stream()
    handovers = _handovers(args)
    papers = _papers(args.papers)
    targets: Sequence[str] = ()
    if args.step == "prepare" and not (len(args.names) == 1 and "/" not in args.names[0]):
        targets, name = [one.strip("/") for one in args.names], ""
    else:
        name = _name(args.names, handovers, role, args.step, papers)
    signals.deferred = True
    service = the_service(args)
    if service:
        answer = _asked(service, args, args.step, name, targets, papers, signals)
    else:
        _given(args, handovers, name)
        answer = handovers.do(
            args.step, role, name, targets=targets, mode=getattr(args, "mode", ""), papers=papers,
            words=frozenset(args.words), by=_who(), allow=args.allow,
            maps=getattr(args, "map", ()), peer=args.peer,
            probe=getattr(args, "probe", False), progress=signals.progress,
            stop=signals.stop)
    signals.progress.clear()
    return _answers(args, [answer])


def _asked(service: Service, args: argparse.Namespace, verb: str, name: str,
           targets: Sequence[str], papers: Sequence[Message], signals: Signals) -> Answer:
    """What the service makes of these words."""
    _came, data = service.run_handover(
        verb, name, targets, getattr(args, "mode", ""), to_json(papers) if papers else b"",
        {"allow": args.allow, "maps": getattr(args, "map", []),
         "peer": getattr(args, "peer", ""), "probe": getattr(args, "probe", False),
         **{word: True for word in args.words}},
        stop=signals.stop)
    answer = answer_from_json(data)
    return replace(answer, notes=(*answer.notes, "done by lio-handoverd"))


def status(args: argparse.Namespace, signals: Signals) -> int:
    as_root("see handovers")
    found = _handovers(args).status(args.id)
    if args.whole or args.output == files.STREAM:
        return _answers(args, found)
    core = the_core(args)
    names = [name for one in found for name in core.local_names(one.handover)] if args.id else []
    restorers = core.restorers(names)
    if not args.json:
        _answers(args, found)
        for one in restorers:
            say(f"{PROG}: {one.target}: restored at a boot by {one.who}"
                + (f" ({one.where})" if one.where else "")
                + "".join(f"; {note}" for note in one.notes))
        return errors.SAME
    if args.output:
        files.write(args.output, to_json([paper for one in found for paper in one.papers]))
    print_data({"handovers": [_tree(one) for one in found], "targets": [
        {"target": one.target, "restored_by": one.who, "where": one.where,
         "notes": list(one.notes)} for one in restorers]})
    return errors.SAME


def recover(args: argparse.Namespace, signals: Signals) -> int:
    as_root("recover")
    handovers = _handovers(args)
    if args.boot:
        return _boot(args, handovers)
    signals.deferred = True
    _given(args, handovers, args.id)
    # The other host is asked with the ssh of who runs this, who may have an agent.
    if args.units and not args.id:
        core = the_core(args)
        with_units = core.to_restore()
        failed_units = restoring.start_units(core, with_units)
        if failed_units:
            say(f"{PROG}: {failed_units}")
        ids = [one.id for one in handovers.list()
               if failed_units or not set(core.local_names(one)) & set(with_units)]
        found = handovers.recover_each(ids)
    else:
        found = handovers.recover(args.id, frozenset(args.words), _who(), args.allow, args.peer)
    signals.progress.clear()
    _answers(args, found)
    failed = [one for one in found if one.failed]
    if failed:
        return failed[0].failed
    return errors.Undecided.code if any(one.stays for one in found) else errors.SAME


def move(args: argparse.Namespace, signals: Signals) -> int:
    from .move import Move
    targets = [one.strip("/") for one in args.targets]
    if bool(targets) == bool(args.resume):
        raise Usage("name targets, or the handover to --resume")
    signals.deferred = True
    made = Move(remote.Side(), remote.Side(args.to), signals.progress.say, signals.stop)
    if args.resume:
        made.id = args.resume
        made.resume(args.allow)
    else:
        made.run(targets, args.mode, args.here, args.map, args.allow, args.probe)
    signals.progress.clear()
    if args.json:
        print_data({"handover": made.id, "targets": list(made.targets), "from": made.source.name,
                    "to": made.destination.name, "contents": made.contents,
                    "seconds": {name: round(took, 6) for name, took in made.seconds.items()},
                    "window": round(made.window, 6), "notes": made.notes})
        return errors.SAME
    for note in made.notes:
        say(f"{PROG}: {note}")
    took = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in made.seconds.items())
    say(f"{PROG}: moved {', '.join(made.targets)} to {made.destination.name}"
        + (f": {made.contents}" if made.contents else "")
        + f"; {sum(made.seconds.values()):.2f} s ({took})"
        + (f"; nobody served for {made.window:.2f} s" if made.window else ""))
    return errors.SAME


def _boot(args: argparse.Namespace, handovers: Handovers) -> int:
    notes = list(handovers.before_restore())
    core = the_core(args)
    failed = restoring.start_units(core, core.to_restore())
    notes += [failed] if failed else []
    if args.json:
        print_data({"notes": notes})
    for note in notes:
        say(f"{PROG}: {note}")
    return errors.SAME


# ---- the words of a command ---------------------------------------------------------------------
def _handovers(args: argparse.Namespace) -> Handovers:
    def late(handover: Handover, verb: str) -> None:
        say(f"{PROG}: {verb} of {handover.id} takes longer than it should; it goes on")

    ask = getattr(args, "ask", "")
    return Handovers(the_core(args), _peer(ask) if ask else remote.ask, late)


def _who() -> str:
    """Who gives a word, for the journal."""
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.getuid()}"


def _given(args: argparse.Namespace, handovers: Handovers, name: str) -> None:
    """Say in the system's log whose word is believed."""
    if not args.words:
        return
    import syslog
    syslog.openlog(PROG)
    try:
        targets = handovers.get(name).targets if name else ()
    except errors.HandoverError:
        targets = ()
    Log(program=PROG, otherwise=syslog.syslog).given(args.words, _who(), name, " ".join(targets))


def _name(names: Sequence[str], handovers: Handovers, role: str, verb: str,
          papers: Sequence[Message]) -> str:
    """The handover that is meant: named, or the only one under way."""
    if len(names) > 1:
        raise Usage("name one handover")
    if names:
        return names[0]
    if verb in ("stage", "abort") and papers:
        return papers[0].handover
    under_way = [one.id for one in handovers.list() if one.role == role and not one.over]
    if len(under_way) != 1:
        raise Usage(f"{len(under_way)} handovers are under way here: name one, as `{PROG} status` "
                    "has it" if verb != "prepare" else "name targets")
    return under_way[0]


def _papers(paths: Sequence[str]) -> List[Message]:
    found: List[Message] = []
    for path in paths:
        found += from_json(files.read(path, 2 * MAX_BYTES))
    if len(found) > MAX_PAPERS:
        raise Usage(f"{len(found)} papers: a handover has fewer")
    return found


# ---- asking the other host ----------------------------------------------------------------------
def _peer(command: str) -> Peer:
    """Asks by running lio-handover there: ``ssh b lio-handover``."""
    words = shlex.split(command)

    def ask(handover: Handover, verb: str) -> Answer:
        import subprocess
        if verb == "status":
            more, papers = ["status", handover.id, "--whole"], b""
        else:
            more = [DESTINATION, verb, handover.id, "--papers", "-", "--whole"]
            # One that never heard of it has to give up the epoch, so it is told.
            papers = to_json([Message(Paper.OFFER, handover.id, handover.epoch,
                                      targets=handover.targets, mode=handover.mode)])
        try:
            done = subprocess.run([*words, *more], input=papers, capture_output=True,
                                  timeout=remote.ASK_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            why = error.strerror if isinstance(error, OSError) else "no answer in time"
            raise errors.PeerUnreachable(f"{words[0]}: {why}") from None
        if done.returncode == errors.NoSuchHandover.code:
            raise errors.NoSuchHandover(f"the other host has no handover {handover.id}")
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            what = f"{words[0]} ended with {done.returncode}" + (f": {said[-1]}" if said else "")
            # ssh ends with 255 where it can't connect, otherwise as the command over there.
            raise errors.PeerUnreachable(what) if done.returncode == 255 else remote.alive(what)
        return answer_from_json(done.stdout)
    return ask


# ---- what is answered ---------------------------------------------------------------------------
def _answers(args: argparse.Namespace, found: Sequence[Answer]) -> int:
    papers = [paper for one in found for paper in one.papers]
    if args.output:
        files.write(args.output, to_json(papers))
    if args.whole:
        if len(found) != 1:
            raise Usage("name one handover with --whole")
        files.write(files.STREAM, answer_to_json(found[0]))
    elif args.json and args.output != files.STREAM:
        print_data([_tree(one) for one in found])
    if not args.json:
        for one in found:
            for line in _lines(one):
                say(line)
        if not found:
            say(f"{PROG}: there is no handover on this host")
    return errors.SAME


def _tree(answer: Answer) -> Mapping[str, object]:
    from dataclasses import asdict
    return {**asdict(answer.handover), "targets": list(answer.handover.targets),
            "papers": [one.paper.name.lower() for one in answer.papers],
            "notes": list(answer.notes), "next": answer.next, "stays": answer.stays}


def _lines(answer: Answer) -> List[str]:
    one = answer.handover
    state = one.state or ("in no state that is known" if answer.failed else "begun")
    first = (f"{PROG}: {one.id}: {one.role} of {', '.join(one.targets)}: {state} "
             f"(epoch {one.epoch}, {one.mode})")
    if answer.papers:
        first += "; says " + ", ".join(paper.paper.name.lower() for paper in answer.papers)
    return [first, *(f"{PROG}: {note}" for note in answer.notes),
            *([f"{PROG}: next: {answer.next}"] if answer.next else [])]


RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = {
    SOURCE: step, DESTINATION: step, "status": status, "recover": recover, "move": move}
