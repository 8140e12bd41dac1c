#!/bin/bash
# Linux 6.1.176 (Debian 12, linux-image-6.1.0-50-amd64): what was put into a virtqueue and kicked before
# VHOST_SCSI_SET_ENDPOINT stays there when the endpoint is set, until the queue is kicked once more.  Seen: TEST UNIT READY
# has no answer two seconds after SET_ENDPOINT, and has it at once after a second kick.  One would expect that the endpoint
# starts what waits, as vhost-net's SET_BACKEND and vhost-vsock's SET_RUNNING look at their queues: QEMU hands the kick
# over (and kicks once itself) before it sets the endpoint, so a request that another host left in the ring is not begun.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ziglang==0.13.0  # its C compiler makes a static program
release=6.1.0-50-amd64
wanted=("linux-image-$release=6.1.176-1" busybox-static=1:1.35.0-4+deb12u1+b1 seabios=1.16.2-1
        qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3
        qemu-system-data=1:7.2+dfsg-7+deb12u18)
mkdir -p "$folder/state" "$folder/debs" "$folder/root" "$folder/initrd/bin"
touch "$folder/state/status"
(cd "$folder/debs" && apt-get -qq -o Dir::State::status="$folder/state/status" --no-install-recommends \
    -o Dir::Cache::archives="$folder/debs" --download-only -y install "${wanted[@]}")
for deb in "$folder"/debs/*.deb; do dpkg-deb -x "$deb" "$folder/root"; done
modules="$folder/root/lib/modules/$release/kernel"
number=10
for path in fs/configfs/configfs crypto/crct10dif_common crypto/crct10dif_generic lib/crc-t10dif drivers/scsi/scsi_common \
    drivers/scsi/scsi_mod drivers/target/target_core_mod drivers/vhost/vhost_iotlb drivers/vhost/vhost \
    drivers/vhost/vhost_scsi; do
    [ ! -e "$modules/$path.ko" ] || cp "$modules/$path.ko" "$folder/initrd/$((number++)).ko"
done
cp "$folder/root/bin/busybox" "$folder/initrd/bin/busybox"
cat >"$folder/initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for module in /*.ko; do insmod "$module" || echo "modules: $module"; done
mount -t configfs configfs /sys/kernel/config
cd /sys/kernel/config/target
mkdir -p core/rd_mcp_0/disk
echo rd_pages=64 >core/rd_mcp_0/disk/control
echo 1 >core/rd_mcp_0/disk/enable
tpg=vhost/naa.5001405000000001/tpgt_1
mkdir -p $tpg/lun/lun_0
ln -s "$PWD/core/rd_mcp_0/disk" $tpg/lun/lun_0/disk
echo naa.5001405000000002 >$tpg/nexus
cd /
/client naa.5001405000000001
poweroff -f
INIT
chmod 755 "$folder/initrd/init"
cat >"$folder/client.c" <<'CLIENT'
/* A vhost-scsi client with one request: TEST UNIT READY to LUN 0 of TPG 1. */
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_scsi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { QUEUES = 3, REQUESTS = 2, SIZE = 8 };
static char memory[1 << 16] __attribute__((aligned(4096)));

static void must(int result, const char *what) {
    if (result < 0) { perror(what); exit(1); }
}

