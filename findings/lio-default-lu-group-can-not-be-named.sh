#!/bin/bash
# Linux 6.1.176 (Debian 12, user-mode-linux 6.1um4+b13), LIO: the name that `alua_lu_gp` of a new backstore reads back,
# default_lu_gp, can't be written to it (No such device), though the group's folder is there.  So a backstore that was put
# into another LU group seems to have no way back: NULL takes it out of its group, and leaves it in none.  Seen: it is in
# default_lu_gp again once the folder of the group that it is in is removed, which one would expect to be busy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
wanted=(user-mode-linux=6.1um4+b13 busybox-static=1:1.35.0-4+deb12u1+b1)
mkdir -p "$folder/state" "$folder/debs" "$folder/root"
touch "$folder/state/status"
(cd "$folder/debs" && apt-get -qq -o Dir::State::status="$folder/state/status" --no-install-recommends \
    -o Dir::Cache::archives="$folder/debs" --download-only -y install "${wanted[@]}")
for deb in "$folder"/debs/*.deb; do dpkg-deb -x "$deb" "$folder/root"; done
cat >"$folder/init" <<INIT
#!$folder/root/bin/busybox sh
run=$folder/root/bin/busybox
\$run mount -t proc proc /proc
\$run mount -t sysfs sysfs /sys
for name in configfs crct10dif_common crct10dif_generic crc-t10dif scsi_common scsi_mod target_core_mod; do
    for path in \$(\$run find $folder/root/usr/lib/uml/modules -name \$name.ko); do \$run insmod \$path; done
done
\$run mount -t configfs configfs /sys/kernel/config
cd /sys/kernel/config/target/core
\$run mkdir -p rd_mcp_0/disk alua/lu_gps/own
echo rd_pages=64 >rd_mcp_0/disk/control
echo 1 >rd_mcp_0/disk/enable
echo 7 >alua/lu_gps/own/lu_gp_id
tell() { echo "\$1:" \$(\$run cat rd_mcp_0/disk/alua_lu_gp); }
put() { echo \$1 >rd_mcp_0/disk/alua_lu_gp || echo "\$1: refused"; }
tell new
put own
tell own
put default_lu_gp
put NULL
tell NULL
put own
\$run rmdir alua/lu_gps/own && tell removed
\$run poweroff -f
INIT
chmod 755 "$folder/init"
timeout 60 "$folder/root/usr/bin/linux.uml" mem=128M uml_dir="$folder/" rootfstype=hostfs rootflags=/ ro \
    init="$folder/init" con=null con0=null,fd:1 quiet panic=-1 >"$folder/console" 2>&1 || true
seen=$(tr -d '\r' <"$folder/console" | grep -E '^(new|own|default_lu_gp|NULL|removed):' || true)
echo "$seen"
wanted="new: LU Group Alias: default_lu_gp LU Group ID: 0
own: LU Group Alias: own LU Group ID: 7
default_lu_gp: refused
NULL:
removed: LU Group Alias: default_lu_gp LU Group ID: 0"
[ "$seen" = "$wanted" ] || { cat "$folder/console" >&2; echo "it is not as it was seen" >&2; exit 1; }
