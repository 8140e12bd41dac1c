"""The reservations of a backstore: from what the kernel shows, what is in its APTPL file, what the
device answers and what this program remembers, one list that is whole and certain (`read`).

pr_texts.py has the kernel's texts; `reservations_tree` and `reservations_of_tree` have JSON.
"""
from __future__ import annotations

from dataclasses import replace
from typing import (Any, Callable, Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional,
                    Sequence, Tuple, Union)

from ..errors import quoted
from .objects import NO_RESERVATIONS, Registration, Reservations
from .pr_texts import (SPC2, Ambiguous, Block, Kind, PrFiles, ShownRegistration, parse_aptpl,
                       parse_holder, parse_port, parse_registered, parse_type)


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
    """A registration as READ FULL STATUS has it (SPC-4 6.15.5).  ``initiator`` is ``iqn…``,
    ``naa.…`` or another TransportID in hex; ``rtpi`` is None with ALL_TG_PT; ``type`` is 0 unless
    it is the ``holder``."""

    initiator: str
    isid: str
    key: int
    rtpi: Optional[int]
    holder: bool = False
    type: int = 0


def from_aptpl(blocks: Sequence[Block], generation: int) -> Reservations:
    """The reservations that a device has after a power loss, from its APTPL file's blocks.  The
    file does not keep PRgeneration, so the caller gives it."""
    if not blocks:
        return NO_RESERVATIONS
    holder = next((number for number, (_, holds, _) in enumerate(blocks) if holds), None)
    return Reservations(max(generation, len(blocks)), True,
                        0 if holder is None else blocks[holder][2], holder,
                        tuple(registration for registration, _, _ in blocks))


def read(files: PrFiles, paths: Mapping[str, Sequence[NexusPath]],
         aptpl_file: Optional[bytes] = None, full_status: Sequence[FullStatusDescriptor] = (),
         known: Sequence[Reservations] = (), untouched: bool = False) -> Reservations:
    """The reservations of a backstore, whole and certain.

    ``paths`` has for each initiator's name, and for ANY_INITIATOR, the paths by which it reaches
    the backstore; ``aptpl_file`` is believed only where it agrees with what the kernel shows;
    ``full_status`` is what READ FULL STATUS answered, in its order, if it was asked; ``known`` is
    what this program restored there itself, believed as long as nothing that can be seen has
    changed since.  ``untouched`` says that no initiator can have changed it.

    Raises Ambiguous where these sources do not determine a registration, and where an initiator
    holds an SPC-2 reservation, which cannot be carried over.
    """
    shown, cut = parse_registered(files.registered) if files.registered else ([], False)
    holder = parse_holder(files.holder)
    if files.res_type.strip() == SPC2 or (holder and holder[0] == "SPC-2"):
        raise Ambiguous(f"{holder[1] if holder else 'an initiator'} holds an SPC-2 reservation, "
                        "which ends with the target; let it RELEASE first")
    try:
        generation = int(files.generation or "0", 0)
    except ValueError:
        raise Ambiguous(f"the kernel shows a generation that can't be read: "
                        f"{quoted(files.generation)}") from None
    if not shown:
        return replace(NO_RESERVATIONS, generation=generation,
                       aptpl="Activated" in files.aptpl)
    kind = parse_type(files.type) if holder else 0
    if full_status:
        shown, cut = _agreed(shown, cut, full_status), False
    registrations = _from_file(shown, cut, holder, kind, aptpl_file)
    if registrations is not None:
        registrations = list(named(registrations, (
            path.target for ways in paths.values() for path in ways)))
    for restored in known if untouched or not cut else ():
        if registrations is None and (cut or len(shown) == len(restored.registrations)):
            registrations = _from_known(shown, generation, holder, kind, restored)
    if registrations is None:
        if cut:
            raise Ambiguous(f"the kernel shows only the first {len(shown)} registrations, and no "
                            "APTPL file agrees with them", True)
        registrations = _from_paths(shown, holder, files, paths, full_status)
    index = None
    if holder:
        index = _holder_index(registrations, holder, files)
    return Reservations(generation, "Activated" in files.aptpl, kind, index,
                        tuple(registrations))


