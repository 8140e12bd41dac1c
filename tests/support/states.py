"""States made by chance, as a host could serve them: strategies for property-based tests.

What a fresh object says differs from kernel to kernel, so it is asked of one first (`World`);
the strategies then change some of it to what the kernel takes.  Every state is valid by
construction: it is what a reader could find on a host whose initiators and administrator did
nothing but what a kernel lets them.

    @given(states(world, "a"))
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from lio_handover.model import keys, objects
from lio_handover.model.attributes import CARRIED, NONE, TABLE
from lio_handover.model.keys import (acl_key, alua_group_key, backstore_key, lu_group_key, lun_key,
                                     mapped_lun_key, portal_key, target_key, tpg_key)
from lio_handover.model.objects import (DEFAULT_GROUP, Acl, AluaGroup, Backstore, Key, LuGroup, Lun,
                                        MappedLun, Portal, Registration, Reservations, Secret,
                                        State, Target, Tpg)

T = TypeVar("T")
Draw = Callable[..., Any]
Values = Mapping[str, str]
SIZE = 1 << 20
NAMES = "ab"  # each state's own, so that two fit on one host


@dataclass(frozen=True)
class World:
    """What a kernel gives a fresh object, by kind (and fabric): ``{"tpg:iscsi": {…}, …}``."""

    fresh: Mapping[str, Values]
    has_rtpi: bool
    folder: str
    direct: bool = False  # whether the folder's files can be opened with O_DIRECT
    fabrics: tuple[str, ...] = ("iscsi", "loopback")
    ipv6: bool = True
    lacks: frozenset[str] = frozenset()  # paths of attributes that only newer kernels have

    def path(self, name: str) -> str:
        """The file of the backstore of this name."""
        return f"{self.folder}/{name}.img"


# --- values that the kernel takes ----------------------------------------------------------------
def _numbers(low: int, high: int) -> st.SearchStrategy[str]:
    return (st.sampled_from((low, high)) | st.integers(low, high)).map(str)


def _words(*words: str) -> st.SearchStrategy[str]:
    return st.sampled_from(words)


def _text(longest: int, alphabet: str = "aZ09-_.: +~") -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=1, max_size=longest).filter(
        lambda one: one == one.strip() and one != NONE)


BIT = _words("0", "1")
U32 = _numbers(0, 2**32 - 1)
YES = _words("Yes", "No")
DIGEST = _words("None", "CRC32C", "CRC32C,None", "None,CRC32C")
SECRET = _text(255).map(Secret)
LABEL = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=40)

#: kind of object (or kind:fabric) → path → values that the kernel takes there
ALLOWED: dict[str, dict[str, st.SearchStrategy[str]]] = {
    "backstore": {
        "alias": LABEL,
        "attrib/emulate_model_alias": BIT,
        "attrib/block_size": _words("512", "1024", "2048", "4096"),
        "attrib/optimal_sectors": _numbers(1, 2048),  # 8 MiB in the largest blocks
        "attrib/queue_depth": _numbers(1, 128),
        "attrib/max_unmap_lba_count": U32, "attrib/max_unmap_block_desc_count": U32,
        "attrib/unmap_granularity": U32, "attrib/unmap_granularity_alignment": U32,
        "attrib/max_write_same_len": U32,
        "attrib/emulate_tpu": BIT, "attrib/emulate_tpws": BIT, "attrib/unmap_zeroes_data": BIT,
        "attrib/emulate_ua_intlck_ctrl": _numbers(0, 2), "attrib/emulate_tas": BIT,
        "attrib/force_pr_aptpl": BIT, "attrib/emulate_fua_write": BIT,
        "attrib/emulate_caw": BIT, "attrib/emulate_3pc": BIT, "attrib/is_nonrot": BIT,
        "attrib/emulate_write_cache": BIT, "attrib/enforce_pr_isids": BIT,
        "attrib/emulate_rsoc": BIT,
        "wwn/vendor_id": _text(8), "wwn/product_id": _text(16), "wwn/revision": _text(4),
        "wwn/company_id": st.integers(0, 2**24 - 1).map(lambda one: f"0x{one:06x}"),
        "wwn/pd_text_id_info": _text(255),
    },
    "alua_group": {
        "alua_access_type": _numbers(0, 3),
        **{"alua_support_" + name: BIT for name in (
            "transitioning", "offline", "unavailable", "standby", "active_nonoptimized",
            "active_optimized")},
        "alua_write_metadata": BIT, "nonop_delay_msecs": _numbers(0, 10000),
        "trans_delay_msecs": _numbers(0, 30000), "implicit_trans_secs": _numbers(0, 255),
        "preferred": BIT, "alua_access_status": _numbers(0, 2),
    },
    "tpg:iscsi": {
        **{"attrib/" + name: BIT for name in (
            "authentication", "generate_node_acls", "cache_dynamic_acls", "demo_mode_discovery",
            "demo_mode_write_protect", "login_keys_workaround", "prod_mode_write_protect",
            "t10_pi", "tpg_enabled_sendtargets")},
        "attrib/default_cmdsn_depth": _numbers(1, 512), "attrib/default_erl": _numbers(0, 2),
        "attrib/fabric_prot_type": _words("0", "1", "3"), "attrib/login_timeout": _numbers(5, 30),
        "auth/userid": _text(255), "auth/userid_mutual": _text(255),
        "auth/password": SECRET, "auth/password_mutual": SECRET,
        "param/AuthMethod": _words("CHAP", "None", "CHAP,None", "None,CHAP"),
        "param/HeaderDigest": DIGEST, "param/DataDigest": DIGEST,
        "param/MaxConnections": _numbers(1, 65535), "param/TargetAlias": _text(60, "aZ09-_.:"),
        "param/InitialR2T": YES, "param/ImmediateData": YES,
        "param/MaxRecvDataSegmentLength": _numbers(512, 2**24 - 1),
        "param/MaxXmitDataSegmentLength": _numbers(512, 2**24 - 1),
        "param/MaxBurstLength": _numbers(512, 2**24 - 1),
        "param/FirstBurstLength": _numbers(512, 2**24 - 1),
        "param/DefaultTime2Wait": _numbers(0, 3600), "param/DefaultTime2Retain": _numbers(0, 3600),
        "param/MaxOutstandingR2T": _numbers(1, 65535), "param/DataPDUInOrder": YES,
        "param/DataSequenceInOrder": YES, "param/ErrorRecoveryLevel": _numbers(0, 2),
        "param/IFMarker": YES, "param/OFMarker": YES,
        "param/IFMarkInt": _words("2048~65535", "Reject"),
        "param/OFMarkInt": _words("2048~65535", "Reject"),
    },
    "tpg:loopback": {"attrib/fabric_prot_type": _words("0", "1", "3")},
    "tpg:vhost": {"attrib/fabric_prot_type": _words("0", "1", "3")},
    "lun": {"alua_tg_pt_offline": BIT, "alua_tg_pt_write_md": BIT,
            "alua_tg_pt_status": _numbers(0, 2)},
    "acl": {
        "attrib/dataout_timeout": _numbers(2, 60),
        "attrib/dataout_timeout_retries": _numbers(1, 15),
        "attrib/default_erl": _numbers(0, 2), "attrib/nopin_response_timeout": _numbers(3, 60),
        "attrib/nopin_timeout": _words("0") | _numbers(3, 60),
        "attrib/random_datain_pdu_offsets": BIT, "attrib/random_datain_seq_offsets": BIT,
        "attrib/random_r2t_offsets": BIT, "attrib/authentication": _numbers(-1, 1),
        "auth/userid": _text(255), "auth/userid_mutual": _text(255),
        "auth/password": SECRET, "auth/password_mutual": SECRET,
        "cmdsn_depth": _numbers(1, 512), "tag": _text(63),
    },
    "mapped_lun": {"write_protect": BIT},
}

#: kind of object → path → why it is given by the rest of the state, or stays as it is
NOT_BY_CHANCE: dict[str, dict[str, str]] = {
    "backstore": {
        "wwn/vpd_unit_serial": "each its own", "udev_path": "its own path, or nothing",
        "alua_lu_gp": "a group of the state",
        "attrib/emulate_pr": "0 hides registrations: no source exports it",
        "attrib/emulate_dpo": "the kernel ignores it", "attrib/emulate_fua_read": "likewise",
        "attrib/emulate_rest_reord": "the kernel takes only 0",
        "attrib/alua_support": "ENOSYS with files", "attrib/pgr_support": "ENOSYS with files",
        "attrib/pi_prot_type": "makes a second file, which only pi_prot_format fills",
        "attrib/pi_prot_verify": "needs pi_prot_type",
        "lba_map": "needs its groups' ids and states",
    },
    "lu_group": {"lu_gp_id": "each its own"},
    "alua_group": {"tg_pt_gp_id": "each its own", "alua_access_state": "one that is supported"},
    "tpg:iscsi": {"rtpi": "see _ports", "enable": "a gate"},
    "tpg:loopback": {"rtpi": "see _ports", "nexus": "each its own",
                     "transport_status": "offline ends its own disks"},
    "tpg:vhost": {"rtpi": "see _ports", "nexus": "each its own"},
    "portal": {"iser": "needs hardware", "cxgbit": "needs hardware"},
    "lun": {"alua_tg_pt_gp": "a group of its backstore"},
    "discovery_auth": dict.fromkeys(
        ("enforce_discovery_auth", "userid", "password", "userid_mutual", "password_mutual"),
        "of the whole host, which can't unset it"),
}


def unsaid() -> list[str]:
    """Rows of the attributes' table that neither list knows."""
    found = []
    for row in TABLE:
        for owner in row.only or ("",):
            if row.kind_of_object == "backstore" and owner not in ("", "fileio"):
                continue  # states are made of files
            kind = row.kind_of_object
            kinds = [f"tpg:{owner or 'iscsi'}"] if kind == "tpg" else [kind]
            if row.kind in CARRIED and not any(
                    row.path in where.get(one, {}) for one in kinds
                    for where in (ALLOWED, NOT_BY_CHANCE)):
                found.append(f"{row.at} {row.path}")
    return found


