"""A guest that libvirt migrates again and again: what becomes of it where a party is killed, and
what it costs.  See `python3 -m tests.manager --help`.

Two User Mode Linux hosts have libvirtd, QEMU and the service; an iSCSI target stands in for the
guest's vhost-scsi target (support/inlibvirt.py), and the guest is firmware that says a number 100
times a second (migration/firmware.py), so that afterwards it is known who ran when.
"""
