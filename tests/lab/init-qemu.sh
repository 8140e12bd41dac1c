#!/bin/busybox sh
# First program of an emulated host, from the kernel's archive: the same tree as init.sh makes, with
# the machine's files coming over 9p, and an overlay over them that ends with the host.
set -e
export PATH=/bin
/bin/busybox --install -s /bin
# What was said must leave the machine before its first process ends.
trap 'sleep 1' EXIT
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    insmod "$module"
done
NINE=trans=virtio,version=9p2000.L,msize=524288
mount -t 9p -o "$NINE,ro,cache=loose" tree /tree
. "/tree$LAB_HOME/env"
export PATH=/bin
mount -t tmpfs tmpfs /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/tree,upperdir=/memory/upper,workdir=/memory/work overlay /root
cd /root
for folder in proc sys dev; do
    mount --move "/$folder" "$folder"
done
mkdir -p dev/pts dev/shm
# Images of tests lie below it, and none may be served out of a folder that others can write to.
chmod 0755 tmp
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p usr/lib/modules run/lock
mount --bind "/tree$LAB_KERNEL/lib/modules" usr/lib/modules
# What a host owns starts empty, whatever this machine keeps there.
for folder in $LAB_OWN; do
    mkdir -p "./$folder"
    mount -t tmpfs -o mode=755 tmpfs "./$folder"
done
# Nothing cached: other hosts write there too.
mount -t 9p -o "$NINE,cache=none" shared "./$LAB_SHARED"
trap - EXIT
exec switch_root /root /bin/sh -c '
    . "$1/env"
    # All hosts call their network device the same.
    modprobe virtio_net
    ip link set eth0 name vec0
    cd "$LAB_CHECKOUT"
    exec "$LAB_PYTHON" -m tests.lab.agent
' host "$LAB_HOME" <dev/console >dev/console 2>&1
