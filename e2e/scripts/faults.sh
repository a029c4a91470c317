# Logical unit 0 has a medium error from 1 MiB on, unit 1 has no space from 1 MiB on.
medium=$(disk 0)
full=$(disk 1)
dd if="$medium" of=/dev/null bs=64k count=16 iflag=direct status=none
status 3 sg_raw --request=512 "$(generic "$medium")" 28 00 00 00 08 00 00 00 01 00
status 1 dd if="$medium" of=/dev/null bs=64k skip=16 count=1 iflag=direct
dd if=/dev/zero of="$full" bs=64k count=16 oflag=direct status=none
write='2a 00 00 00 08 00 00 00 01 00'
status 7 sg_raw --send=512 --infile=/dev/zero "$(generic "$full")" $write
status 1 dd if=/dev/zero of="$full" bs=64k seek=16 count=1 oflag=direct
# Elsewhere both still work.
dd if="$medium" of=/dev/null bs=64k count=16 iflag=direct status=none
dd if="$full" of=/dev/null bs=64k count=16 iflag=direct status=none
