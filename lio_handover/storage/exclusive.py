"""Storage that one host alone may have open (DRBD, LVM, RBD): acquired inside the window only.

The commands are the administrator's, from the configuration file.  Each is run without a shell,
with the path as its last argument, as root, and must be harmless when it was run before: after a
crash, or a failure, it is run again.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Mapping, NoReturn, Optional, Sequence, Tuple, Union

from ..errors import StorageCommandFailed, StorageNotAllowed, shown
from ..model.keys import display
from ..model.objects import Key, State
from ..settings import Late, Settings
from ..system import external_program
from .block_devices import show
from .policy import matches

Proof = Mapping[str, Union[str, int, bool]]


@dataclass(frozen=True)
class DeferredOpen:
    """How the storage of one backstore is opened: by which rule, and with which evidence.

    ``proof`` is the source's evidence; ``allowed`` are the overrides that were given.
    """

    path: str
    rule: Late
    settings: Settings
    proof: Proof = field(default_factory=dict)
    allowed: Tuple[str, ...] = ()


def rule_for(settings: Settings, path: str) -> Optional[Late]:
    """The first section of the configuration whose patterns the path matches, or None."""
    return next((section for section in settings.late
                 if any(matches(path, pattern) for pattern in section.paths)), None)


def deferred_opens(state: State, settings: Settings, proofs: Mapping[str, Proof]) \
        -> Dict[Key, DeferredOpen]:
    """{backstore: how it is opened} for the backstores of ``state`` that match a [late …] section
    of
    this host; ``proofs``: the document's evidence by the backstore's name."""
    deferred: Dict[Key, DeferredOpen] = {}
    for store in state.backstores if settings.late else ():
        late = rule_for(settings, store.path) if store.path else None
        if late is not None:
            deferred[store.key] = DeferredOpen(store.path, late, settings,
                                               proofs.get(display(store.key), {}))
    return deferred


def acquire(settings: Settings, path: str) -> None:
    """Run the acquire command: this host may open the storage now.

    Raises StorageNotAllowed where the path is not late, StorageCommandFailed.
    """
    run("acquire", _rule(settings, path), path)


def release(settings: Settings, path: str) -> None:
    """Run the release command, once no backstore has the storage open: another host may have it.

    Raises StorageNotAllowed where the path is not late, StorageCommandFailed.
    """
    run("release", _rule(settings, path), path)


def _rule(settings: Settings, path: str) -> Late:
    late = rule_for(settings, path)
    if late is None:
        raise StorageNotAllowed(f"{show(path)} matches no [late …] section")
    return late


def run(what: str, late: Late, path: str) -> None:
    """Run the ``acquire`` or ``release`` command of a rule.  Raises StorageCommandFailed.

    A command that takes longer than the rule's timeout is killed, with all that it started.
    """
    words = [*(late.acquire if what == "acquire" else late.release), path]
    try:
        code, said = external_program.run(words, late.timeout)
    except OSError as error:
        _failed(what, late, words, f"can't be run: {error.strerror}")
    except external_program.TooLong as error:
        _failed(what, late, words, f"did not end within {late.timeout:g} s and {error.how}")
    if code:
        _failed(what, late, words, (f"ended with {code}" if code > 0 else
                                    f"was ended by signal {-code}") + (f": {said}" if said else ""))


def _failed(what: str, late: Late, words: Sequence[str], how: str) -> NoReturn:
    import shlex
    command = " ".join(map(shlex.quote, words))
    confined = external_program.sandbox()
    raise StorageCommandFailed(f"the {what} command of [late {late.name}] {how}",
                               do=f"see what it says: {shown(command)}"
                                  + (f"; {confined}" if confined else ""))
