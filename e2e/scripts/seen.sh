# Logs in to TARGET on PORTAL with the SETTINGS of open-iscsi, and prints a line for each unit at LUNS: what the kernel knows it
# by, and what is in it. No other unit may be there.
iscsi_node "$TARGET" "$PORTAL" $SETTINGS >&2
for lun in $LUNS; do
    disk=$(disk "$lun")
    wwid=$(cat "/sys/block/${disk#/dev/}/device/wwid")
    serial=$(sg_vpd -p sn "$disk" | sed -n 's/.*number: *//p')
    sum=$(dd if="$disk" bs=64k count=1 iflag=direct status=none | md5sum | cut -c1-8)
    geometry="$(blockdev --getsize64 "$disk") $(blockdev --getss "$disk") $(blockdev --getro "$disk")"
    echo "$TARGET $lun: $geometry $wwid serial=$serial $sum"
done
[ "$(ls -d /sys/class/scsi_disk/* | wc -l)" = "$(set -- $LUNS; echo $#)" ]
iscsiadm -m node -T "$TARGET" -p "$PORTAL" --logout >&2
iscsiadm -m node -T "$TARGET" -p "$PORTAL" -o delete
while ls /sys/class/scsi_disk/* >/dev/null 2>&1; do
    sleep 0.1
done