def settle(kind: str, values: Mapping[str, str]) -> dict[str, str]:
    """``values`` as a reader has them: what older kernels do anyway is left out, and where one
    follows from another it is as the kernel has it."""
    silent = _SILENT.get(kind, {})
    made = {name: value for name, value in values.items() if silent.get(name) != value}
    if made.get("attrib/generate_node_acls") == "1":
        made["attrib/cache_dynamic_acls"] = "1"  # iscsit_ta_generate_node_acls
    return made


# --- objects -------------------------------------------------------------------------------------
class _Making:
    """One state in the making."""

    def __init__(self, draw: Draw, world: World, name: str) -> None:
        self.draw, self.world, self.name = draw, world, name
        self.number = NAMES.index(name)

    def some(self, kind: str, most: int = 4) -> dict[str, str]:
        """What a fresh object says, some of it changed."""
        fresh = dict(self.world.fresh[kind])
        allowed = ALLOWED.get(kind, {})
        # Not every kernel has each; what can be unset is not in what a fresh object says.
        there = [name for name in sorted(allowed)
                 if (name in fresh or name in _UNSET[kind])
                 and name not in self.world.lacks]
        for name in self.draw(st.lists(st.sampled_from(there), max_size=most, unique=True)
                              if there else st.just([])):
            fresh[name] = self.draw(allowed[name])
        return settle(kind, fresh)

    def count(self, low: int, high: int) -> range:
        return range(self.draw(st.integers(low, high)))

    def pick(self, few: Sequence[T]) -> T:
        return self.draw(st.sampled_from(few))  # type: ignore[no-any-return]

    def chance(self) -> bool:
        return self.draw(st.booleans())  # type: ignore[no-any-return]

    # ---- the whole ---
    def state(self) -> State:
        groups = [LuGroup(lu_group_key(f"lu-{self.name}{number}"),
                          {"lu_gp_id": str(10 * self.number + number + 1)})
                  for number in self.count(0, 1)]
        stores = [self.backstore(number, groups) for number in self.count(1, 3)]
        targets = [self.target(number, stores) for number in self.count(1, 2)]
        linked = {lun.backstore for _, _, lun in State((), (), tuple(targets)).all_luns()}
        stores = [store for store in stores if store.key in linked]
        state = State((), tuple(stores), tuple(targets))
        state = self.ports(state)
        state = replace(state, backstores=tuple(
            replace(store, reservations=self.reservations(store, state)) for store in stores))
        used = {store.attributes.get("alua_lu_gp") for store in stores}
        return replace(state, lu_groups=tuple(one for one in groups if one.name in used))

    def backstore(self, number: int, groups: Sequence[LuGroup]) -> Backstore:
        name = f"{self.name}{number}"
        key = backstore_key("fileio", name)
        parameters = {"fd_dev_name": self.world.path(name), "fd_dev_size": str(SIZE)}
        if self.chance():
            parameters[self.pick(("fd_buffered_io", "fd_async_io") if self.world.direct
                                 else ("fd_buffered_io",))] = "1"
        attributes = self.some("backstore")
        attributes["wwn/vpd_unit_serial"] = f"5{self.number}{number}-{self.name * 3}"
        if self.chance():
            attributes["udev_path"] = parameters["fd_dev_name"]
        if parameters.get("fd_buffered_io") and "attrib/emulate_write_cache" not in attributes:
            attributes["attrib/emulate_write_cache"] = "1"
        if groups and self.chance():
            attributes["alua_lu_gp"] = self.pick(groups).name
        own = [DEFAULT_GROUP, *(f"g{one}" for one in self.count(0, 2))]
        return Backstore(key, parameters, attributes, tuple(
            self.alua_group(key, group, place) for place, group in enumerate(own)))

    def alua_group(self, store: Key, name: str, place: int) -> AluaGroup:
        attributes = self.some("alua_group")
        if place:
            attributes["tg_pt_gp_id"] = str(place)
        supported = [state for state, word in STATES.items()
                     if attributes["alua_support_" + word] == "1"]
        # The host has set it, or an initiator, or the type was another one then.
        if supported and self.chance():
            attributes["alua_access_state"] = self.pick(supported)
        return AluaGroup(alua_group_key(store, name), attributes)

    # ---- targets ---
    def target(self, number: int, stores: Sequence[Backstore]) -> Target:
        fabric = self.pick(self.world.fabrics) if number else self.world.fabrics[0]
        wwn = f"iqn.2026-11.org.example:{self.name}{number}" if fabric == "iscsi" else \
            f"naa.500140500000{self.number}{number}00"
        key = target_key(fabric, wwn)
        return Target(key, dict(self.world.fresh["target"]), tuple(
            self.tpg(key, fabric, number, tag, stores)
            for tag in sorted(self.draw(st.lists(st.integers(0, 31 if fabric != "loopback" else 1),
                                                 min_size=1, max_size=2, unique=True)))))

    def tpg(self, above: Key, fabric: str, target: int, tag: int, stores: Sequence[Backstore]
            ) -> Tpg:
        key = tpg_key(above, tag)
        attributes = self.some(f"tpg:{fabric}")
        numbers = self.draw(st.lists(st.integers(0, 300), max_size=3, unique=True))
        luns = tuple(self.lun(key, number, self.pick(stores)) for number in sorted(numbers))
        if fabric != "iscsi":
            attributes["nexus"] = f"naa.500140510000{self.number}{target}{tag:02}"
            return Tpg(key, attributes, luns=luns)
        attributes["enable"] = self.pick("01")
        place = self.number * 100 + target * 32 + tag
        addresses = [f"127.0.0.1:{3300 + place}", f"[::1]:{3300 + place}"]
        portals = tuple(Portal(portal_key(key, address), dict(self.world.fresh["portal"]))
                        for address in addresses[:1 + self.world.ipv6] if self.chance())
        acls = tuple(self.acl(key, number, luns) for number in self.count(0, 3))
        return Tpg(key, attributes, portals, luns, acls)

    def lun(self, tpg: Key, number: int, store: Backstore) -> Lun:
        attributes = self.some("lun", 1)
        own = [group.name for group in store.alua_groups if group.name != DEFAULT_GROUP]
        if own and self.chance():
            attributes["alua_tg_pt_gp"] = self.pick(own)
        return Lun(lun_key(tpg, number), store.key, f"link{number}", attributes)

    def acl(self, tpg: Key, number: int, luns: Sequence[Lun]) -> Acl:
        key = acl_key(tpg, f"iqn.2026-11.org.example:i{number}")
        numbers = sorted(self.draw(st.lists(st.integers(0, 300), max_size=3, unique=True))) \
            if luns else []
        return Acl(key, self.some("acl"), tuple(
            MappedLun(mapped_lun_key(key, one), self.pick(luns).number, f"mapped{one}",
                      self.some("mapped_lun")) for one in numbers))

    # ---- what the kernel numbers ---
    def ports(self, state: State) -> State:
        """Relative port numbers, as this kernel gives them."""
        if self.world.has_rtpi:
            return _each_tpg(state, self._port_of_tpg)
        # Up to 6.1 each link takes its backstore's next number, and a link may have come and gone.
        numbers: dict[Key, int] = {}
        last: dict[Key, int] = {}
        keys = [lun.key for _, _, lun in state.all_luns()]
        stores = {lun.key: lun.backstore for _, _, lun in state.all_luns()}
        for key in self.draw(st.permutations(keys)):
            store = stores[key]
            assert store is not None
            numbers[key] = last[store] = last.get(store, 0) + self.pick((1, 1, 1, 2, 5))

        def numbered(tpg: Tpg) -> Tpg:
            mine = {numbers[lun.key] for lun in tpg.luns}
            if len(mine) == 1:
                return replace(tpg, attributes={**tpg.attributes, "rtpi": str(mine.pop())})
            return replace(tpg, luns=tuple(
                replace(lun, attributes={**lun.attributes, "rtpi": str(numbers[lun.key])})
                for lun in tpg.luns))
        return _each_tpg(state, numbered)

    def _port_of_tpg(self, tpg: Tpg) -> Tpg:
        """An enabled iSCSI TPG has one, each another; the rest may have one."""
        open_ = tpg.attributes.get("enable") == "1"
        if not open_ and self.chance():
            return tpg
        # One number for each target and tag of both states.
        place = int(tpg.key[2][-1]) if tpg.fabric == "iscsi" else 7
        number = 1 + self.number + 2 * (place * 32 + tpg.tag) + self.pick((0, 0, 1000, 64000))
        return replace(tpg, attributes={**tpg.attributes, "rtpi": str(number)})

    # ---- reservations ---
    def reservations(self, store: Backstore, state: State) -> Reservations:
        forced = store.attributes.get("attrib/force_pr_aptpl") == "1"
        there = self.registrations(_ways(store.key, state))
        if not there:
            generation = self.pick((0, 0, 1, 3))
            # With force_pr_aptpl only a CLEAR, the second change at least, ends the bit.
            aptpl = generation > 0 and (self.chance() or forced and generation < 2)
            return Reservations(generation, aptpl)
        kind = self.pick((0, *map(int, objects.PrType)))
        holder = self.draw(st.integers(0, len(there) - 1)) if kind else None
        return Reservations(len(there) + self.pick((0, 0, 1, 9)), forced or self.chance(), kind,
                            holder, tuple(there))

    def registrations(self, ways: Sequence[Registration]) -> list[Registration]:
        if not ways:
            return []
        chosen = [self.pick(ways) for _ in self.count(0, 4)]
        if chosen and self.draw(st.integers(0, 9)) == 9:
            chosen += [chosen[0]] * 60  # more than one page shows
        found: dict[tuple[str, str, str, int], Registration] = {}
        for number, way in enumerate(chosen):
            isid = ""
            if way.fabric == "iSCSI" and (number > 4 or self.pick((True, True, False))):
                isid = f"00023d{number:06x}"
            one = replace(way, isid=isid, key=self.pick((1, 2**64 - 1, 0xabc0 + number)),
                          all_tg_pt=self.pick((False, False, True)))
            found.setdefault(one.nexus, one)
        return list(found.values())


