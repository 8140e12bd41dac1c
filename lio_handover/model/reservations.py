"""Persistent reservations: the kernel's texts ↔ the model.

This module reads two texts: the files ``pr/res_*`` (the registrations as they are now, but not all
about them), and the APTPL file (complete, but stale after many changes).  It writes two texts: the
``res_aptpl_metadata`` lines, and the APTPL file.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import (Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple,
                    Union)

from .aptpl import EMPTY_FILE, Block, Kind, parse
from .objects import NO_RESERVATIONS, PrType, Registration, Reservations

_LINE = re.compile(r"(\S+) Node: (.+?)(?:,i,0x([0-9a-f]{12}))? Key: 0x([0-9a-f]{16}) "
                   r"PRgen: 0x[0-9a-f]{8}")
_HOLDER = re.compile(r"(SPC-[23]) Reservation: (\S+) Initiator: (.+?)(?:,i,0x([0-9a-f]{12}))?")
_PORT = re.compile(r"Target Node Endpoint: (\S+)\n.*Relative Port Identifier Tag: (\d+) \S+ "
                   r"Portal Group Tag: (\d+) \S+ Logical Unit: (\d+)", re.S)
_TYPES = {kind.kernel_text: int(kind) for kind in PrType}
#: The list stops without a mark when the next line would not fit into a page.
_PAGE_ALMOST_FULL = 4096 - 384

PRESENT = "SPC3_PERSISTENT_RESERVATIONS"
SPC2 = "SPC2_RESERVATIONS"

#: The initiator of padding: registrations that are made and removed to raise PRgeneration.
PADDING_INITIATOR = "iqn.2026-11.io.github.lio-handover:prgeneration"
#: More padding registrations than this take too long to write in a blackout.
MAX_PADDING = 4096


class ShownRegistration(NamedTuple):
    """A registration as ``pr/res_pr_registered_i_pts`` shows it."""

    fabric: str
    initiator: str
    isid: str
    key: int


class NexusPath(NamedTuple):
    """One way by which an initiator reaches a backstore."""

    fabric: str
    target: str
    tpgt: int
    lun: int
    mapped_lun: int
    rtpi: int = 0
    #: for ANY_INITIATOR: the initiators that have an ACL of their own there, and so not this path
    but: FrozenSet[str] = frozenset()


#: Stands for every initiator that the kernel gives a dynamic ACL at its login.
ANY_INITIATOR = ""


class FullStatusDescriptor(NamedTuple):
    """A registration as READ FULL STATUS has it (SPC-4 6.15.5); ``rtpi`` is None with ALL_TG_PT."""

    initiator: str
    isid: str
    key: int
    rtpi: Optional[int]


@dataclass(frozen=True)
class PrFiles:
    """The files of ``pr/`` that matter, as read."""

    res_type: str
    holder: str
    type: str
    registered: str
    generation: str
    aptpl: str
    all_tg_pt: str
    port: str


#: Field of PrFiles → file below pr/.  Generation stands first and is read again last.
FILES: Tuple[Tuple[str, str], ...] = (
    ("generation", "res_pr_generation"), ("registered", "res_pr_registered_i_pts"),
    ("res_type", "res_type"), ("holder", "res_holder"), ("type", "res_pr_type"),
    ("aptpl", "res_aptpl_active"), ("all_tg_pt", "res_pr_all_tgt_pts"),
    ("port", "res_pr_holder_tg_port"))


class Ambiguous(ValueError):
    """The kernel's files do not determine a registration; the text says what is missing.  ``ask``:
    the device may say it (READ FULL STATUS)."""

    def __init__(self, what: str, ask: bool = False) -> None:
        super().__init__(what)
        self.ask = ask


def parse_registered(text: str) -> Tuple[List[ShownRegistration], bool]:
    """(registrations in READ KEYS order, whether the text may lack some).

    Raises Ambiguous for a line that cannot be read.
    """
    registrations: List[ShownRegistration] = []
    for line in text.splitlines()[1:]:
        if line == "None":
            break
        match = _LINE.fullmatch(line)
        if not match:
            raise Ambiguous(f"the kernel shows a registration that can't be read: {line!r}")
        fabric, initiator, isid, key = match.groups()
        registrations.append(ShownRegistration(fabric, initiator, isid or "", int(key, 16)))
    return registrations, len(text) > _PAGE_ALMOST_FULL


def parse_holder(text: str) -> Optional[Tuple[str, str, str]]:
    """(SPC-2 or SPC-3, initiator, ISID) of who holds the reservation, or None."""
    match = _HOLDER.fullmatch(text.strip())
    return (match[1], match[3], match[4] or "") if match else None


def parse_type(text: str) -> int:
    """The code of a PrType as ``res_pr_type`` shows it, 0 where it shows none."""
    word = text.strip().partition("SPC-3 Reservation Type: ")[2]
    return _TYPES.get(word, 0)


def has_file(serial: str) -> bool:
    """Whether the kernel can keep registrations of a backstore in a file, ``aptpl_<serial>``
    (target_core_pr.c:__core_scsi3_write_aptpl_to_file)."""
    return bool(serial) and "/" not in serial and len(
        serial.encode(errors="surrogateescape")) <= 255 - len("aptpl_")


def from_aptpl(blocks: Sequence[Block], generation: int) -> Reservations:
    """The reservations that a device has after a power loss, from its APTPL file's blocks.  The
    file does not keep PRgeneration, so the caller gives it."""
    if not blocks:
        return NO_RESERVATIONS
    holder = next((number for number, (_, holds, _) in enumerate(blocks) if holds), None)
    return Reservations(max(generation, len(blocks)), True,
                        0 if holder is None else blocks[holder][2], holder,
                        tuple(registration for registration, _, _ in blocks))


def read(texts: PrFiles, places: Mapping[str, Sequence[NexusPath]],
         aptpl_file: Optional[bytes] = None, seen: Sequence[FullStatusDescriptor] = (),
         known: Sequence[Reservations] = (), untouched: bool = False) -> Reservations:
    """The reservations of a backstore, whole and certain.

    ``places`` has for each initiator's name, and for ANY_INITIATOR, the paths by which it reaches
    the backstore; ``aptpl_file`` is believed only where it agrees with what the kernel shows;
    ``seen`` is what READ FULL STATUS answered, in its order, if it was asked; ``known`` is what
    this program restored there itself, believed as long as nothing that can be seen has changed
    since.  ``untouched`` says that no initiator can have changed it.

    Raises Ambiguous where these sources do not determine a registration, and where an initiator
    holds an SPC-2 reservation, which cannot be carried over.
    """
    live, cut = parse_registered(texts.registered) if texts.registered else ([], False)
    holder = parse_holder(texts.holder)
    if texts.res_type.strip() == SPC2 or (holder and holder[0] == "SPC-2"):
        raise Ambiguous(f"{holder[1] if holder else 'an initiator'} holds an SPC-2 reservation, "
                        "which ends with the target; let it RELEASE first")
    generation = int(texts.generation or "0", 0)
    if not live:
        return replace(NO_RESERVATIONS, generation=generation,
                       aptpl="Activated" in texts.aptpl)
    kind = parse_type(texts.type) if holder else 0
    if seen:
        live, cut = _agreed(live, cut, seen), False
    registrations = _from_file(live, cut, holder, kind, aptpl_file)
    if registrations is not None:
        registrations = list(named(registrations, (
            place.target for ways in places.values() for place in ways)))
    for restored in known if untouched or not cut else ():
        if registrations is None and (cut or len(live) == len(restored.registrations)):
            registrations = _from_known(live, generation, holder, kind, restored)
    if registrations is None:
        if cut:
            raise Ambiguous(f"the kernel shows only the first {len(live)} registrations, and no "
                            "APTPL file agrees with them", True)
        registrations = _from_places(live, holder, texts, places, seen)
    index = None
    if holder:
        index = _holder_index(registrations, holder, texts)
    return Reservations(generation, "Activated" in texts.aptpl, kind, index,
                        tuple(registrations))


def _identity(registration: Union[Registration, ShownRegistration, FullStatusDescriptor]) \
        -> Tuple[str, str, int]:
    """(initiator, ISID, key): what every form of a registration has."""
    return registration.initiator, registration.isid, registration.key


def _agreed(live: Sequence[ShownRegistration], cut: bool,
            seen: Sequence[FullStatusDescriptor]) -> List[ShownRegistration]:
    """All registrations: both lists have the kernel's order, and one page does not hold all."""
    same = [*map(_identity, live)] == [*map(_identity, seen[:len(live)])]
    if not same or len(seen) < len(live) or not cut and len(seen) > len(live):
        raise Ambiguous("READ FULL STATUS and the kernel's list of registrations do not agree")
    return [*live, *(ShownRegistration(live[0].fabric, *_identity(descriptor))
                     for descriptor in seen[len(live):])]


