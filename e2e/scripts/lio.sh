# The kernel's own target (LIO) serves a disk of SIZE bytes in memory as LUN 0 of TARGET on PORTAL, to everyone.
modprobe -a configfs target_core_mod target_core_file iscsi_target_mod
mount -t configfs config /sys/kernel/config
mkdir -p /var/target/pr /var/target/alua
cd /sys/kernel/config/target
mkdir -p core/fileio_0/disk
truncate -s "$SIZE" /run/lio.img
echo "fd_dev_name=/run/lio.img,fd_dev_size=$SIZE" >core/fileio_0/disk/control
# Without a serial number it names no VPD page.
echo 6f2a1c5e-0d1b-4c55-9b5e-2f7a3c1d9e80 >core/fileio_0/disk/wwn/vpd_unit_serial
echo 1 >core/fileio_0/disk/enable
echo 1 >core/fileio_0/disk/attrib/emulate_tpu
group=iscsi/$TARGET/tpgt_1
mkdir -p "$group/np/$PORTAL" "$group/lun/lun_0"
ln -s /sys/kernel/config/target/core/fileio_0/disk "$group/lun/lun_0/disk"
for setting in authentication=0 demo_mode_write_protect=0 generate_node_acls=1 cache_dynamic_acls=1; do
    echo "${setting#*=}" >"$group/attrib/${setting%=*}"
done
echo 1 >"$group/enable"
