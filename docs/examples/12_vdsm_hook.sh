#!/bin/sh
# A hook of oVirt's vdsm, the same on all hosts: a guest's targets go where the guest goes.
#     for name in before_vm_migrate_destination after_vm_migrate_source; do
#         install -D -m 755 12_vdsm_hook.sh /usr/libexec/vdsm/hooks/$name/50_lio_handover
#     done
# vdsm has libvirt's XML of the guest in the file $_hook_domxml; of a guest without a target of
# lio-handover's nothing is done.  Exit codes are vdsm's: 1, this failed; 2, and nothing else may go on.
set -u
case $0 in
    */before_vm_migrate_destination/*) call=pre-migrate ;;
    */after_vm_migrate_source/*) call=post-migrate ;;
    *) exit 0 ;;
esac
exec /usr/sbin/lio-handover-hook "$call" --xml "$_hook_domxml"
