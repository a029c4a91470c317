# Resets of a logical unit while every queue that it has carries commands. $disk is a writable block
# device of at least 96 MiB, $resets how many resets; what is on it is lost.
sg=$(generic "$disk")
name=${disk#/dev/}

# Two jobs for each processor, with blocks of their own that are read back and checked. Each processor
# has a queue, or shares the only one.
jobs=$((2 * $(nproc)))
until [ -e /run/enough ]; do
    fio --name=verify --filename="$disk" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite \
        --bsrange=4k-64k --size=4M --offset_increment=4M --numjobs=$jobs --thread \
        --cpus_allowed=0-$(($(nproc) - 1)) --cpus_allowed_policy=split \
        --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output=/run/fio.log || { cat /run/fio.log; exit 1; }
done &
load=$!
for ((n = 0; n < resets; n++)); do
    until read -r reads writes <"/sys/block/$name/inflight" && ((reads + writes > 0)); do
        kill -0 $load
    done
    sg_reset --device "$sg"
done
touch /run/enough
wait $load
[ "$(grep -c 'err= 0' /run/fio.log)" = $jobs ]
[ "$(cat "/sys/block/$name/device/state")" = running ]
rm /run/enough
