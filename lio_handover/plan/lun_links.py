"""Links of LUNs: the exports of backstores, in the order that gives each its relative port."""
from __future__ import annotations

from os import fsencode
from typing import Dict, Iterator, List, Optional, Set, Tuple

from .. import errors
from ..model.keys import display
from ..model.objects import Key, Lun, Target, Tpg
from .draft import Draft
from .plan import LINK, MKDIR, RMDIR, UNLINK
from .pr_order import merge_orders


class LunLinks:
    """Adds its steps to ``draft``.  ``unlinked``: LUNs that are there and are to be linked."""

    def __init__(self, draft: Draft, unlinked: Set[Key]) -> None:
        self.draft, self.unlinked = draft, unlinked
        self.want, self.new, self.created = draft.want, draft.new, draft.created
        self.facts = draft.facts
        self._add, self.path = draft.add, draft.path

    def _new_links(self) -> Iterator[Tuple[Target, Tpg, Lun]]:
        for target, tpg, lun in self.want.all_luns():
            if lun.backstore is not None and (lun.key in self.created or lun.key in self.unlinked):
                yield target, tpg, lun

    def link_luns(self) -> None:
        links = {lun.key: (tpg, lun) for _, tpg, lun in self._new_links()}
        ports = {key: int(lun.attributes.get("rtpi", tpg.attributes.get("rtpi", "0")))
                 for key, (tpg, lun) in links.items()}
        if self.facts.has_rtpi:
            for key, (_tpg, lun) in links.items():
                if "rtpi" in lun.attributes:
                    self._no_port(key, ports[key], "its TPG's LUNs have different ones, and this "
                                                   "kernel has one a TPG")
        # Ascending ports: up to 6.1 the links number them, and RTPG answers in the links' order.
        chains: Dict[Optional[Key], List[Key]] = {}
        for key in sorted(links, key=lambda key: ports[key]):
            chains.setdefault(links[key][1].backstore, []).append(key)
        # A nexus made after the links takes the LUNs in the reverse of their order
        # (target_core_tpg.c:core_tpg_add_node_to_devs), and REPORT LUNS shows it.
        late = self.draft.restore_order.late
        rows_of = [[lun.key for lun in tpg.luns][::-1 if target.key in late else 1]
                   for target in self.want.targets for tpg in target.tpgs]
        counters: Dict[Key, int] = {}
        for key, place in sorted(merge_orders(rows_of, chains.values()).items(),
                                 key=lambda pair: pair[1]):
            if key in links:
                self._link_lun(*links[key], ports[key], place, counters)

    def _link_lun(self, tpg: Tpg, lun: Lun, port: int, place: int,
                  counters: Dict[Key, int]) -> None:
        assert lun.backstore is not None
        path = f"{self.path(lun.key)}/{lun.alias or 'link'}"
        there = fsencode(self.path(lun.backstore))
        counter = counters.get(lun.backstore, 1)
        if port and not self.facts.has_rtpi:
            # Up to 6.1 each link of a backstore takes its next port number, from 1.
            if port < counter or port - counter > 1000 or lun.backstore not in self.created:
                self._no_port(lun.key, port, "this kernel gives them by the order of links")
            else:
                self._use_up_ports(lun, path, port - counter, place)
                counter = port
        self._add("link LUN", LINK, path, there, lun.key, (place,))
        counters[lun.backstore] = counter + 1

    def _use_up_ports(self, lun: Lun, path: str, count: int, place: int) -> None:
        """Link and unlink ``count`` times; where a nexus has the LUN at once, and an unlink would
        end its registrations, in a TPG that has none."""
        assert lun.backstore is not None
        there = fsencode(self.path(lun.backstore))
        target = self.new[lun.key[:3]]
        assert isinstance(target, Target)
        scratch: List[str] = []
        if count and any(tpg.attributes.get("nexus") for tpg in target.tpgs):
            tags = {tpg.tag for tpg in target.tpgs}
            free = next(tag for tag in range(32) if tag not in tags)
            tpg = f"{self.path(target.key)}/tpgt_{free}"
            scratch = [tpg, f"{tpg}/lun/lun_0"]
            path = f"{scratch[-1]}/link"
        for directory in scratch:
            self._add("link LUN", MKDIR, directory, about=lun.key, order=(place,))
        for _ in range(count):
            self._add("link LUN", LINK, path, there, lun.key, (place,))
            self._add("link LUN", UNLINK, path, about=lun.key, order=(place,))
        for directory in reversed(scratch):
            self._add("link LUN", RMDIR, directory, about=lun.key, order=(place,))

    def _no_port(self, key: Key, port: int, why: str) -> None:
        self.draft.refused.append(errors.Finding(
            errors.CannotRepresent, display(key),
            f"it can't have the relative port {port} here: {why}",
            do=f"--map rtpi:{display(key[:4])}=NUMBER, if initiators may see another"))