int main(int count, char **words) {
    struct { uint32_t nregions, padding; struct vhost_memory_region region; } table = {
        1, 0, {(uintptr_t)memory, sizeof memory, (uintptr_t)memory, 0}};
    uint64_t features = 1ULL << 32; /* VIRTIO_F_VERSION_1 */
    int device = open("/dev/vhost-scsi", O_RDWR), kick = -1;
    must(device, "open");
    must(ioctl(device, VHOST_SET_OWNER), "owner");
    must(ioctl(device, VHOST_SET_FEATURES, &features), "features");
    must(ioctl(device, VHOST_SET_MEM_TABLE, &table), "memory");
    char *ring = memory + REQUESTS * 0x3000;
    struct vring_desc *descriptors = (void *)ring;
    struct vring_avail *available = (void *)(ring + 0x1000);
    struct vring_used *used = (void *)(ring + 0x2000);
    struct virtio_scsi_cmd_req *request = (void *)(memory + 0xa000);
    struct virtio_scsi_cmd_resp *response = (void *)(memory + 0xb000);
    request->lun[0] = 1;
    request->lun[1] = 1;
    request->lun[2] = 0x40;
    descriptors[0] = (struct vring_desc){(uintptr_t)request, sizeof *request, VRING_DESC_F_NEXT, 1};
    descriptors[1] = (struct vring_desc){(uintptr_t)response, sizeof *response, VRING_DESC_F_WRITE, 0};
    available->ring[0] = 0;
    available->idx = 1;
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        char *base = memory + queue * 0x3000;
        struct vhost_vring_state size = {queue, SIZE}, begin = {queue, 0};
        struct vhost_vring_addr places = {queue, 0, (uintptr_t)base, (uintptr_t)(base + 0x2000),
                                          (uintptr_t)(base + 0x1000), 0};
        kick = eventfd(1, 0); /* kicked already */
        struct vhost_vring_file kicks = {queue, kick}, calls = {queue, eventfd(0, 0)};
        must(ioctl(device, VHOST_SET_VRING_NUM, &size), "size");
        must(ioctl(device, VHOST_SET_VRING_BASE, &begin), "base");
        must(ioctl(device, VHOST_SET_VRING_ADDR, &places), "addresses");
        must(ioctl(device, VHOST_SET_VRING_CALL, &calls), "call");
        must(ioctl(device, VHOST_SET_VRING_KICK, &kicks), "kick");
    }
    sleep(1);
    struct vhost_scsi_target target = {1, "", 0, 0};
    strcpy(target.vhost_wwpn, words[1]);
    must(ioctl(device, VHOST_SCSI_SET_ENDPOINT, &target), "endpoint");
    sleep(2);
    printf("answers: %d after SET_ENDPOINT", *(volatile uint16_t *)&used->idx);
    eventfd_write(kick, 1);
    sleep(2);
    printf(", %d after a second kick\n", *(volatile uint16_t *)&used->idx);
    must(ioctl(device, VHOST_SCSI_CLEAR_ENDPOINT, &target), "clear");
    return 0;
}
CLIENT
"$folder/venv/bin/python" -m ziglang cc -target x86_64-linux-musl -static -o "$folder/initrd/client" "$folder/client.c"
(cd "$folder/initrd" && mkdir dev proc sys && find . | "$folder/root/bin/busybox" cpio -o -H newc 2>"$folder/cpio.log") >"$folder/initrd.cpio"
library="$folder/root/lib/x86_64-linux-gnu:$folder/root/usr/lib/x86_64-linux-gnu"
QEMU_MODULE_DIR="$folder/root/usr/lib/x86_64-linux-gnu/qemu" timeout 300 \
    "$folder/root/lib64/ld-linux-x86-64.so.2" --library-path "$library" "$folder/root/usr/bin/qemu-system-x86_64" \
    -L "$folder/root/usr/share/qemu" -L "$folder/root/usr/share/seabios" -machine q35 -accel tcg -cpu qemu64 -m 256 \
    -nodefaults -display none -no-reboot -serial "file:$folder/console" -kernel "$folder/root/boot/vmlinuz-$release" \
    -initrd "$folder/initrd.cpio" -append "console=ttyS0 quiet panic=-1"
seen=$(tr -d '\r' <"$folder/console" | grep -E '^(answers|modules)' || true)
echo "$seen"
[ "$seen" = "answers: 0 after SET_ENDPOINT, 1 after a second kick" ] || { cat "$folder/console" >&2; echo "it is not as it was seen" >&2; exit 1; }
