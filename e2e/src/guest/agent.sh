# Runs in the guest, in the chroot, as its first process. It takes job numbers from the host,
# runs the script of that number and marks the end of its output on both streams.
# Given by the rig: E2E_JOB, E2E_NONCE, E2E_MODULES and the ports E2E_STDIO and E2E_STDERR.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
cd /root
exec 3<>"$E2E_STDIO" 4<>"$E2E_STDERR"

finish() {
    printf '\036%s %s.%s\n' "$1" "$E2E_NONCE" "$2" >&4
    printf '\036%s %s.%s\n' "$1" "$E2E_NONCE" "$2" >&3
}

ip link set lo up
missing=0
for module in ${E2E_MODULES//,/ }; do
    modprobe "$module" 2>&4 || missing=1
done
finish $missing 0
while read -r number <&3 && [ "$number" != off ]; do
    BASH_ENV=$E2E_JOB/functions.sh bash "$E2E_JOB/$number.sh" </dev/null >&3 2>&4 3>&- 4>&-
    finish $? "$number"
done
sync
echo o >/proc/sysrq-trigger
sleep 1000
