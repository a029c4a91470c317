# A systemd of its own, as the first process of namespaces of its own: its root is the host's below an overlay, so nothing that it does
# stays. It gets $folder: files/ is copied over the root, state/ is lunette's state directory, and init says which process it is.
# It ends when its first process is killed. The network namespace is that of the caller.
set -euo pipefail
folder=$1 program=$2

# Its control group is below one that no other has.
cgroups=$folder/cgroups
mount --make-rprivate /
mkdir "$cgroups"
mount -t cgroup2 cgroup2 "$cgroups"
remove() {
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
}
# What tests have left that were killed.
for left in "$cgroups"/lunette-e2e-systemd-*; do
    if [ -e "$left" ] && ! [ -e "/proc/${left##*-}" ]; then
        remove "$left"
    fi
done
own=$cgroups/lunette-e2e-systemd-$$
mkdir "$own"

begin() {
    local root=$folder/root unit
    read -r pid _ </proc/self/stat
    mkdir "$root"
    mount -t tmpfs -o mode=755 tmpfs "$root"
    mkdir "$root"/{upper,work,root}
    mount -t overlay -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" overlay "$root/root"
    root=$root/root
    mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
    # What is one for the whole machine is left alone.
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
    mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
    mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
    for device in null zero full random urandom tty; do
        : >"$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root"/dev/{pts,shm}
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
    mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    # Of the host's units there are the journal and what the targets themselves are.
    mount -t tmpfs -o mode=755 tmpfs "$root/etc/systemd"
    mkdir "$root/etc/systemd/system"
    for unit in "$root"/{usr/,}lib/systemd/system/*.target.wants/*; do
        unit=${unit##*/}
        case $unit in
            systemd-journald.service | systemd-journald.socket | systemd-journald-dev-log.socket) ;;
            *) ln -sf /dev/null "$root/etc/systemd/system/$unit" ;;
        esac
    done
    cp -R "$folder/files/." "$root"
    : >"$root/usr/bin/lunette"
    mount --bind "$program" "$root/usr/bin/lunette"
    mkdir -p -m 700 "$root/var/lib/private"
    mkdir -p "$root/var/lib/private/lunette"
    mount --bind "$folder/state" "$root/var/lib/private/lunette"
    echo "$pid" >"$folder/init"
    cd "$root"
    mkdir -p old
    pivot_root . old
    umount -l /old
    # By `container` it knows that the machine is not its own.
    exec env -i container=lunette PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --unit=basic.target --log-target=console --show-status=false
}

(
    echo 0 >"$own/cgroup.procs"
    export -f begin
    export folder program
    exec unshare --mount --pid --ipc --uts --cgroup --fork --kill-child bash -euo pipefail -c begin
) || true
while [ -e "$own" ]; do
    remove "$own"
    sleep 0.05
done
