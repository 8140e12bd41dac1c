"""The command that makes the key of two hosts."""
from __future__ import annotations

import argparse
from typing import Callable, Mapping

from .. import errors
from ..protocol import authentication
from .output import PROG, print_data, say_done
from .session import Signals, load_settings, require_root


def make_key(args: argparse.Namespace, signals: Signals) -> int:
    """Make this host's key where it has none, and say where it is; it is never shown."""
    require_root(args.verb)
    path = load_settings(args.config).key
    if not path:
        raise errors.BadSettings("[host] key is empty, so this host has no key",
                                 do="name the key's file there")
    with signals.later():
        authentication.make_key(path)
    if args.json:
        print_data({"path": path})
    say_done(args, f"{path} is the key of this host, of root alone; where another host lacks it, "
             "neither believes the other", f"carry it to the other host, by a way that nobody else "
             f"can read: scp -p {path} HOST:{path}; then {PROG} move")
    return errors.SAME


RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = {"keygen": make_key}