def _holder_index(registrations: Sequence[Registration], holder: Tuple[str, str, str],
                  texts: PrFiles) -> int:
    matching = [number for number, registration in enumerate(registrations)
                if (registration.initiator, registration.isid) == holder[1:]]
    if len(matching) > 1:
        port = _PORT.search(texts.port)
        if port:
            matching = [number for number in matching
                        if (registrations[number].target, registrations[number].tpgt)
                        == (port[1], int(port[3]))]
    if len(matching) != 1:
        raise Ambiguous(f"{len(matching)} registrations could be the reservation's holder "
                        f"{holder[1]}")
    return matching[0]


def _from_file(live: Sequence[ShownRegistration], cut: bool,
               holder: Optional[Tuple[str, str, str]], kind: int,
               data: Optional[bytes]) -> Optional[List[Registration]]:
    """The file's registrations, if they are the live ones in the live order; else None."""
    parsed = parse(data or b"")
    if parsed.kind is not Kind.WHOLE:
        return None  # it says nothing, not that there are none
    blocks = parsed.blocks
    if not cut and len(blocks) != len(live) or len(blocks) < len(live):
        return None
    for (registration, holds, its_type), shown in zip(blocks, live):
        if _identity(registration) != _identity(shown):
            return None
    holders = [(registration.initiator, registration.isid, its_type)
               for registration, holds, its_type in blocks if holds]
    if holders != ([(holder[1], holder[2], kind)] if holder else []):
        return None
    return [registration for registration, _, _ in blocks]


