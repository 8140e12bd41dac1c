"""The readers of what others have written: a row each."""
from __future__ import annotations

from collections.abc import Mapping

from lio_handover import errors
from lio_handover.model.pr_texts import Ambiguous

from . import documents, hosts, peers, records, wishes
from .runner import BYTES, JSON, JSON_LINES, LINES, VALUES, Reader

_ROWS = (
    # another host's
    Reader("documents", JSON, documents.trees, documents.read_document, (errors.DocumentError,),
           documents.seal, share=6),
    Reader("sealed", BYTES, documents.sealed_bytes, documents.sealed,
           (errors.DocumentError,), share=2),
    Reader("messages", JSON, documents.message_trees, documents.read_messages,
           (errors.DocumentError,), share=6),
    Reader("answers", JSON, documents.reply_trees, documents.read_reply, (errors.DocumentError,),
           share=6),
    Reader("stream", JSON, documents.stream_trees, documents.read_stream,
           (errors.DocumentError,), share=5),
    Reader("service", VALUES, peers.jobs, peers.read_service, share=5),
    Reader("monitor", VALUES, peers.monitors, peers.read_monitor, share=4),
    Reader("peers", JSON, peers.peer_answers, peers.read_peer_answer, share=2),
    # what callers and people give
    Reader("domains", BYTES, peers.domains, peers.read_domain, (errors.BadCall,), share=3),
    Reader("calls", VALUES, peers.calls, peers.read_call, share=3),
    Reader("maps", LINES, documents.maps, documents.read_maps,
           (errors.BadMap, errors.Duplicate), share=3),
    Reader("wishes", LINES, wishes.files, wishes.read_file,
           (errors.DocumentError, errors.BadCall, errors.CannotChange, errors.NoSuchTarget),
           share=4),
    Reader("words", LINES, peers.words, peers.read_words, share=1),
    # this host's own
    Reader("journals", JSON_LINES, records.journals, records.read_journal,
           (errors.JournalBroken, errors.NoSuchHandover), share=6),
    Reader("owners", JSON, lambda: _trees(records.owners()), records.read_owners,
           (errors.JournalBroken,), share=3),
    Reader("boot", JSON_LINES, records.boots, records.read_boot, share=3),
    Reader("restored", JSON, lambda: _trees(records.restored()),
           records.read_restored, share=2),
    Reader("followed", JSON, lambda: _trees(records.followed()),
           records.read_followed, share=2),
    Reader("kept", JSON, lambda: _trees(records.kept_entries()),
           records.read_kept_entries, share=2),
    Reader("settings", LINES, records.configurations, records.read_settings,
           (errors.BadSettings,), share=6),
    Reader("guests", LINES, records.guest_files, records.read_guest, (errors.BadSettings,),
           share=3),
    # targetcli's
    Reader("savefile", JSON, records.save_files, records.read_save_file,
           (errors.SavefileBroken,), share=6),
    Reader("savefile-written", JSON, lambda: _trees(records.identities()),
           records.read_identities, share=1),
    Reader("units", LINES, records.units, records.read_units, (errors.SavefileBroken,), share=2),
    # the kernel's
    Reader("registrations", LINES, hosts.registrations, hosts.read_registrations, (Ambiguous,),
           share=4),
    Reader("aptpl", LINES, hosts.aptpl_files, hosts.read_aptpl, share=2),
    Reader("info", LINES, hosts.infos, hosts.read_info, share=2),
    Reader("attributes", BYTES, hosts.attributes, hosts.read_attribute, share=2),
    Reader("tree", BYTES, hosts.tree_files, hosts.read_tree,
           (errors.CannotRepresent, errors.StillRunning), share=2),
    Reader("proc", BYTES, hosts.proc_files, hosts.read_proc, (OSError,), share=2),
    Reader("replies", BYTES, hosts.device_replies, hosts.read_reply, share=3),
    Reader("uevents", BYTES, hosts.uevents, hosts.read_uevent, share=1),
)


def _trees(texts: object) -> list[object]:
    import json
    assert isinstance(texts, list)
    return [json.loads(text) for text in texts]


READERS: Mapping[str, Reader] = {row.name: row for row in _ROWS}
