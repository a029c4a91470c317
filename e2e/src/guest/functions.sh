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

# iscsi_login PORTAL: starts open-iscsi's daemon and logs in to every target of the portal.
iscsi_login() {
    mkdir -p /run/lock/iscsi
    echo InitiatorName=iqn.2026-11.dev.lunette:guest >/etc/iscsi/initiatorname.iscsi
    modprobe -a iscsi_tcp sd_mod sg
    iscsid -f >/run/iscsid.log 2>&1 &
    until grep -q ISCSIADM_ABSTRACT_NAMESPACE /proc/net/unix; do
        sleep 0.1
    done
    iscsiadm -m discovery -t sendtargets -p "$1"
    iscsiadm -m node --login
}