STATES = {"0": "active_optimized", "1": "active_nonoptimized", "2": "standby",
          "3": "unavailable", "15": "transitioning"}
_UNSET = {kind: {row.path for row in TABLE if row.unset and row.kind_of_object
                 == kind.partition(":")[0]} for kind in ALLOWED}
_SILENT = {kind: {row.path: row.if_absent for row in TABLE if row.if_absent is not None
                  and row.kind_of_object == kind.partition(":")[0]} for kind in ALLOWED}
_SHOWN = {"iscsi": "iSCSI"}


def _ways(store: Key, state: State) -> list[Registration]:
    """One registration for each way by which an initiator reaches the backstore."""
    found = []
    for target in state.targets:
        fabric = _SHOWN.get(target.fabric, target.fabric)
        for tpg in target.tpgs:
            mine = {lun.number for lun in tpg.luns if lun.backstore == store}
            found += [Registration(acl.initiator, "", 1, fabric, target.wwn, tpg.tag, mapped.lun,
                                   mapped.number)
                      for acl in tpg.acls for mapped in acl.mapped_luns
                      if mapped.lun is not None and mapped.lun in mine]
            if "nexus" in tpg.attributes:
                found += [Registration(tpg.attributes["nexus"], "", 1, fabric, target.wwn, tpg.tag,
                                       number, number) for number in sorted(mine)]
    return found


