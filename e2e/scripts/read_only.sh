# A logical unit that refuses writes, in $disk.
sg=$(generic "$disk")
[ "$(blockdev --getro "$disk")" = 1 ]
dd if="$disk" of=/dev/null bs=64k count=1 iflag=direct status=none
status 7 sg_raw --send=512 --infile=/dev/zero "$sg" 2a 00 00 00 00 00 00 00 01 00
