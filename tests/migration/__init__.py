"""What QEMU does when a guest with a vhost-scsi disk is migrated.

See docs/reference/qemu-behaviour.md.

    python3 -m tests.migration [ROW...]

Two emulated hosts run a guest under nested KVM.  The guest writes numbered, checksummed records
that say which QEMU executes it, so that afterwards the disk tells who ran when.
"""
