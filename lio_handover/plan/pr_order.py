"""The order in which registrations come back, which decides what READ KEYS and PRgeneration say.

The kernel activates a restored registration when its initiator can reach the LUN: at the link of an
explicit mapped LUN, or, for a nexus without an ACL, once both the nexus and the LUN's link exist
(target_core_pr.c:__core_scsi3_check_aptpl_registration and its callers).  READ KEYS answers in that
order.
"""
from __future__ import annotations

import heapq
from dataclasses import replace
from functools import cached_property
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

from ..model import fabrics, pr_texts, reservations
from ..model.fabrics import Gate
from ..model.keys import acl_key, display, lun_key, mapped_lun_key, target_key, tpg_key
from ..model.objects import Backstore, Key, Registration, Reservations, State

#: A rank after all others.
LAST = (1 << 30, 0)


class RestoreOrder:
    """The order in which the registrations of a state can be brought back on a host."""

    def __init__(self, want: State) -> None:
        self.mapped: Set[Key] = {
            mapped.key for target in want.targets for tpg in target.tpgs for acl in tpg.acls
            for mapped in acl.mapped_luns}
        #: mapped LUN, or a nexus' LUN → (place in READ KEYS, number of the backstore)
        self.trigger_rank: Dict[Key, Tuple[int, int]] = {}
        #: TPG → the lowest value that trigger_rank has for its nexus
        self.nexus_rank: Dict[Key, Tuple[int, int]] = {}
        for number, store in enumerate(want.backstores):
            for place, registration in enumerate(store.reservations.registrations):
                trigger = self.trigger_of(registration)
                self.trigger_rank.setdefault(trigger, (place, number))
                if trigger not in self.mapped:
                    tpg = trigger[:4]
                    self.nexus_rank[tpg] = min(self.nexus_rank.get(tpg, LAST), (place, number))
        #: backstore → (TPG of its first LUN, a template for the padding registrations)
        self.padding_paths: Dict[Key, Tuple[Key, Registration]] = {}
        for target, tpg_, lun in want.all_luns():
            if lun.backstore is not None and lun.backstore not in self.padding_paths:
                fabric = fabrics.of(target.fabric).pr_name
                self.padding_paths[lun.backstore] = (tpg_.key, Registration(
                    "", "", 0, fabric, target.wwn, tpg_.tag, lun.number, lun.number))
        #: LUN → (relative port, number): links are made in this order, see plan
        self.linked: Dict[Key, Tuple[int, int]] = {
            lun.key: (int(lun.attributes.get("rtpi", tpg.attributes.get("rtpi", "0"))), number)
            for number, (_target, tpg, lun) in enumerate(want.all_luns())}
        #: TPGs whose nexuses come among the links of mapped LUNs, as an ACL's registration is first
        self.last: Set[Key] = self._after_mapped(want)
        #: targets whose nexuses must come after the links of their LUNs
        self.late: Set[Key] = self._late(want) | {tpg[:3] for tpg in self.last}
        #: the links of mapped LUNs, a row for each ACL, and the nexuses that come among them
        self.mapping_rows: List[List[Key]] = [
            *([mapped.key for mapped in acl.mapped_luns] for target in want.targets
              for tpg in target.tpgs for acl in tpg.acls), *([tpg] for tpg in sorted(self.last))]
        if self.last and any(key not in self.link_place for row in self.mapping_rows
                             for key in row):
            # One nexus would have to come before and after: nexuses before ACLs, then.
            self.last = set()
            self.late = self._late(want)
            self.mapping_rows = [row for row in self.mapping_rows
                                 if not row or row[0] in self.mapped]
            del self.link_place

    @cached_property
    def link_place(self) -> Dict[Key, int]:
        """Each key of ``mapping_rows`` → its place among all of them, see merge_orders."""
        return merge_orders(self.mapping_rows, self.mapping_chains())

    def trigger_of(self, registration: Registration) -> Key:
        """The key whose link brings a registration back: a mapped LUN's, or a LUN's for its TPG's
        nexus."""
        fabric = fabrics.of_pr_name(registration.fabric).name
        tpg = tpg_key(target_key(fabric, registration.target), registration.tpgt)
        mapped = mapped_lun_key(acl_key(tpg, registration.initiator), registration.mapped_lun)
        return mapped if mapped in self.mapped else lun_key(tpg, registration.lun)

    def _after_mapped(self, want: State) -> Set[Key]:
        """TPGs with a nexus that in some backstore has to come after a mapped LUN, or after such a
        nexus."""
        last: Set[Key] = set()
        while True:
            before = len(last)
            for store in want.backstores:
                among = False
                for trigger in map(self.trigger_of, store.reservations.registrations):
                    if trigger in self.mapped or trigger[:4] in last:
                        among = True
                    elif among and fabrics.gate_of(trigger[1]) is not Gate.LOCAL:
                        last.add(trigger[:4])
            if len(last) == before:
                return last

    def _late(self, want: State) -> Set[Key]:
        """Targets whose nexuses are made after the links.

        The links follow the order of the relative ports, which RTPG shows; where the order of READ
        KEYS is another one, the nexuses must give it.  A loopback's nexus cannot: its link asks for
        the disk at once (tcm_loop.c:tcm_loop_port_link).
        """
        targets: Set[Key] = set()
        for store in want.backstores:
            triggers = [trigger
                        for trigger in map(self.trigger_of, store.reservations.registrations)
                        if trigger not in self.mapped]
            if triggers != sorted(triggers, key=self._link_place):
                targets.update(trigger[:3] for trigger in triggers
                               if fabrics.gate_of(trigger[1]) is not Gate.LOCAL)
        return targets

    def _link_place(self, trigger: Key) -> Tuple[int, int]:
        return self.linked.get(trigger, (0, 0))

    def order(self, store: Backstore) -> Reservations:
        """A backstore's reservations in the order in which READ KEYS can show them: registrations
        of one unit stand together; where nexuses cannot come among ACLs, they come before them."""
        def rank(registration: Registration) -> Tuple[int, ...]:
            trigger = self.trigger_of(registration)
            if trigger in self.mapped or trigger[:4] in self.last:
                return (2, self.trigger_rank[trigger][0])
            if trigger[:3] in self.late:
                return (1, *self.nexus_rank[trigger[:4]])
            return (0, *self._link_place(trigger))
        wanted = store.reservations
        return reservations.reordered(wanted, [rank(registration)
                                               for registration in wanted.registrations])

    def chains(self) -> Iterable[List[Key]]:
        """For each backstore the units that bring its registrations back, in the order of READ
        KEYS."""
        chains: Dict[int, List[Key]] = {}
        for key, (_place, store) in sorted(self.trigger_rank.items(), key=lambda pair: pair[1]):
            chains.setdefault(store, []).append(key)
        return chains.values()

    def mapping_chains(self) -> Iterable[List[Key]]:
        """The same with the nexuses that come among the links of mapped LUNs, each in the chain of
        every backstore that it registers on."""
        return [[key if key in self.mapped else key[:4] for key in chain
                 if key in self.mapped or key[:4] in self.last] for chain in self.chains()]


