# Read by every script that runs in a guest.

# disk LUN [HOST]: waits for a logical unit and prints its block device.
disk() {
    local found
    until found=$(ls -d /sys/class/scsi_device/${2:-*}:*:"$1"/device/block/* 2>/dev/null); do
        sleep 0.1
    done
    echo "/dev/${found##*/}"
}

# generic DISK: prints the sg device of a block device.
generic() {
    echo "/dev/$(ls "/sys/block/${1#/dev/}/device/scsi_generic")"
}

# status EXPECTED COMMAND...: fails unless the command ends with that status. sg3_utils have one for
# each outcome: 3 medium error, 6 unit attention, 7 data protect, 9 invalid opcode, 22 LBA out of
# range.
status() {
    local expected=$1 got=0
    shift
    "$@" || got=$?
    [ "$got" = "$expected" ]
}

# iscsi_start: starts open-iscsi's daemon.
iscsi_start() {
    mkdir -p /run/lock/iscsi
    echo InitiatorName=iqn.2026-11.dev.lunette:guest >/etc/iscsi/initiatorname.iscsi
    modprobe -a iscsi_tcp sd_mod sg
    iscsid -f >/run/iscsid.log 2>&1 &
    until grep -q ISCSIADM_ABSTRACT_NAMESPACE /proc/net/unix; do
        sleep 0.1
    done
}

# iscsi_login PORTAL: logs in to every target that the portal names.
iscsi_login() {
    iscsiadm -m discovery -t sendtargets -p "$1"
    iscsiadm -m node --login
}

# iscsi_node TARGET PORTAL [KEY VALUE]...: logs in to a target without asking a portal for it, with those settings.
iscsi_node() {
    local node="-m node -T $1 -p $2" updates=()
    shift 2
    iscsiadm $node -o new
    while [ $# -gt 0 ]; do
        updates+=(-n "$1" -v "$2")
        shift 2
    done
    [ ${#updates[@]} = 0 ] || iscsiadm $node -o update "${updates[@]}"
    iscsiadm $node --login
}

# rounds_begin DISK FIO-OPTION...: writes and checks the disk in the background, with other data each time, until told to
# end. The number of rounds so far is in $ROUNDS, which is /run/rounds unless said otherwise.
rounds_begin() {
    local disk=$1 rounds=${ROUNDS:-/run/rounds}
    shift
    rm -f $rounds.enough
    echo 0 >$rounds
    (
        set +x
        round=0
        until [ -e $rounds.enough ]; do
            round=$((round + 1))
            fio --name=rounds --filename="$disk" --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite \
                --bsrange=4k-64k --randseed=$round --verify=crc32c --verify_fatal=1 --verify_state_save=0 "$@" \
                >$rounds.log 2>&1 || exit
            echo $round >$rounds
        done
        echo well >>$rounds.log
    ) </dev/null >/dev/null 2>&1 &
    echo $! >$rounds.pid
}

# rounds_run: fails unless they are still run.
rounds_run() {
    local rounds=${ROUNDS:-/run/rounds}
    kill -0 "$(cat $rounds.pid)" || { cat $rounds.log; return 1; }
}

# rounds_wait COUNT: waits for so many more rounds from their beginning to their end.
rounds_wait() {
    local rounds=${ROUNDS:-/run/rounds}
    local wanted=$(($(cat $rounds) + $1 + 1))
    until [ "$(cat $rounds)" -ge $wanted ]; do
        rounds_run
        sleep 0.1
    done
}

# rounds_end: waits for the last round, and fails unless all went well.
rounds_end() {
    local rounds=${ROUNDS:-/run/rounds}
    touch $rounds.enough
    while rounds_run 2>/dev/null; do
        sleep 0.1
    done
    grep -x well $rounds.log
}

# pulse_begin NAME DISK: reads a block of the disk now and then, until told to end.
pulse_begin() {
    fio --name=pulse --filename="$2" --direct=1 --ioengine=psync --rw=randread --bs=512 --rate_iops=50 --time_based \
        --runtime=100000 --output-format=json --output="/run/$1.pulse" </dev/null >/dev/null 2>&1 &
    echo $! >"/run/$1.pulse.pid"
}

# pulse_end NAME: prints how long the longest of these reads took, in milliseconds, and fails if one has failed.
pulse_end() {
    local process
    process=$(cat "/run/$1.pulse.pid")
    kill -INT "$process"
    while kill -0 "$process" 2>/dev/null; do
        sleep 0.1
    done
    sed -n '/^{/,$p' "/run/$1.pulse" | jq -M -e '.jobs[0] | select(.error == 0) | .read.clat_ns.max / 1000000 | floor'
}
