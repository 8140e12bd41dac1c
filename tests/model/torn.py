"""The model with APTPL files that a power cut may tear: lio_handover.protocol.pr_survival decides
at a LOAD.

The kernel writes such a file at each change; the copy follows it at some time later, or not at all.
Power that is lost in between may leave the file whole, or torn.  Left out: a host whose save file
has the target, as targetcli's restore brings it back before anybody is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional, Tuple

from lio_handover.protocol import pr_survival
from lio_handover.protocol.pr_survival import FOLLOWED, Copy, File, Keeps, Kernel, Survival, Takes
from lio_handover.protocol.table import Action, Step, Transition
from tests.model.files import Files
from tests.model.world import (BUILT, FORCE, NO_VERSION, NOTHING, ON, OPEN, PLAIN, ROLE, SHUT, D,
                               Event, Host, Model, S, World, put)

#: The version of registrations that are none.
NONE_LEFT = -2
BACK = "a registration that was preempted comes back"


def _set(pair: Tuple[int, int], me: str, value: int) -> Tuple[int, int]:
    return (value, pair[1]) if me == S else (pair[0], value)


@dataclass
class TornModel(Model):
    survival: Tuple[pr_survival.Rule, ...] = pr_survival.TABLE

    def initial(self) -> World:
        return super().initial()._replace(files=Files((0, NO_VERSION)))

    @staticmethod
    def _mine(w: World, me: str) -> Tuple[int, bool]:
        """(version of the kept copy, whether the file is torn)."""
        at = 0 if me == S else 1
        return w.files.copy[at], w.files.torn[at]

    @staticmethod
    def _with(w: World, me: str, copy: int, torn: bool) -> World:
        files = w.files._replace(copy=_set(w.files.copy, me, copy), torn=(
            (torn, w.files.torn[1]) if me == S else (w.files.torn[0], torn)))
        return w if files == w.files else w._replace(files=files)

    def _survives(self, w: World, me: str) -> Optional[int]:
        """The version to load; None: a human is asked."""
        host: Host = getattr(w, me)
        copy, torn = self._mine(w, me)
        row = next(one for one in self.survival if one.fits(
            Kernel.REBOOTED, Keeps.ON, File.BROKEN if torn else File.WHOLE,
            Copy.CURRENT if copy == host.disk and not torn else Copy.OLDER))
        if row.answer is not Survival.OPEN:
            return None
        return {Takes.FILE: host.disk, Takes.COPY: copy, Takes.NONE: NONE_LEFT}[row.takes]

    def _step(self, w: World, me: str, row: Transition, step: Step, arg: int) -> Optional[World]:
        host: Host = getattr(w, me)
        loads = step.action is Action.LOAD and (
            host.gate in (NOTHING, BUILT) or host.stale or host.pr == NO_VERSION)
        if loads and host.disk != NO_VERSION:
            version = self._survives(w, me)
            if version is None:
                return None
            w = put(w, me, host._replace(disk=version))
            after = super()._step(w, me, row, step, arg)
            return after and self._with(after, me, self._mine(w, me)[0], False)
        holds = host.gate in (SHUT, OPEN) and host.pr != NO_VERSION
        if step.action is Action.KEEP_COPY and not holds and self._mine(w, me)[1]:
            return None  # what would be said is not known
        after = super()._step(w, me, row, step, arg)
        if after is not None and after is not w and step.action in (Action.KEEP_COPY,
                                                                    Action.KEEP_MESSAGE,
                                                                    Action.APTPL_DROP):
            after = self._with(after, me, getattr(after, me).disk, False)
        elif step.action is Action.KEEP_COPY and holds:
            after = self._with(w, me, host.disk, False)
        return after

    def events(self, w: World) -> List[Event]:
        out: List[Event] = []
        for label, kind, after in super().events(w):
            if label[0] == "initiator":
                out.append(((*label, "preempts"), kind, after._replace(
                    files=after.files._replace(preempted=after.latest))))
            out.append((label, kind, after))
        for me in (S, D):
            host: Host = getattr(w, me)
            copy, torn = self._mine(w, me)
            if host.up != ON or host.row >= 0:
                continue
            if torn:
                told = put(w, me, host._replace(disk=copy))
                if w.latest == host.disk:  # a human accepts what the copy has
                    told = told._replace(latest=copy, files=told.files._replace(preempted=0))
                out.append(((me, "is told that its copy counts"), FORCE,
                            self._with(told, me, copy, False)))
            elif copy != host.disk and host.gate == OPEN \
                    and host.state in FOLLOWED[ROLE[me]]:
                out.append(((me, "has its copy follow"), PLAIN,
                            self._with(w, me, host.disk, False)))
        return out

    def _host(self, w: World, me: str) -> Iterator[Event]:
        host: Host = getattr(w, me)
        copy, torn = self._mine(w, me)
        for label, kind, after in super()._host(w, me):
            yield label, kind, after
            if label[1] == "loses power" and host.file == 0 and not torn and copy != host.disk \
                    and host.pr == host.disk:
                yield (me, "loses power while the kernel writes"), kind, self._with(
                    after, me, copy, True)

    def violation(self, w: World) -> Optional[str]:
        for me in (S, D):
            if self.serving(w, me) and 0 <= getattr(w, me).pr < w.files.preempted:
                return BACK
        return super().violation(w)
