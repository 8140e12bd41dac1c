"""Hosts with real LIO kernels, for tests, the demo, the bench and for people.

    with lab.Lab() as bed:
        a, b = bed.hosts("oldest", "newest")
        a.run(["uname", "-r"])

Nothing here imports pytest or the inner parts of the product.
"""
from .bed import GATEWAY, Lab, MiB
from .errors import HostDied, HostTimeout, LabError, NotClean
from .host import Host, Program
from .initiators import Chap, Disk, Libiscsi, OpenIscsi, Session
from .kernels import ROLES, Kernel, cache_folder, kernel

__all__ = ["Chap", "Disk", "GATEWAY", "Host", "HostDied", "HostTimeout", "Kernel", "Lab",
           "LabError", "Libiscsi", "MiB", "NotClean", "OpenIscsi", "Program", "ROLES", "Session",
           "cache_folder", "kernel"]
