"""The vhost-scsi targets of a guest, out of libvirt's XML of its domain.

libvirt tells a hook of a domain by its XML on standard input; vdsm by a file.  The XML is read for
two elements alone (libvirt, docs/formatdomain.rst, docs/drvqemu.rst)::

    domain/devices/hostdev[@type='scsi_host']/source[@protocol='vhost']/@wwpn
    domain/qemu:commandline/qemu:arg/@value        vhost-scsi-pci,wwpn=naa.…, or the same as JSON

Whatever else is there is skipped.  A document type and entities are refused: libvirt writes none.
"""
from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, NoReturn, Tuple
from xml.parsers import expat

from .. import errors

#: Bytes of a domain's XML, elements within elements, and targets of one guest, at most.
LIMIT, DEEPEST, MOST = 4 << 20, 64, 256
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0 "
_HOSTDEV = ["domain", "devices", "hostdev"]
_ARG = ["domain", f"{_QEMU}commandline", f"{_QEMU}arg"]
_WWPN = re.compile("naa\\.[0-9a-f]{16}(?:[0-9a-f]{16})?")
_DRIVER = re.compile("vhost-scsi(?:-[a-z-]+)?")


@dataclass(frozen=True)
class Domain:
    """A guest as its XML tells of it: its name, and its vhost-scsi targets (``vhost/naa.…``)."""

    name: str
    targets: Tuple[str, ...]


def parse(data: bytes) -> Domain:
    """The guest of this XML.  Raises BadCall, and nothing else, for what no libvirt writes."""
    if len(data) > LIMIT:
        _refuse(f"has more than {LIMIT} bytes")
    reader = _Reader()
    parser = expat.ParserCreate("utf-8", " ")
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = reader.declared
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        _refuse(f"is not XML: line {error.lineno}: {expat.ErrorString(error.code)}")
    except ValueError:  # a NUL, or half of a surrogate
        _refuse("is not XML")
    return Domain(reader.name.strip(), tuple(dict.fromkeys(
        f"vhost/{wwpn}" for wwpn in reader.wwpns)))


def _refuse(what: str) -> NoReturn:
    raise errors.BadCall(f"the domain's XML {what}", do="give the XML that libvirt has of it")


class _Reader:
    """expat's handlers."""

    def __init__(self) -> None:
        self.name = ""
        self.wwpns: List[str] = []
        self._path: List[str] = []
        self._hostdev = False  # whether the hostdev that was begun is a scsi_host

    def begin(self, name: str, attributes: Dict[str, str]) -> None:
        if not self._path and name != "domain":
            _refuse("is not of a domain")
        self._path.append(name)
        if len(self._path) > DEEPEST:
            _refuse(f"has more than {DEEPEST} elements within each other")
        if self._path == _HOSTDEV:
            self._hostdev = attributes.get("type") == "scsi_host"
        elif self._path == [*_HOSTDEV, "source"]:
            if self._hostdev and attributes.get("protocol") == "vhost":
                self._take(attributes.get("wwpn", ""))
        elif self._path == _ARG:
            for wwpn in of_argument(attributes.get("value", "")):
                self._take(wwpn)

    def _take(self, wwpn: str) -> None:
        if not _WWPN.fullmatch(wwpn.lower()):
            _refuse(f"has a vhost-scsi device with {errors.quoted(wwpn)} as WWPN")
        if len(self.wwpns) == MOST:
            _refuse(f"has more than {MOST} vhost-scsi devices")
        self.wwpns.append(wwpn.lower())

    def end(self, _name: str) -> None:
        self._path.pop()

    def text(self, data: str) -> None:
        if self._path == ["domain", "name"]:
            self.name += data

    def declared(self, *_: Any) -> None:
        _refuse("declares a document type")


def of_argument(value: str) -> Iterator[str]:
    """The WWPN of a vhost-scsi device in an argument of QEMU's command line: options, or JSON."""
    if value.startswith("{"):
        try:
            tree = json.loads(value)
        except (ValueError, RecursionError):
            return  # QEMU's to refuse
        if _DRIVER.fullmatch(str(tree.get("driver"))):
            yield str(tree.get("wwpn"))
        return
    driver, *options = value.split(",")
    if _DRIVER.fullmatch(driver):
        yield from (option[len("wwpn="):] for option in options if option.startswith("wwpn="))