def _identity(registration: Union[Registration, ShownRegistration, FullStatusDescriptor]) \
        -> Tuple[str, str, int]:
    """(initiator, ISID, key): what every form of a registration has."""
    return registration.initiator, registration.isid, registration.key


def _agreed(shown: Sequence[ShownRegistration], cut: bool,
            full_status: Sequence[FullStatusDescriptor]) -> List[ShownRegistration]:
    """All registrations: both lists have the kernel's order, and one page does not hold all."""
    same = [*map(_identity, shown)] == [*map(_identity, full_status[:len(shown)])]
    if not same or len(full_status) < len(shown) or not cut and len(full_status) > len(shown):
        raise Ambiguous("READ FULL STATUS and the kernel's list of registrations do not agree")
    return [*shown, *(ShownRegistration(shown[0].fabric, *_identity(descriptor))
                      for descriptor in full_status[len(shown):])]


def _holder_index(registrations: Sequence[Registration], holder: Tuple[str, str, str],
                  files: PrFiles) -> int:
    matching = [number for number, registration in enumerate(registrations)
                if (registration.initiator, registration.isid) == holder[1:]]
    if len(matching) > 1:
        port = parse_port(files.port)
        if port:
            matching = [number for number in matching
                        if (registrations[number].target, registrations[number].tpgt) == port[:2]]
    if len(matching) != 1:
        raise Ambiguous(f"{len(matching)} registrations could be the reservation's holder "
                        f"{holder[1]}")
    return matching[0]


def _from_file(shown: Sequence[ShownRegistration], cut: bool,
               holder: Optional[Tuple[str, str, str]], kind: int,
               data: Optional[bytes]) -> Optional[List[Registration]]:
    """The file's registrations, if they are those that are shown, in their order; else None."""
    parsed = parse_aptpl(data or b"")
    if parsed.kind is not Kind.WHOLE:
        return None  # it says nothing, not that there are none
    blocks = parsed.blocks
    if not cut and len(blocks) != len(shown) or len(blocks) < len(shown):
        return None
    if [_identity(registration) for registration, _, _ in blocks[:len(shown)]] \
            != [*map(_identity, shown)]:
        return None
    holders = [(registration.initiator, registration.isid, its_type)
               for registration, holds, its_type in blocks if holds]
    if holders != ([(holder[1], holder[2], kind)] if holder else []):
        return None
    return [registration for registration, _, _ in blocks]


def _from_known(shown: Sequence[ShownRegistration], generation: int,
                holder: Optional[Tuple[str, str, str]],
                kind: int, known: Reservations) -> Optional[List[Registration]]:
    """The registrations that this program restored, if PRgeneration (so no REGISTER came since),
    every registration that is shown, and the reservation are still the same; else None."""
    are = [*map(_identity, shown)]
    was = [*map(_identity, known.registrations)]
    was_holder = None if known.holder is None else known.registrations[known.holder]
    if (generation, kind) != (known.generation, known.type) or are != was[:len(are)] \
            or (holder and holder[1:]) != (was_holder and (was_holder.initiator, was_holder.isid)):
        return None
    return list(known.registrations)


