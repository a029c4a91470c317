# File systems on two disks, and on a third one notes of what is safe there. Given: $files, how many files.
notes=$(disk 2)

# note UNIT NUMBER: the files up to this one are safe.
note() {
    printf '%-4096s' "safe $1 $2" >/run/note
    dd if=/run/note of="$notes" bs=4096 oflag=direct status=none
}

# content NUMBER: the bytes of a file.
content() {
    set +o pipefail
    yes "file $1" | head -c $(($1 * 7919 % 60000 + 1))
    set -o pipefail
}

work() {
    local unit=$1 disk=$2 n
    mkfs.ext4 -q -F -b 4096 -J size=4 "$disk"
    mkdir -p /run/tree
    mount "$disk" /run/tree
    sync
    note $unit 0
    for ((n = 1; n <= files; n++)); do
        # Nobody waits for these.
        content $((n * 3)) >/run/tree/loose$((n % 7))
        rm -f /run/tree/loose$(((n + 3) % 7))
        mv /run/tree/loose$((n % 7)) /run/tree/moved$((n % 5))
        content $n >/run/tree/f$n
        echo "line $n" >>/run/tree/log
        sync /run/tree/f$n /run/tree/log
        note $unit $n
    done
    umount /run/tree
}

work 0 "$(disk 0)"
through=$(disk 1)
echo 'write through' >"$(echo /sys/block/${through#/dev/}/device/scsi_disk/*/cache_type)"
work 1 "$through"
