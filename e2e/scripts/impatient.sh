# virtio_scsi lets no time-out expire: it asks for more time, again and again. This loads one that does
# not: the pointer to its virtscsi_eh_timed_out is no longer relocated, and so stays null.
cp "/lib/modules/$(uname -r)/kernel/drivers/scsi/virtio_scsi.ko" /run/virtio_scsi.ko
function=$(readelf -sW /run/virtio_scsi.ko | awk '$8 == "virtscsi_eh_timed_out" { sub("^0*", "", $2); print $2 }')
read -r offset entry < <(readelf -rW /run/virtio_scsi.ko | awk -v target="$function" '
    /^Relocation section/ { data = /\.rela\.data/; offset = $6; first = NR + 2 }
    data && $(NF - 2) == ".text" && $NF == target { print offset, NR - first }')
dd if=/dev/zero of=/run/virtio_scsi.ko bs=1 seek=$((offset + 24 * entry + 8)) count=4 conv=notrunc status=none
insmod /run/virtio_scsi.ko
