# Commands that take longer than the kernel waits: the store of unit 0 holds every operation back for
# longer than two seconds. Unit 1 is busy all the time.
slow=$(disk 0)
busy=$(disk 1)
sg=$(generic "$slow")
device=/sys/block/${slow#/dev/}/device
read='28 00 00 00 00 00 00 00 08 00'

until [ -e /run/enough ]; do
    fio --name=verify --filename="$busy" --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=16k \
        --size=8M --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output=/run/fio.log
done &
load=$!

# The kernel gives up on one command after a second, and another one has come before it: that one ends
# first, because the store holds both back for as long. So it has ended when the abort is answered.
# (iorequest_cnt counts commands sent, iodone_cnt those that ended in time.) Again if the first
# second was longer than the store's.
count() { printf '%d' "$(cat "$device/$1")"; }
aborted=
until [ "$aborted" ]; do
    sent=$(count iorequest_cnt) done=$(count iodone_cnt)
    sg_raw --timeout=600 --request=4096 "$sg" $read >/run/witness 2>&1 &
    witness=$!
    until [ $(($(count iorequest_cnt) - sent)) = 1 ]; do :; done
    sg_raw --timeout=1 --request=4096 "$sg" $read >/run/said 2>&1 && continue
    [ $(($(count iodone_cnt) - done)) = 1 ]
    grep DID_TIME_OUT /run/said
    wait $witness
    aborted=1
done

# Many of the disk's own commands, each tried once.
dmesg -C
echo 0 >$device/scsi_disk/*/max_retries
echo 1 >"$device/timeout"
echo 1 >"$device/eh_timeout"
readers=
for ((n = 0; n < 8; n++)); do
    dd if="$slow" of=/dev/null bs=4k count=1 skip=$n iflag=direct &
    readers+=" $!"
done
for reader in $readers; do
    status 1 wait $reader
done

# An abort was enough each time: nothing was reset, and the disk is as good as before.
dmesg >/run/dmesg
grep 'I/O error' /run/dmesg
status 1 grep -iE 'reset|offline' /run/dmesg
[ "$(cat "$device/state")" = running ]
echo 60 >"$device/timeout"
dd if="$slow" of=/run/read bs=512 count=1 iflag=direct status=none
[ "$(tail -c 2 /run/read | od -An -tx1)" = ' 55 aa' ]
touch /run/enough
wait $load
grep 'err= 0' /run/fio.log
