# EXTENDED COPY as sg_xcopy asks for it, and what is told of it. $disk and $other are writable block devices with blocks of
# 512 bytes and at least 16 MiB; what is on them is lost.
from=$(generic "$disk")
to=$(generic "$other")
sg_vpd --page=0x8f "$from"
sg_copy_results --params "$from" | grep -i 'identification descriptor'

head -c 8M /dev/urandom >/run/pattern
dd if=/run/pattern of="$disk" bs=1M oflag=direct status=none

# From one unit to the other, by the copy manager of either.
for manager in src dst; do
    blkdiscard "$other"
    sg_xcopy --on_$manager if="$from" of="$to" bs=512 bpt=4096 count=16384 seek=2048
    dd if="$other" bs=1M skip=1 count=8 iflag=direct status=none | cmp - /run/pattern
done
for usage in hold discard disable; do
    sg_xcopy if="$to" of="$from" bs=512 skip=2048 seek=16384 count=2048 id_usage=$usage
done
dd if="$disk" bs=1M skip=8 count=1 iflag=direct status=none | cmp - <(head -c 1M /run/pattern)

# Within one unit, onto itself.
sg_xcopy if="$from" of="$from" bs=512 bpt=16384 count=16384 seek=1000 list_id=7
dd if="$disk" bs=512 skip=1000 count=16384 iflag=direct status=none | cmp - /run/pattern
sg_copy_results --status --list_id=7 "$from" | grep -i 'completed without errors'

# A copy that is refused leaves what was there, and says why.
sg_wr_mode --page=0x0a --contents=0a,0a,00,10,08,00,00,00,ff,ff,00,00 "$to"
status 10 sg_xcopy --on_src if="$from" of="$to" bs=512 count=8 list_id=8
sg_copy_results --failed --list_id=8 "$from" | grep -i 'third party device failure'
sg_wr_mode --page=0x0a --contents=0a,0a,00,10,00,00,00,00,ff,ff,00,00 "$to"
dd if="$other" bs=1M skip=1 count=8 iflag=direct status=none | cmp - /run/pattern
rm /run/pattern
