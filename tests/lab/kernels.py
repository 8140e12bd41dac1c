"""Real kernels by role, out of Debian's own packages, kept in a cache outside the repository.

A kernel is the package `user-mode-linux` of one suite: the kernel as an ordinary program, and its
modules.  A newer suite's program wants a newer C library than this machine has, so that suite's
libc6 is unpacked next to it and a copy of the program is pointed there.  Nothing is installed.

apt fetches and checks the signatures as it does for the machine itself: its source entry for
Debian is copied with only the suite changed, so mirrors, proxies and keys stay the machine's own.
"""
from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from . import floating
from .errors import LabError

SUITES = {"oldest": "bookworm", "stable": "trixie", "newest": "sid"}
ROLES = tuple(SUITES)
_FORMAT = "3"       # raise it when what `_build` leaves in the cache changes


@dataclass(frozen=True)
class Kernel:
    """One bootable kernel: `linux` is the program, `root` holds lib/modules/<release>."""

    role: str
    suite: str
    release: str
    linux: Path
    root: Path

    @property
    def modules(self) -> Path:
        """The folder with this kernel's modules and modules.dep."""
        return self.root / "lib" / "modules" / self.release


def cache_folder() -> Path:
    """Where packages and kernels are kept between runs."""
    chosen = os.environ.get("LIO_HANDOVER_CACHE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base).absolute() / "lio-handover"


def kernel(role: str) -> Kernel:
    """The kernel of a role, fetched if this cache has none yet."""
    if role not in SUITES:
        raise LabError(f"no kernel has the role {role!r}; there are {', '.join(ROLES)}")
    found = cached(role, SUITES[role], _FORMAT, _build)
    twin = floating.twin_path(found.linux)
    return replace(found, linux=twin) if twin.exists() and floating.needed_here() else found


def cached(role: str, suite: str, form: str, build: Callable[[str, Path, Path], str]) -> Kernel:
    """The kernel of a role; where the cache has none, `build(suite, work, folder)` fills the folder
    `work`, which then becomes `folder`, and returns the kernel's release."""
    folder = cache_folder() / "kernels" / f"{role}-{suite}-{form}"
    if not (folder / "release").exists():
        with _locked(folder.parent / f"{role}.lock"):
            if not (folder / "release").exists():
                _fill(role, suite, folder, build)
    release = (folder / "release").read_text().strip()
    return Kernel(role, suite, release, folder / "linux", folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two sessions that start at once fetch once; the kernel drops the lock with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fill(role: str, suite: str, folder: Path, build: Callable[[str, Path, Path], str]) -> None:
    """Fetch, unpack, and only then give the folder its name: an interrupted fetch leaves none."""
    for stale in folder.parent.glob(f"{role}.partial-*"):
        shutil.rmtree(stale)
    if folder.exists():
        shutil.rmtree(folder)
    work = folder.parent / f"{role}.partial-{os.getpid()}"
    work.mkdir(parents=True)
    print(f"lab: fetching {role} (Debian {suite}) into {folder}",
          file=sys.stderr, flush=True)
    release = build(suite, work, folder)
    shutil.rmtree(work / "tree")
    (work / "release").write_text(release + "\n")
    work.rename(folder)


def _build(suite: str, work: Path, folder: Path) -> str:
    """User Mode Linux: the program, on a C library that may be newer than this machine's."""
    tree = unpack(suite, work, "user-mode-linux", "libc6")
    (work / "lib").mkdir()
    (tree / "usr/lib/uml/modules").rename(work / "lib" / "modules")
    releases = [entry.name for entry in (work / "lib" / "modules").iterdir()]
    if len(releases) != 1:
        raise LabError(f"user-mode-linux of {suite} has the modules of {releases}")
    linux = work / "linux"
    shutil.copy2(tree / "usr/bin/linux.uml", linux)
    library = _c_library(tree)
    kept = work / "libc"
    library.rename(kept)
    final = folder / "libc"
    run(["patchelf", "--set-interpreter", str(final / "ld-linux-x86-64.so.2"),
         "--set-rpath", str(final), str(linux)])
    floating.build_twin(linux)
    return releases[0]


def _c_library(tree: Path) -> Path:
    """The folder with libc.so.6; suites differ in whether /lib is a link into /usr."""
    for name in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"):
        if (tree / name / "libc.so.6").exists():
            return tree / name
    raise LabError("the libc6 package holds no libc.so.6 for x86-64")


def unpack(suite: str, work: Path, *names: str, follow: str = "") -> Path:
    """Fetch a suite's packages, and what they depend on where its name matches `follow`; return the
    folder `work`/tree with all that is in them."""
    tree = work / "tree"
    for package in _download(suite, work, names, follow):
        run(["dpkg", "-x", str(package), str(tree)])
    shutil.rmtree(work / "apt")
    return tree


def _download(suite: str, work: Path, names: Sequence[str], follow: str) -> list[Path]:
    """Let apt fetch and verify the suite's packages with a configuration of our own."""
    apt = work / "apt"
    for name in ("sources", "lists/partial", "archives/partial", "packages"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    name, text = _source_for(suite)
    (apt / "sources" / name).write_text(text)
    options = {
        "Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": apt / "sources",
        "Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": apt / "lists", "Dir::State::status": apt / "status",
        "Dir::Cache": apt, "Dir::Cache::archives": apt / "archives",
        # The cache may lie in a home directory, which apt's own user cannot enter.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none", "Acquire::Retries": "3",
        # Fail rather than go on with half of the lists, and never without a signature.
        "APT::Update::Error-Mode": "any", "APT::Get::AllowUnauthenticated": "false",
        "Acquire::AllowInsecureRepositories": "false",
    }
    settings = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    run(["apt-get", "-q", *settings, "update"])
    if follow:
        told = run(["apt-cache", *settings, "depends", "--recurse", "--important", *names])
        # A dependency that nothing provides is written in angle brackets.
        names = sorted({*names, *re.findall(rf"(?m)^({follow})$", told)})
    run(["apt-get", "-q", *settings, "download", *names], cwd=apt / "packages")
    found = sorted((apt / "packages").glob("*.deb"))
    if len(found) != len(names):
        raise LabError(f"apt fetched {[path.name for path in found]} of {suite}")
    return found


def _source_for(suite: str, apt: Path = Path("/etc/apt")) -> tuple[str, str]:
    """The machine's own apt entry for Debian, with the suite changed: (file name, text).

    Others have a suite called stable or bookworm, too; Debian's archive is the one whose address
    ends in debian, if there is one.
    """
    own = _own_names()
    found: list[tuple[bool, int, str, str]] = []
    for path in sorted(apt.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            for rank, name in enumerate(own):
                changed, address = _stanza_for(stanza, name, suite)
                found += [(not _is_archive(address), rank, "lab.sources", changed)] * bool(changed)
    for path in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else []:
            match = re.match(r"\s*deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*\bmain\b.*)", line)
            if match and match[3] in own:
                found.append((not _is_archive(match[2]), own.index(match[3]), "lab.list",
                              f"deb {match[1] or ''}{match[2]} {suite} main\n"))
    if not found:
        raise LabError(f"found no apt source for Debian's own suite in {apt}; the lab copies it to "
                       f"fetch kernels (looked for one of: {', '.join(own)})")
    _, _, name, text = min(found)
    return name, text


def _is_archive(address: str) -> bool:
    return address.rstrip("/").endswith("debian")


def _stanza_for(stanza: str, own: str, suite: str) -> tuple[str, str]:
    """The stanza for another suite, and its address; empty where it is not for the suite `own`."""
    text = "".join(f"{line}\n" for line in stanza.splitlines() if not line.startswith("#"))
    suites = re.search(r"(?mi)^Suites:(.*)$", text)
    address = re.search(r"(?mi)^URIs:\s*(.*?)\s*$", text)
    if (not suites or own not in suites[1].split() or not address
            or not re.search(r"(?mi)^Types:.*\bdeb\b", text)
            or not re.search(r"(?mi)^Components:.*\bmain\b", text)
            or re.search(r"(?mi)^Enabled:\s*no", text)):
        return "", ""
    text = re.sub(r"(?mi)^Suites:.*$", f"Suites: {suite}", text)
    text = re.sub(r"(?mi)^Components:.*$", "Components: main", text)
    return re.sub(r"(?mi)^Types:.*$", "Types: deb", text), address[1]


def _own_names() -> tuple[str, ...]:
    """The names under which this machine's archive may list its own suite."""
    text = Path("/etc/os-release").read_text()
    match = re.search(r"(?m)^VERSION_CODENAME=(\S+)", text)
    names = (match[1].strip('"'),) if match else ()
    return (*names, "oldoldstable", "oldstable", "stable", "testing", "unstable", "sid")


def run(command: list[str], cwd: Path | None = None) -> str:
    """Run a tool that should just work; what it said is the error when it does not."""
    try:
        done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed; scripts/test installs it") from None
    if done.returncode:
        raise LabError(f"{command[0]} failed ({done.returncode}):\n{done.stdout[-2000:]}")
    return done.stdout
