#!/bin/busybox sh
# First process of a QEMU guest: loads what the host's root needs, which comes over virtio-9p.
# Given on the kernel's command line: E2E_JOB, the directory shared with the rig, E2E_KERNEL, where
# the modules are on the host (and see agent.sh).
for tool in mount mkdir ln cat insmod chroot sleep; do
    alias $tool="/bin/busybox $tool"
done
mkdir -p /proc /dev /memory /lower
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*; do
    insmod "$module"
done
mount -t tmpfs tmpfs /memory
mkdir /memory/upper /memory/work /memory/root
share=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o "$share,ro,cache=loose" root /lower
mkdir -p "$E2E_JOB"
mount -t 9p -o "$share" job "$E2E_JOB"
lower=/lower upper=/memory/upper work=/memory/work root=/memory/root
modules=/lower$E2E_KERNEL/lib/modules
. "$E2E_JOB/root.sh"
mount -o bind "$E2E_JOB" ".$E2E_JOB"
# The ports appear some time after their module is loaded.
port() {
    while :; do
        for port in sys/class/virtio-ports/*; do
            [ "$(cat "$port/name" 2>/dev/null)" = "$1" ] && echo "/dev/${port##*/}" && return
        done
        sleep 0.1
    done
}
export E2E_STDIO=$(port stdio) E2E_STDERR=$(port stderr)
exec chroot . /bin/bash "$E2E_JOB/agent.sh"
