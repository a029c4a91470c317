#!/bin/busybox sh
# First process of a User-Mode Linux guest. Its root is the host's, read only, through hostfs.
# Given on the kernel's command line: E2E_JOB, the directory shared with the rig (and see agent.sh).
# busybox is used for mount because the host's own is set-uid and loses its power in a user namespace.
export PATH=/sbin:/usr/sbin:/bin:/usr/bin
for tool in mount mkdir ln insmod chroot uname stty; do
    alias $tool="/bin/busybox $tool"
done
mount -t proc proc /proc
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
modules=/usr/lib/uml/modules
insmod "$modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko"
lower=/ upper=/mnt/upper work=/mnt/work root=/mnt/root
. "$E2E_JOB/root.sh"
mount -t hostfs -o "$E2E_JOB" job ".$E2E_JOB"
while read -r folder; do
    mkdir -p ".$folder"
    mount -t hostfs -o "$folder" shared ".$folder"
done <"$E2E_JOB/writable"
export E2E_STDIO=/dev/ttyS0 E2E_STDERR=/dev/ttyS1
stty raw -echo <dev/ttyS0
stty raw -echo <dev/ttyS1
exec chroot . /bin/bash "$E2E_JOB/agent.sh"
