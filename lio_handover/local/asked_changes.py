"""A change of what this host serves as a call over D-Bus asks for it: its secrets in descriptors,
its storage within what the caller may have served."""
from __future__ import annotations

from functools import partial
from typing import Any, Dict, Mapping, Sequence

from .. import errors
from ..kernel.reader import Reader
from ..manage import schema, tree_file
from ..manage.settable import SECRETS
from ..model import objects
from ..model.diff import Create, Remove
from ..model.objects import State
from ..storage import policy
from ..system import document_file, secret_file
from ..verb_table import A_FILE, A_LINE, A_NODE
from . import results
from .ours import Ours

#: The kinds of objects that D-Bus has.
_ON_BUS = ("target", "backstore", "acl")


def arguments(host: Ours, asked: Mapping[str, Any], files: Sequence[int], takes: str) \
        -> Dict[str, Any]:
    """The arguments of verbs.Call for a request, {} for one that is no change.  ``files``: the
    descriptors of the call.  Raises BadCall, NotAuthorized, a DocumentError."""
    more: Dict[str, Any] = {}
    if takes == A_NODE:
        more = {"node": asked["node"], "words": asked["words"], "values": {
            name: _secret(value, files, asked["root"]) if name in SECRETS else value
            for name, value in asked["values"].items()}}
    elif takes == A_LINE:
        more = {"words": asked["line"], "preferences": asked["preferences"],
                "folder": asked["folder"]}
    elif takes == A_FILE:
        tree = tree_file.load(document_file.read_descriptor(files[0], tree_file.MAX_BYTES))
        schema.check(tree)
        more = {"tree": tree, "prune": asked["prune"],
                "secret": partial(_secret_file, bool(asked["root"]))}
    return {**more, "dry_run": asked["dry-run"], "who": asked["asserted_by"],
            "may_serve": partial(_may_serve, host, bool(asked["limited"]))} if more else {}


def same_objects(result: results.Result) -> bool:
    """Whether no object of D-Bus has come or gone by a change."""
    return isinstance(result, (results.Managed, results.Typed)) and not any(
        isinstance(change, (Create, Remove)) and change.object.kind in _ON_BUS
        for change in result.changes)


def _secret(value: str, files: Sequence[int], root: bool) -> str:
    """A secret of a call: @0, @1... of its descriptors; @/PATH of root's."""
    number = value[1:]
    if value.startswith("@/"):
        return objects.Secret(_secret_file(root, value[1:]))
    if value and not (value[0] == "@" and number.isdigit() and len(number) < 3
                      and int(number) < len(files)):
        raise errors.BadCall("a secret in a call can be read by whoever watches the bus",
                             do="hand it in by option secret-fds, and name it @0")
    return objects.Secret(secret_file.read_descriptor(
        files[int(number)], f"descriptor {number} of option secret-fds") if value else "")


def _secret_file(root: bool, path: str) -> str:
    if not root:
        raise errors.NotAuthorized("only root may have a file read that it names",
                                   do="hand secrets in by option secret-fds")
    return secret_file.read(path)


def _may_serve(host: Ours, limited: bool, state: State) -> None:
    """Raises StorageNotAllowed where only membership of the group authorizes the caller, and
    storage outside the configured one is served, or shall be: by the backstores of ``state``, and
    by all that its LUNs export."""
    if not limited:
        return
    exported = {lun.backstore for _, _, lun in state.all_luns() if lun.backstore}
    there = {store.key: store for store in Reader(host.fs).outline().backstores
             if store.key in exported}
    there.update((store.key, store) for store in state.backstores)
    errors.refuse([finding for store in there.values()
                   for finding in policy.findings(store, {}, host.settings)
                   if finding.error is errors.StorageNotAllowed])
