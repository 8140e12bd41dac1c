#!/bin/sh
# First program of a lab host.  The machine's tree is the kernel's root, mounted read-only; the
# host gets an overlay over it, so whatever it writes ends with it and never reaches the machine.
# pivot_root and not chroot: kernel threads (APTPL files) follow the root of init.
# (Not busybox's shell: it starts its own commands through /proc/self/exe, which is the machine's
# until /proc is mounted, and there it is the kernel's program.)
set -e
# What was said must leave the machine before its first process ends.
trap 'sleep 1' EXIT
. "$LAB_HOME/env"
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
modprobe -d "$LAB_KERNEL" overlay
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
mount -t proc proc /mnt/root/proc
# All others at once: starting a program takes a host longer than mounting.
{
    echo "sysfs /mnt/root/sys sysfs
        devtmpfs /mnt/root/dev devtmpfs
        devpts /mnt/root/dev/pts devpts X-mount.mkdir
        tmpfs /mnt/root/dev/shm tmpfs X-mount.mkdir
        tmpfs /mnt/root/run tmpfs mode=755
        none /mnt/root$LAB_SHARED hostfs $LAB_SHARED"
    # What a host owns starts empty, whatever this machine keeps there.
    for folder in $LAB_OWN; do
        echo "tmpfs /mnt/root$folder tmpfs mode=755,X-mount.mkdir"
    done
} >/mnt/fstab
mount -t proc proc /proc
mount --all --fstab /mnt/fstab
cd /mnt/root
mkdir -p run/lock usr/lib/modules
mount -r -t hostfs -o "$LAB_KERNEL/lib/modules" none usr/lib/modules
# Images of tests lie below it, and none may be served out of a folder that others can write to.
chmod 0755 tmp
pivot_root . mnt
exec chroot . sh -c '
    umount -l /mnt
    cd "$LAB_CHECKOUT"
    exec "$LAB_PYTHON" -m tests.lab.agent
' <dev/console >dev/console 2>&1