def _from_known(live: Sequence[ShownRegistration], generation: int,
                holder: Optional[Tuple[str, str, str]],
                kind: int, known: Reservations) -> Optional[List[Registration]]:
    """The registrations that this program restored, if PRgeneration (so no REGISTER came since),
    every registration that is shown, and the reservation are still the same; else None."""
    shown = [*map(_identity, live)]
    was = [*map(_identity, known.registrations)]
    was_holder = None if known.holder is None else known.registrations[known.holder]
    if (generation, kind) != (known.generation, known.type) or shown != was[:len(shown)] \
            or (holder and holder[1:]) != (was_holder and (was_holder.initiator, was_holder.isid)):
        return None
    return list(known.registrations)


def _from_places(live: Sequence[ShownRegistration], holder: Optional[Tuple[str, str, str]],
                 texts: PrFiles,
                 places: Mapping[str, Sequence[NexusPath]],
                 seen: Sequence[FullStatusDescriptor] = ()) -> List[Registration]:
    """The kernel knows a registration by node ACL and ISID, so by TPG (target_core_pr.c:
    __core_scsi3_locate_pr_reg); which mapped LUN of the TPG it came by makes no difference."""
    port = _PORT.search(texts.port)
    held_at = (port[1], int(port[3])) if port and holder else None
    held_lun = int(port[4]) if port else -1
    holder_all = "All Target Ports" in texts.all_tg_pt
    groups: Dict[Tuple[str, str], List[int]] = {}
    for number, registration in enumerate(live):
        groups.setdefault((registration.initiator, registration.isid), []).append(number)
    chosen: Dict[int, NexusPath] = {}
    for (initiator, isid), numbers in groups.items():
        by_tpg: Dict[Tuple[str, int], NexusPath] = {}
        ways = [*places.get(initiator, ()),
                *(path for path in places.get(ANY_INITIATOR, ()) if initiator not in path.but)]
        for place in sorted(ways, key=lambda path: path.mapped_lun):
            at = (place.target, place.tpgt)
            if at not in by_tpg or (at == held_at and place.lun == held_lun
                                    and by_tpg[at].lun != held_lun):
                by_tpg[at] = place
        if not by_tpg:
            raise Ambiguous(f"{initiator} is registered, but no ACL maps this backstore for it, "
                            "and its TPG makes no dynamic ones; give it one")
        if seen:
            named = _by_port(numbers, seen, by_tpg)
            if named is not None:
                chosen.update(named)
                continue
        tpgs = list(by_tpg)
        holds = holder is not None and (initiator, isid) == holder[1:]
        if len(tpgs) == 1 and len(numbers) == 1:
            chosen[numbers[0]] = by_tpg[tpgs[0]]
        elif len(numbers) == len(tpgs) and len({live[n].key for n in numbers}) == 1:
            # One in each TPG, all with one key: who is who makes no difference.
            for number, at in zip(numbers, tpgs):
                chosen[number] = by_tpg[at]
        elif len(numbers) == 1 and holds and held_at in by_tpg:
            chosen[numbers[0]] = by_tpg[held_at]
        else:
            raise Ambiguous(f"{initiator} has {len(numbers)} registrations and reaches the "
                            f"backstore through {len(tpgs)} TPGs; set force_pr_aptpl, or let it "
                            "register again with APTPL=1, so that the kernel says which is which; "
                            "or ask the device with --probe", True)
    result: List[Registration] = []
    for number, registration in enumerate(live):
        place = chosen[number]
        holds = holder is not None and (registration.initiator, registration.isid) == holder[1:] \
            and (place.target, place.tpgt) == (held_at or (place.target, place.tpgt))
        all_tg_pt = seen[number].rtpi is None if seen else holder_all if holds else None
        result.append(Registration(registration.initiator, registration.isid, registration.key,
                                   place.fabric, place.target,
                                   place.tpgt, place.lun, place.mapped_lun, all_tg_pt))
    return result