def padding_registrations(wanted: Reservations, place: Optional[Tuple[Key, Registration]]) -> int:
    """How many padding registrations to make for PRgeneration: 0 where no LUN can take them, or
    where they are more than MAX_PADDING."""
    padding, _generation = reservations.restored_generation(wanted)
    return padding if place is not None and padding <= pr_texts.MAX_PADDING else 0


def nearest_reachable(want: State, have: State = State(),
                      restore_order: Optional[RestoreOrder] = None) \
        -> Tuple[State, Tuple[str, ...]]:
    """(``want`` as near as a kernel can be brought to it, sentences about the differences).

    Only the order of READ KEYS and PRgeneration can differ, and not where ``have``, the host's
    state, has the wanted reservations already.  ``restore_order``: that of ``want``, where it is
    known.
    """
    restore_order = restore_order or RestoreOrder(want)
    notes: List[str] = []
    stores: List[Backstore] = []
    for store in want.backstores:
        wanted = store.reservations
        here = have.backstore(store.key)
        if wanted and (here is None or here.reservations != wanted):
            ordered = restore_order.order(store)
            if ordered.registrations != wanted.registrations:
                notes.append(f"{display(store.key)}: READ KEYS will answer in another order, as "
                             "registrations of one initiator come back together")
            padding, generation = reservations.restored_generation(wanted)
            paths = restore_order.padding_paths.get(store.key)
            generation += padding_registrations(wanted, paths) - padding
            if generation != wanted.generation:
                notes.append(
                    f"{display(store.key)}: PRgeneration {wanted.generation} becomes {generation}: "
                    + ("the kernel can not restore it together with an APTPL bit of 0"
                       if generation > wanted.generation else
                       f"more than {pr_texts.MAX_PADDING} dummy registrations, or no LUN for "
                       "them"))
            store = replace(store, reservations=replace(ordered, generation=generation))
        stores.append(store)
    return replace(want, backstores=tuple(stores)), tuple(notes)


def merge_orders(rows: Iterable[Sequence[Key]], chains: Iterable[Sequence[Key]]) -> Dict[Key, int]:
    """{link: its place} in an order that follows all ``chains`` (the order of READ KEYS), and the
    ``rows`` (the numbers in each ACL or TPG) where the chains allow it: REPORT LUNS has the last
    link first, whatever its number (target_core_spc.c:spc_emulate_report_luns).

    A link is in one row, and in one chain at most; a nexus that stands among links may be in many.
    Where chains contradict each other, links and nexuses have no place.
    """
    rank: Dict[Key, int] = {}
    follows: Dict[Key, Key] = {}  # in its row
    for row in rows:
        for key in row:
            rank[key] = len(rank)
        follows.update(zip(row, row[1:]))
    must: Dict[Key, List[Key]] = {}
    waits_for_chain: Dict[Key, int] = {}  # how many others are first
    for chain in chains:
        there = [key for key in chain if key in rank]
        for key, after in zip(there, there[1:]):
            if after not in must.setdefault(key, []):
                must[key].append(after)
                waits_for_chain[after] = waits_for_chain.get(after, 0) + 1
    waits_in_row = set(follows.values())
    free = [(rank[key], key) for key in rank if not waits_for_chain.get(key)]
    best = [pair for pair in free if pair[1] not in waits_in_row]
    heapq.heapify(free)
    heapq.heapify(best)
    place: Dict[Key, int] = {}
    while free or best:
        _rank, key = heapq.heappop(best or free)
        if key in place:
            continue
        place[key] = len(place)
        for after in must.get(key, []):
            waits_for_chain[after] -= 1
        waits_in_row.discard(follows.get(key, ()))
        for after in {*must.get(key, []), *([follows[key]] if key in follows else [])}:
            if after not in place and not waits_for_chain.get(after):
                heapq.heappush(best if after not in waits_in_row else free, (rank[after], after))
    return place
