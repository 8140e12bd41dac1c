#!/bin/sh
# A hookscript of Proxmox VE, the same on all nodes: a guest's targets go where the guest goes.
#     install -D -m 755 11_proxmox_hookscript.sh /var/lib/vz/snippets/lio-handover
#     qm set 101 --hookscript local:snippets/lio-handover
# The guest's file is /etc/lio-handover/guests/101.conf.  Proxmox runs this as SCRIPT VMID PHASE.  On
# the node that a guest migrates to, pre-start comes before QEMU, with the source in PVE_MIGRATED_FROM,
# and a failure ends the migration.  The source's phases are not run for a migration, and nothing is
# called at the switch: lio-handover-vmstate does the rest, and takes all back where it fails.
set -u
vmid=${1-} phase=${2-}
[ -e "/etc/lio-handover/guests/$vmid.conf" ] || exit 0
case $phase in
    pre-start)
        [ -n "${PVE_MIGRATED_FROM-}" ] || exit 0
        exec /usr/sbin/lio-handover-hook pre-migrate "$vmid" --from "$PVE_MIGRATED_FROM"
        ;;
esac
exit 0
