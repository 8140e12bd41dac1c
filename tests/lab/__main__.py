"""A person's way into the lab.

    python3 -m tests.lab                        a shell in a host with the stable kernel
    python3 -m tests.lab oldest newest          two hosts; `in b` changes host
    python3 -m tests.lab newest --run 'uname -a'
    python3 -m tests.lab --fetch                only fetch the kernels
"""
from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from . import kernels, libvirt, newest, qemu
from .bed import Lab
from .errors import HostTimeout, LabError
from .host import Host

try:
    import readline  # noqa: F401 - input() gets line editing by it
except ImportError:
    pass

_ROLES = (*kernels.ROLES, *qemu.ROLES)
_HELP = """What you type runs in the host that the prompt names (each line in a shell of its own).
  in NAME     go to another host          hosts       list them
  cut, heal   pull its cable, plug it in  kill, boot  power off, power on
  wipe        remove all targets          console     the end of its console
  end         leave (or Ctrl-D)
Shared by all hosts: {shared} and the disk /dev/ubda (/dev/vda where QEMU emulates)."""


def main() -> int:
    """Boot what was asked for; run one command, or what a person types."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roles", nargs="*", metavar="ROLE", default=["stable"],
                        help=f"kernels to boot: {', '.join(_ROLES)}")
    parser.add_argument("--run", metavar="CMD", help="run this in each host, and end")
    parser.add_argument("--fetch", action="store_true", help="only fetch all kernels")
    wanted = parser.parse_args()
    try:
        if wanted.fetch:
            with ThreadPoolExecutor() as pool:
                others = [pool.submit(fetch) for fetch in (libvirt.fetch, newest.fetch)]
                list(pool.map(_kernel, _ROLES))
                for other in others:
                    other.result()
            return 0
        with Lab() as bed:
            print(f"booting {', '.join(wanted.roles)} …", file=sys.stderr)
            hosts = bed.hosts(*wanted.roles)
            if wanted.run is not None:
                return max(_run(host, wanted.run) for host in hosts)
            _talk(bed, hosts)
            return 0
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _kernel(role: str) -> kernels.Kernel:
    return qemu.kernel(role) if role in qemu.ROLES else kernels.kernel(role)


def _run(host: Host, command: str, timeout: float = 3600) -> int:
    """Run a shell's command in a host, with its output on ours; return its exit code."""
    program = host.popen(["sh", "-c", command], cwd="/root")
    seen = [0, 0]
    code: int | None = None
    waited = 0.0
    try:
        while code is None and waited < timeout:
            try:
                code = program.wait(0.2)
            except HostTimeout:
                waited += 0.2
            for place, (stream, data) in enumerate(((sys.stdout, program.stdout_so_far()),
                                                    (sys.stderr, program.stderr_so_far()))):
                stream.write(data[seen[place]:].decode(errors="replace"))
                stream.flush()
                seen[place] = len(data)
    except KeyboardInterrupt:
        program.kill()
        print(file=sys.stderr)
    return 130 if code is None else code


def _talk(bed: Lab, hosts: list[Host]) -> None:
    """Read commands until a person has enough."""
    for host in hosts:
        print(host)
    print(_HELP.format(shared=bed.shared))
    here = hosts[0]
    while True:
        try:
            line = input(f"{here.name} ({here.release}) # ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        verb, _, rest = line.partition(" ")
        try:
            if verb == "end":
                return
            if verb == "in":
                here = bed.all.get(rest.strip(), here)
            elif verb == "hosts":
                print(*bed.all.values(), sep="\n")
            elif verb == "help":
                print(_HELP.format(shared=bed.shared))
            elif verb in ("cut", "heal"):
                getattr(bed, verb)(here)
            elif verb in ("kill", "boot", "wipe"):
                getattr(here, verb)()
            elif verb == "console":
                print(here.console_tail())
            elif line:
                _run(here, line)
        except LabError as error:
            print(f"lab: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