def _each_tpg(state: State, change: Callable[[Tpg], Tpg]) -> State:
    return replace(state, targets=tuple(
        replace(target, tpgs=tuple(map(change, target.tpgs))) for target in state.targets))


@st.composite
def states(draw: Draw, world: World, name: str = "a") -> State:
    """A state whose names, files, ports and numbers begin with ``name``, one of NAMES."""
    return _Making(draw, world, name).state()


def brief(state: State, world: World) -> str:
    """The state for people: what is as a fresh object says is left out."""
    lines = []
    for one in state.objects():
        kind = f"tpg:{one.fabric}" if isinstance(one, Tpg) else one.kind
        said = [f"{name}={value!r}" for name, value in sorted(one.attributes.items())
                if world.fresh.get(kind, {}).get(name) != value]
        for name in ("parameters", "reservations", "backstore", "lun"):
            if getattr(one, name, None):
                said.append(f"{name}={getattr(one, name)!r}")
        lines.append(" ".join([f"  {one.kind} {keys.display(one.key)}", *said]))
    return "\n".join(["", *lines])


# --- changes -------------------------------------------------------------------------------------
def with_attribute(state: State, key: Key, path: str, value: str) -> State:
    """The state with one attribute of one object set."""
    def each(ones: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(map(change, ones))

    def change(one: Any) -> Any:
        if key[:len(one.key)] != one.key:
            return one
        if one.key == key:
            kind = f"tpg:{one.fabric}" if one.kind == "tpg" else one.kind
            one = replace(one, attributes=settle(kind, {**one.attributes, path: value}))
        below = {name: each(getattr(one, name)) for name in (
            "alua_groups", "tpgs", "portals", "luns", "acls", "mapped_luns") if hasattr(one, name)}
        return replace(one, **below)

    return State(each(state.lu_groups), each(state.backstores), each(state.targets))


def changeable(state: State, world: World) -> Iterator[tuple[Key, str, str]]:
    """(object, path, kind) of every attribute that could be drawn."""
    for one in state.objects():
        kind = f"tpg:{one.fabric}" if isinstance(one, Tpg) else one.kind
        for path in sorted(ALLOWED.get(kind, {})):
            if path not in world.lacks and (path in world.fresh[kind] or path in one.attributes
                                            or path in _UNSET[kind]):
                yield one.key, path, kind


@st.composite
def changes(draw: Draw, world: World, state: State) -> State:
    """``state`` with up to three attributes changed to what the kernel takes."""
    there = list(changeable(state, world))
    for key, path, kind in draw(st.lists(st.sampled_from(there), min_size=1, max_size=3)):
        state = with_attribute(state, key, path, draw(ALLOWED[kind][path]))
    return state