def _from_paths(shown: Sequence[ShownRegistration], holder: Optional[Tuple[str, str, str]],
                files: PrFiles, paths: Mapping[str, Sequence[NexusPath]],
                full_status: Sequence[FullStatusDescriptor] = ()) -> List[Registration]:
    """The kernel knows a registration by node ACL and ISID, so by TPG (target_core_pr.c:
    __core_scsi3_locate_pr_reg); which mapped LUN of the TPG it came by makes no difference."""
    port = parse_port(files.port)
    held_at = port[:2] if port and holder else None
    held_lun = port[2] if port else -1
    holder_all = "All Target Ports" in files.all_tg_pt
    groups: Dict[Tuple[str, str], List[int]] = {}
    for number, registration in enumerate(shown):
        groups.setdefault((registration.initiator, registration.isid), []).append(number)
    chosen: Dict[int, NexusPath] = {}
    for (initiator, isid), numbers in groups.items():
        by_tpg: Dict[Tuple[str, int], NexusPath] = {}
        ways = [*paths.get(initiator, ()),
                *(path for path in paths.get(ANY_INITIATOR, ()) if initiator not in path.but)]
        for path in sorted(ways, key=lambda path: path.mapped_lun):
            at = (path.target, path.tpgt)
            if at not in by_tpg or (at == held_at and path.lun == held_lun
                                    and by_tpg[at].lun != held_lun):
                by_tpg[at] = path
        if not by_tpg:
            raise Ambiguous(f"{initiator} is registered, but no ACL maps this backstore for it, "
                            "and its TPG makes no dynamic ones; give it one")
        if full_status:
            named = _by_port(numbers, full_status, by_tpg)
            if named is not None:
                chosen.update(named)
                continue
        tpgs = list(by_tpg)
        holds = holder is not None and (initiator, isid) == holder[1:]
        if len(tpgs) == 1 and len(numbers) == 1:
            chosen[numbers[0]] = by_tpg[tpgs[0]]
        elif len(numbers) == len(tpgs) and len({shown[n].key for n in numbers}) == 1:
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
    for number, registration in enumerate(shown):
        path = chosen[number]
        holds = holder is not None and (registration.initiator, registration.isid) == holder[1:] \
            and (path.target, path.tpgt) == (held_at or (path.target, path.tpgt))
        all_tg_pt = full_status[number].rtpi is None if full_status else \
            holder_all if holds else None
        result.append(Registration(registration.initiator, registration.isid, registration.key,
                                   path.fabric, path.target,
                                   path.tpgt, path.lun, path.mapped_lun, all_tg_pt))
    return result


def _by_port(numbers: Sequence[int], full_status: Sequence[FullStatusDescriptor],
             by_tpg: Mapping[Tuple[str, int], NexusPath]) -> Optional[Dict[int, NexusPath]]:
    """{registration's number: its path}, by the relative port through which it was made; None where
    the port does not determine the path."""
    paths: Dict[int, NexusPath] = {}
    for number in numbers:
        matching = [path for path in by_tpg.values() if path.rtpi == full_status[number].rtpi]
        if len(matching) != 1:
            return None
        paths[number] = matching[0]
    return paths


# ---- as JSON -------------------------------------------------------------------------------
def key_text(key: int) -> str:
    """A reservation key as documents and --json have it."""
    return f"0x{key:016x}"


def reservations_tree(reservations: Reservations, key: Callable[[int], Any] = key_text,
                      without: Sequence[str] = ()) -> Dict[str, Any]:
    """Reservations as a document has them: all their members, and those of each registration but
    for ``without``; ``key`` spells a key."""
    return {**vars(reservations), "registrations": [
        {name: key(value) if name == "key" else value
         for name, value in vars(registration).items() if name not in without}
        for registration in reservations.registrations]}


def reservations_of_tree(tree: Mapping[str, Any]) -> Reservations:
    """The reservations in a file of this host's own, with keys as numbers.  Raises KeyError,
    TypeError.  (A document is judged: document/decode.py.)"""
    return Reservations(**{**tree, "registrations": tuple(
        Registration(**registration) for registration in tree["registrations"])})


# ---- changed ones --------------------------------------------------------------------------
def named(registrations: Iterable[Registration], targets: Iterable[str]
          ) -> Tuple[Registration, ...]:
    """The registrations with their targets' whole WWNs: an APTPL file calls ``fc.X`` just ``X``."""
    whole = {wwn[3:]: wwn for wwn in targets if wwn.startswith("fc.")}
    return tuple(replace(registration, target=whole[registration.target])
                 if registration.target in whole else registration
                 for registration in registrations)


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
