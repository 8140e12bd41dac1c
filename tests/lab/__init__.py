"""Hosts with real LIO kernels, for tests, the demo, the bench and for people.

    with lab.Lab() as bed:
        a, b = bed.hosts("oldest", "newest")
        a.run(["uname", "-r"])

Nothing here imports pytest or the inner parts of the product.
"""
from .bed import GATEWAY, Lab, MiB
from .errors import HostDied, HostTimeout, LabError, NotClean
from .host import Host, Program
from .kernels import ROLES, Kernel, cache_folder, kernel

__all__ = ["GATEWAY", "Host", "HostDied", "HostTimeout", "Kernel", "Lab", "LabError", "MiB",
           "NotClean", "Program", "ROLES", "cache_folder", "kernel"]
