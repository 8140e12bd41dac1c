"""Hand Linux SCSI targets (LIO) over between hosts, with their persistent reservations.

    import lio_handover as lio

    host = lio.Host()                                  # this host: show, check, freeze, export …
    with host.frozen("iscsi/iqn.2003-01.org.example:db"):
        host.export("iscsi/iqn.2003-01.org.example:db").save("/srv/db.json")

    plan = host.plan(lio.load("/srv/db.json"))         # on the other host
    host.apply(plan)

    lio.move(["iscsi/iqn.2003-01.org.example:db"], to="b")   # or all of it at once

Whatever is refused or fails is an ``errors.HandoverError``: ``what`` failed, what was ``changed``,
what to do ``next``; ``findings`` has all the reasons where there are several.  See docs/api.md.
"""
__version__ = "0.1.0"
__all__ = ["Host", "State", "Document", "Plan", "Finding", "load", "move", "connect", "errors",
           "model", "__version__"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import errors, model
    from .library import Document, Finding, Host, Plan, State, connect, load, move


def __getattr__(name: str) -> object:
    """Import a name of the API at its first use: the command line does without most of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("errors", "model"):  # as `from .. import errors` asks, wherever that comes first
        __import__(f"{__name__}.{name}")
        return globals()[name]
    from .started import LIBRARY
    __import__(LIBRARY)
    return getattr(globals()["library"], name)


def __dir__() -> "list[str]":
    return sorted(__all__)
