# A daemon in this guest is killed in the middle of writes to a slow device; nothing of it may land
# after its successor serves. Given: $lunette, the daemon; $kind, "device" or "file".
export LUNETTE_STATE_DIR=/run/lunette-state
portal=127.0.0.1:3260
url=iscsi://$portal/iqn.2026-11.dev.lunette:default/0
size=$((64 << 20))

modprobe brd rd_nr=1 rd_size=$((96 << 10))
modprobe dm-delay
sectors=$(blockdev --getsz /dev/ram0)
[ "$kind" != file ] || mkfs.ext4 -q -O ^has_journal /dev/ram0
# Writes and flushes wait a second, reads do not.
dmsetup create slow --noudevsync --noudevrules --table \
    "0 $sectors delay /dev/ram0 0 0 /dev/ram0 0 1000 /dev/ram0 0 1000"
dmsetup mknodes slow
if [ "$kind" = file ]; then
    mkdir /run/slow
    mount /dev/mapper/slow /run/slow
    dd if=/dev/zero of=/run/slow/disk.img bs=1M count=$((size >> 20)) conv=fsync status=none
    store=/run/slow/disk.img
else
    store=/dev/mapper/slow
fi

serve() {
    rm -f /run/out
    "$lunette" serve --lu "disk:$store,w,direct=on" --iscsi $portal >/run/out 2>/run/log &
    daemon=$!
    until grep -qs '^ready' /run/out; do
        kill -0 $daemon || { cat /run/out /run/log; return 1; }
        sleep 0.1
    done
}
# inflight: how many writes are on their way to the device.
inflight() {
    dmsetup status slow | awk '{ print $5 }'
}
client() {
    qemu-io -f raw "$@" $url
}

serve
client -c 'write -P 0x11 0 1M' -c flush
# 32 writes at a time, behind what was flushed.
qemu-img bench -w -f raw --pattern=0xaa -d 32 -s 64k -S 64k -o 1M -c 900 $url >/run/bench 2>&1 &
writer=$!
until [ "$(inflight)" -ge 8 ]; do
    kill -0 $writer
    sleep 0.05
done
kill -KILL $writer $daemon
serve
[ "$(inflight)" = 0 ]

client -c 'read -P 0x11 0 1M'
client -c 'write -P 0xbb 1M 58M' -c flush
# Longer than a write of the killed daemon could still take.
sleep 3
client -c 'read -P 0x11 0 1M' -c 'read -P 0xbb 1M 58M'
kill -TERM $daemon
wait $daemon