def _by_port(numbers: Sequence[int], seen: Sequence[FullStatusDescriptor],
             by_tpg: Mapping[Tuple[str, int], NexusPath]) -> Optional[Dict[int, NexusPath]]:
    """{registration's number: its path}, by the relative port through which it was made; None where
    the port does not determine the path."""
    paths: Dict[int, NexusPath] = {}
    for number in numbers:
        matching = [place for place in by_tpg.values() if place.rtpi == seen[number].rtpi]
        if len(matching) != 1:
            return None
        paths[number] = matching[0]
    return paths


# ---- writing -------------------------------------------------------------------------------
def _line(registration: Registration, holder: bool, kind: int, rtpi: int = 0) -> bytes:
    sid = f"initiator_sid={registration.isid}," if registration.isid else ""
    return (f"initiator_fabric={registration.fabric},initiator_node={registration.initiator},{sid}"
            f"sa_res_key={registration.key:#x},res_holder={int(holder)},"
            f"res_type={kind if holder else 0},res_scope=0,"
            f"res_all_tg_pt={int(bool(registration.all_tg_pt))},"
            f"mapped_lun={registration.mapped_lun},target_fabric={registration.fabric},"
            f"target_node={compared_name(registration)},tpgt={registration.tpgt},"
            f"port_rtpi={rtpi},target_lun={registration.lun}\n").encode()


def compared_name(registration: Registration) -> str:
    """The target's name that the kernel compares with the TPG's own: a ``fc.`` WWPN without that
    prefix."""
    return compared_wwn(registration.target)


def compared_wwn(wwn: str) -> str:
    """The same for a WWN."""
    return wwn[3:] if wwn.startswith("fc.") else wwn


