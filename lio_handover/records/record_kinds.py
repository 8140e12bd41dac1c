"""The records of a journal: of each kind its members, what it says, and what it changes.

This is the specification of the format on disk, too: docs/internals/journal.md has it as a table,
which a test compares.  It imports nothing: a boot reads journals by it, see cli/boot.py.
"""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping, Optional

    from .handover_facts import HandoverFacts

    Record = Mapping[str, Any]
    #: Takes the facts, which it changes, and the record; returns what changes of the Handover.
    Apply = Callable[[HandoverFacts, Record], Mapping[str, Any]]


#: The version of all files that are kept on disk: journal, owners.json, and the files beside them
#: that are no documents.  When it is raised: see CONTRIBUTING.md.
VERSION = 1


#: The types of members besides Python's own: (list or dict, the type of each entry or value).
TEXTS, TEXT_OF, NUMBER_OF = (list, str), (dict, str), (dict, int)
GATES, INITIATORS = (dict, TEXT_OF), (dict, (dict, TEXTS))


class Kind:
    """A kind of record: its ``members`` (name → type in JSON), those it ``may`` have, of which
    some come ``together``, what it ``says`` and how it is replayed."""

    def __init__(self, members: Mapping[str, Any], says: str, apply: Apply,
                 may: Optional[Mapping[str, Any]] = None, together: tuple[str, ...] = ()) -> None:
        self.members, self.says, self.apply, self.may = members, says, apply, may or {}
        self.together = set(together)

    def fits(self, record: Record) -> bool:
        """Whether the record has all its members, and no member of another type; then a journal of
        such records is read whole (Handover.check, check_fields)."""
        return all(_is(record[name], kind) for name, kind in self.members.items()) and all(
            _is(record[name], kind) for name, kind in self.may.items() if name in record) \
            and len(self.together & record.keys()) in (0, len(self.together))


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type, and a number within what Handover.check takes."""
    if isinstance(kind, tuple):
        return type(value) is kind[0] and all(
            _is(member, kind[1]) for member in (value if kind[0] is list else value.values()))
    if type(value) is not kind:
        return False
    return kind not in (int, float) or 0 <= value < (1 << 53 if kind is int else 1e11)


def _fact(*names: str) -> Apply:
    """A record of which each of these members is the fact of that name, or of ``FACT=MEMBER``."""
    pairs = [(name.split("=")[0], name.split("=")[-1]) for name in names]

    def apply(facts: HandoverFacts, record: Record) -> Record:
        for fact, member in pairs:
            value = record[member]
            setattr(facts, fact, tuple(value) if isinstance(value, list) else value)
        return {}
    return apply


def _nested(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: dict(inner) for name, inner in values.items()}


def _new(facts: HandoverFacts, record: Record) -> Record:
    facts.stores, facts.maps = dict(record["stores"]), tuple(record["maps"])
    facts.local = tuple(record["local"])
    return {"role": record["role"], "mode": record["mode"], "targets": tuple(record["targets"]),
            "peer": record["peer"], "since": float(record["at"])}


def _state(facts: HandoverFacts, record: Record) -> Record:
    facts.forced = f"{facts.fenced} (the word of {record['by']})" \
        if facts.fenced and record.get("words") else ""
    facts.fenced = ""
    if "gates" in record:
        facts.gates, facts.dynamic = _nested(record["gates"]), _nested(record["dynamic"])
    return {"state": record["state"], "epoch": int(record["epoch"]), "boot_id": record["boot"],
            "since": float(record["at"])}


def _begin(facts: HandoverFacts, record: Record) -> Record:
    facts.step, facts.verb = "", record["verb"]
    return {"busy": record["verb"], "error": ""}


def _end(facts: HandoverFacts, record: Record) -> Record:
    facts.fenced = ""
    facts.meddled = facts.meddled if record.get("error") else ""
    return {"busy": "", "error": record.get("error", "")}


def _kept(facts: HandoverFacts, record: Record) -> Record:
    facts.stale, facts.opened = bool(record["stale"]), record.get("opened", "")
    facts.stores = dict(record.get("stores", facts.stores))
    return {"digest": record["digest"]}


def _changed(facts: HandoverFacts, record: Record) -> Record:
    facts.stores = {name: serial for name, serial in facts.stores.items()
                    if name not in record["gone"]}
    facts.stores.update(record["stores"])
    facts.left = (*facts.left, *record["left"])
    return {}


def _loading(facts: HandoverFacts, record: Record) -> Record:
    facts.loading, facts.gone = record["boot"], ""
    return {}


def _loaded(facts: HandoverFacts, record: Record) -> Record:
    facts.loading, facts.stale = "", False
    facts.loaded = (record["boot"], record["digest"])
    facts.commands = {name: int(count) for name, count in record["commands"].items()}
    return {}


def _gone(facts: HandoverFacts, record: Record) -> Record:
    facts.loading, facts.loaded, facts.opened = "", ("", ""), ""
    facts.gone = record.get("boot", "")
    facts.objects = ("", {})
    return {}


def _objects(facts: HandoverFacts, record: Record) -> Record:
    facts.objects = record["boot"], {name: int(inode) for name, inode in record["inodes"].items()}
    return {}


def _shutting(facts: HandoverFacts, record: Record) -> Record:
    facts.shut = _nested(record["gates"])
    return {}


def _saved(facts: HandoverFacts, record: Record) -> Record:
    facts.saved, facts.unsaved = tuple(record["paths"]), record.get("why", "")
    return {}


def _probe(facts: HandoverFacts, record: Record) -> Record:
    facts.probe = True
    return {}


def _said(facts: HandoverFacts, record: Record) -> Record:
    facts.sent_messages.setdefault(record["message"], []).append(record["digest"])
    return {}


KINDS: Mapping[str, Kind] = {
    "new": Kind({"version": int, "role": str, "mode": str, "targets": TEXTS, "stores": TEXT_OF,
                 "maps": TEXTS, "local": TEXTS, "peer": str, "at": float},
                "the first line: the journal's version, this host's side, its targets, the "
                "backstores with their unit serials, mapped names, how the other host is reached",
                _new),
    "state": Kind({"state": str, "epoch": int, "boot": str, "at": float},
                  "this host's state is this one from now on; `gates` as they were before they "
                  "were shut; `words` by whom it was forced", _state,
                  {"gates": GATES, "dynamic": INITIATORS, "words": TEXTS, "by": str},
                  together=("gates", "dynamic")),
    "begin": Kind({"verb": str}, "a verb was begun", _begin),
    "step": Kind({"do": str}, "a step of that verb was begun", _fact("step=do")),
    "end": Kind({}, "the verb has ended, or failed", _end, {"error": str}),
    "kept": Kind({"digest": str, "stale": bool},
                 "a document was kept; `stale` where the kernel holds something else (said before, "
                 "too, with the digest of the one that was kept last)", _kept,
                 {"stores": TEXT_OF, "opened": str}),
    "changed": Kind({"stores": TEXT_OF, "gone": TEXTS, "left": TEXTS},
                    "what is served was changed, and the copy with it: backstores that came, with "
                    "their unit serials, those that went, and those of the first whose APTPL file "
                    "was there", _changed),
    "loading": Kind({"boot": str}, "a load, or a removal, was begun", _loading),
    "loaded": Kind({"boot": str, "digest": str, "commands": NUMBER_OF},
                   "the document of this digest is in the kernel; how many commands it had "
                   "executed then", _loaded),
    "opened": Kind({"boot": str}, "the gate was opened since the last copy", _fact("opened=boot")),
    "gone": Kind({}, "nothing of the target is in the kernel any more", _gone, {"boot": str}),
    "objects": Kind({"boot": str, "inodes": NUMBER_OF},
                    "the inode of each target's directory, by which it is told from another of "
                    "its name", _objects),
    "meddled": Kind({"said": str}, "what somebody else did to the target beside the service",
                    _fact("meddled=said")),
    "shutting": Kind({"gates": GATES}, "the gates as they were before a `clear`", _shutting),
    "differs": Kind({"said": TEXTS}, "what a boot found in targetcli's file other than in the copy",
                    _fact("differs=said")),
    "saved": Kind({"paths": TEXTS}, "the save files that hold the targets, or why none does",
                  _saved, {"why": str}),
    "survived": Kind({"boot": str}, "this boot's kernel was looked at, and has all that outlived "
                     "power", _fact("survived=boot")),
    "left": Kind({"serials": TEXTS, "boot": str},
                 "backstores whose APTPL file was there when the copy was kept",
                 _fact("left=serials", "kept_in=boot")),
    "away": Kind({"portals": TEXTS}, "portals that this host could not have",
                 _fact("away=portals")),
    "probe": Kind({}, "devices are asked for what configfs does not show of registrations",
                  _probe),
    "fenced": Kind({"said": str}, "what confirmed that the other host is off",
                   _fact("fenced=said")),
    "heard": Kind({"host": str}, "an authenticated message of the other side came, from this host",
                  _fact("other=host")),
    "said": Kind({"message": str, "digest": str}, "this message was said", _said),
}
