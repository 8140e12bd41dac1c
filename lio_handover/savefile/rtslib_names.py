"""The names that rtslib's restore makes of the names in a save file.

A name may be spelled in many ways; the kernel's object gets one (rtslib/utils.py:_cleanse_wwn and
normalize_wwn, rtslib/target.py:Target.__init__, rtslib/fabric.py). 2.1 and 2.2 differ in which NAA
names they take: the types here are those that either takes.
"""
from __future__ import annotations

import re
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, NamedTuple, Pattern, Tuple

from ..model import plugins
from ..model.objects import Backstore, State
from ..model.plugins import Data

#: (kernel's plugin, name) of a backstore
Store = Tuple[str, str]


class WwnType(NamedTuple):
    """A type of WWN: ``written`` makes one spelling of all (else it is lower case, no more);
    ``taken`` by one of the versions, ``by_all`` of them."""

    taken: Pattern[str]
    by_all: Pattern[str]
    prefixed: bool


def _type(taken: str, by_all: str = "", prefixed: bool = True) -> WwnType:
    return WwnType(re.compile(taken), re.compile(by_all or taken), prefixed)


WWN_TYPES: Mapping[str, WwnType] = {
    "iqn": _type(r"iqn\.[0-9]{4}-[0-1][0-9]\.(?!.*[ _]).*\..*", prefixed=False),
    "naa": _type(r"naa\.[125c-f][0-9a-f]{15}$", r"naa\.[125][0-9a-f]{15}$"),
    "eui": _type(r"eui\.[0-9a-f]{16}$"),
    "ib": _type(r"ib\.[0-9a-f]{32}$"),
    "free": _type("", prefixed=False),
}


class Fabric(NamedTuple):
    """A fabric: its folder in the target tree, the types of WWN that it takes, in the order in
    which rtslib tries them, and how a WWN is written there."""

    folder: str
    types: Tuple[str, ...]
    written: Callable[[str], str] = str


def _coloned(wwn: str) -> str:
    digits = wwn[4:]
    return ":".join(digits[at:at + 2] for at in range(0, len(digits), 2))


#: rtslib's name of a fabric (rtslib/fabric.py:fabric_modules) → what it is
FABRICS: Mapping[str, Fabric] = {
    "iscsi": Fabric("iscsi", ("iqn", "naa", "eui")),
    "vhost": Fabric("vhost", ("naa",)),
    "loopback": Fabric("loopback", ("naa",)),
    "xen-pvscsi": Fabric("xen-pvscsi", ("naa",)),
    "qla2xxx": Fabric("qla2xxx", ("naa",), _coloned),
    "efct": Fabric("efct", ("naa",), _coloned),
    "tcm_fc": Fabric("fc", ("naa",), _coloned),
    "srpt": Fabric("srpt", ("ib",), lambda wwn: "0x" + wwn[3:]),
    "sbp": Fabric("sbp", ("eui",), lambda wwn: wwn[4:]),
    "ibmvscsis": Fabric("ibmvscsis", ("free",)),
}
#: Characters that end a backstore's name (rtslib/tcm.py:StorageObject.__init__).
_NO_NAME = re.compile(r"[/ \t\n]")


def wwns(fabric: str, spelling: Any) -> FrozenSet[str]:
    """The WWNs, as the target tree has them, that this spelling may become; none where rtslib
    refuses it."""
    row = FABRICS.get(fabric)
    if row is None or not isinstance(spelling, str):
        return frozenset()
    candidates = []
    for name in row.types:
        kind, wwn = WWN_TYPES[name], spelling.strip().lower()
        if kind.prefixed:
            wwn = (wwn[2:] if wwn.startswith("0x") else wwn).replace("-", "").replace(":", "")
            if not wwn.startswith(("naa.", "eui.", "ib.")):
                wwn = f"{name}.{wwn}"
        if kind.taken.match(wwn):
            candidates.append(row.written(wwn))
        if kind.by_all.match(wwn):
            break
    return frozenset(candidates)


def targets(entry: Mapping[str, Any]) -> FrozenSet[str]:
    """The targets, ``iscsi/iqn.…`` as the target tree has them, that an entry of ``targets`` may
    become; and the one that it names letter for letter, which rtslib may refuse."""
    fabric, wwn = entry.get("fabric"), entry.get("wwn")
    if not isinstance(fabric, str) or not isinstance(wwn, str):
        return frozenset()
    folder = FABRICS[fabric].folder if fabric in FABRICS else fabric
    # A wrong prefix of old versions is set right before all else.
    right = "naa.5" + wwn[5:] if wwn.startswith("naa.6") else wwn
    return frozenset(f"{folder}/{name}" for name in (wwn, *wwns(fabric, right)))


def store(entry: Mapping[str, Any]) -> Store:
    """The backstore that an entry of ``storage_objects`` becomes."""
    plugin = str(entry.get("plugin"))
    return _kernel_plugin(plugin), str(entry.get("name"))


def _kernel_plugin(name: str) -> str:
    row = plugins.BY_RTSLIB_NAME.get(name)
    return row.name if row else name


def path_of(plugin: str, name: str) -> str:
    """A backstore as a LUN names it."""
    return f"/backstores/{plugins.of(plugin).rtslib_name}/{name}"


def stores_named(value: Any) -> FrozenSet[Store]:
    """Every backstore that anything in an entry names, whatever its shape: as rtslib takes a name
    apart (rtslib/target.py:LUN.setup)."""
    stores: List[Store] = []
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left += [*part, *part.values()]
        elif isinstance(part, list):
            left += part
        elif isinstance(part, str) and part.count("/") == 3:
            plugin, name = part.split("/")[2:]
            stores.append((_kernel_plugin(plugin), name))
    return frozenset(stores)


def refused(state: State) -> str:
    """The first name of ``state`` that rtslib would refuse, or change; "" where there is none."""
    for target in state.targets:
        if wwns(target.fabric, target.wwn) != {target.wwn} or target.wwn.startswith("naa.6"):
            return target.name
        for tpg in target.tpgs:
            for acl in tpg.acls:
                if wwns(target.fabric, acl.initiator) != {acl.initiator}:
                    return f"{acl.initiator} of {target.name}"
    for backstore in state.backstores:
        if _NO_NAME.search(backstore.name) or plugins.of(backstore.plugin).data is Data.HANDLER \
                and _odd_config(backstore):
            return f"{backstore.plugin}/{backstore.name}"
    return ""


def _odd_config(backstore: Backstore) -> bool:
    """rtslib/tcm.py:UserBackedStorageObject."""
    config = backstore.parameters.get("dev_config", "")
    return "/" not in config or ":" in config


def chap(attributes: Mapping[str, str]) -> Dict[str, str]:
    """CHAP of a TPG or ACL in rtslib's words."""
    return {name: attributes[path] for path, name in _CHAP.items() if attributes.get(path)}


_CHAP = {"auth/userid": "chap_userid", "auth/password": "chap_password",
         "auth/userid_mutual": "chap_mutual_userid",
         "auth/password_mutual": "chap_mutual_password"}