def named(registrations: Iterable[Registration], targets: Iterable[str]
          ) -> Tuple[Registration, ...]:
    """The registrations with their targets' whole WWNs: an APTPL file calls ``fc.X`` just ``X``."""
    whole = {wwn[3:]: wwn for wwn in targets if wwn.startswith("fc.")}
    return tuple(replace(registration, target=whole[registration.target])
                 if registration.target in whole else registration
                 for registration in registrations)


def metadata(reservations: Reservations) -> List[bytes]:
    """The ``pr/res_aptpl_metadata`` lines of the real registrations, one write each."""
    return [_line(registration, number == reservations.holder, reservations.type)
            for number, registration in enumerate(reservations.registrations)]


def padding_registrations(count: int, like: Registration) -> List[bytes]:
    """``count`` lines of registrations that exist only to be counted by PRgeneration."""
    return [_line(replace(like, initiator=PADDING_INITIATOR, isid="", key=number + 1,
                          all_tg_pt=False), False, 0) for number in range(count)]


def file(reservations: Reservations, rtpi: Mapping[Tuple[str, int], int]) -> bytes:
    """The APTPL file, as the kernel would write it (__core_scsi3_write_aptpl_to_file).

    ``rtpi`` gives the relative port of each (target, tpgt).
    """
    if not reservations.aptpl or not reservations.registrations:
        return EMPTY_FILE
    blocks: List[str] = []
    for number, registration in enumerate(reservations.registrations):
        holder = number == reservations.holder
        lines = [f"PR_REG_START: {number}", f"initiator_fabric={registration.fabric}",
                 f"initiator_node={registration.initiator}"]
        if registration.isid:
            lines.append(f"initiator_sid={registration.isid}")
        lines.append(f"sa_res_key={registration.key}")
        if holder:
            lines += ["res_holder=1", f"res_type={reservations.type:02x}", "res_scope=00"]
        else:
            lines.append("res_holder=0")
        lines += [f"res_all_tg_pt={int(bool(registration.all_tg_pt))}",
                  f"mapped_lun={registration.mapped_lun}", f"target_fabric={registration.fabric}",
                  f"target_node={compared_name(registration)}", f"tpgt={registration.tpgt}",
                  f"port_rtpi={rtpi.get((registration.target, registration.tpgt), 0)}",
                  f"target_lun={registration.lun}", f"PR_REG_END: {number}"]
        blocks.append("\n".join(lines) + "\n")
    return "".join(blocks).encode() + b"\0"


def restored_generation(reservations: Reservations) -> Tuple[int, int]:
    """(padding registrations to write, PRgeneration that results).

    Each restored registration counts one, and so does the REGISTER by which the APTPL bit,
    which every restored device has, is cleared again (target_core_pr.c:
    core_scsi3_pr_generation, __core_scsi3_check_aptpl_registration).  The kernel can't be
    brought to less than their sum.
    """
    least = len(reservations.registrations) + int(needs_clearing(reservations))
    padding = max(0, reservations.generation - least)
    return padding, least + padding


def needs_clearing(reservations: Reservations) -> bool:
    """Whether the APTPL bit must be cleared after the restored registrations have set it."""
    return not reservations.aptpl and bool(reservations.registrations or reservations.generation)


def reordered(reservations: Reservations, ranks: Sequence[Tuple[int, ...]]) -> Reservations:
    """The same registrations in the order of their ``ranks``, the holder still the holder."""
    order = sorted(range(len(ranks)), key=lambda number: (ranks[number], number))
    holder = None if reservations.holder is None else order.index(reservations.holder)
    return replace(reservations, holder=holder, registrations=tuple(
        reservations.registrations[number] for number in order))


def with_known_all_tg_pt(reservations: Reservations) -> Reservations:
    """The same reservations, with ALL_TG_PT taken to be 0 where it is not known."""
    return replace(reservations, registrations=tuple(
        replace(registration, all_tg_pt=bool(registration.all_tg_pt)) for registration in
        reservations.registrations))
