# Sourced by the init scripts, with the host's root on $lower: builds a root that can be written
# (overlay, upper layer in memory) below $root, and moves the kernel's file systems into it.
mount -t overlay -o nosuid,lowerdir="$lower",upperdir="$upper",workdir="$work" root "$root"
cd "$root"
mkdir -p dev proc sys run
mount -o move /proc proc
mount -o move /dev dev
mount -t sysfs sys sys
mkdir -p dev/pts dev/shm
mount -t devpts -o ptmxmode=666 pts dev/pts
for folder in run dev/shm; do
    mount -t tmpfs -o mode=1777 tmpfs "$folder"
done
mkdir -p run/lock
for link in fd:/proc/self/fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
    ln -sf "${link#*:}" "dev/${link%%:*}"
done
mkdir -p lib/modules ".$E2E_JOB"
mount -o bind "$modules" lib/modules
