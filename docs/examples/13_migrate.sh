#!/bin/sh
# Migrate a guest from this host by a command, and its targets with it.
#     13_migrate.sh GUEST HOST COMMAND...
#     13_migrate.sh vm1 b virsh migrate --live vm1 qemu+ssh://b/system
# Root's ssh leads to HOST.  With libvirt's hook installed on HOST, the first call is not needed.
set -eu
guest=$1 to=$2
shift 2
ssh "$to" lio-handover-hook pre-migrate "$guest" --from "$(uname -n)" # 1: try again; 2: refused
if "$@"; then
    exec lio-handover-hook post-migrate "$guest"
fi
echo "the migration failed; $guest goes on here" >&2
ssh "$to" lio-handover-hook failed "$guest"
exit 1
