# What a disk must do for a kernel and its user. $disk is a writable block device of at least
# 96 MiB; what is on it is lost.
sg=$(generic "$disk")

sg_turs "$disk"
sg_inq "$disk"
sg_luns "$sg"
sg_readcap --16 "$disk"
for page in 0x00 0x80 0x83 0x86 0xb0 0xb1 0xb2; do
    sg_vpd --page=$page "$disk"
done
for page in 0x01 0x08 0x0a 0x1c 0x3f; do
    sg_modes --page=$page "$disk"
done
sg_requests "$disk"
sg_sync "$disk"
sg_opcodes --rctd "$disk" >/run/opcodes
for name in 'Read(10)' 'Write(16)' 'Unmap' 'Write same(16)' 'XDwriteread(10)' 'Get LBA status(16)' \
    'Get LBA status(32)' 'Report supported operation codes'; do
    grep -i "$name" /run/opcodes
done

# Past the end, and a command that is not there.
status 22 sg_raw --request=512 "$sg" 88 00 ff ff ff ff ff ff ff fe 00 00 00 01 00 00
status 9 sg_raw "$sg" c1 00 00 00 00 00

# A file system with a tree on it.
mkfs.ext4 -q -F "$disk"
mkdir -p /run/tree
mount "$disk" /run/tree
cp -a /usr/lib/x86_64-linux-gnu/perl-base /run/tree/copy
umount /run/tree
fsck.ext4 -fn "$disk"
mount "$disk" /run/tree
diff -r /usr/lib/x86_64-linux-gnu/perl-base /run/tree/copy
rm -r /run/tree/copy
sync
fstrim -v /run/tree
umount /run/tree
fsck.ext4 -fn "$disk"

# Random writes of mixed sizes, each read back and checked.
fio --name=verify --filename="$disk" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite \
    --bsrange=4k-256k --offset=1M --size=32M --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
    --output=/run/fio.log || { cat /run/fio.log; exit 1; }

# Discarded and zeroed blocks read as zeroes; their neighbours stay.
head -c 16M /dev/urandom >/run/pattern
dd if=/run/pattern of="$disk" bs=1M oflag=direct status=none
blkdiscard --offset 1M --length 4M "$disk"
blkdiscard --zeroout --offset 8M --length 4M "$disk"
dd if=/dev/zero of=/run/pattern bs=1M seek=1 count=4 conv=notrunc status=none
dd if=/dev/zero of=/run/pattern bs=1M seek=8 count=4 conv=notrunc status=none
dd if="$disk" of=/run/read bs=1M count=16 iflag=direct status=none
cmp /run/pattern /run/read

# What was given back is deallocated, what was written is mapped, and the CDB of 32 bytes says the same.
blkdiscard "$disk"
dd if=/dev/urandom of="$disk" bs=1M seek=8 count=4 oflag=direct status=none
sg_get_lba_status --raw --maxlen=56 "$sg" >/run/status
sg_raw --request=56 --outfile=/run/status32 "$sg" 7f 00 00 00 00 00 00 18 00 12 00 00 \
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 38
cmp /run/status /run/status32
sg_get_lba_status --32 --maxlen=56 "$sg"
number() { od -An --endian=big -tu$2 -j$1 -N$2 /run/status | tr -d ' '; }
mib=$((1048576 / $(blockdev --getss "$disk")))
test "$(number 20 1) $(number 36 1) $(number 52 1)" = "1 0 1"
test "$(number 16 4) $(number 32 4)" = "$((8 * mib)) $((4 * mib))"
# One that is not as long as it says, and one that is too long.
status 5 sg_raw --request=24 "$sg" 7f 00 00 00 00 00 00 14 00 12 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
rm /run/status /run/status32
head -c 16M /dev/urandom >/run/pattern
dd if=/run/pattern of="$disk" bs=1M oflag=direct status=none

# A reset is survived and forgets nothing.
sg_reset --device "$sg"
dd if="$disk" of=/run/read bs=1M count=16 iflag=direct status=none
cmp /run/pattern /run/read
rm /run/pattern /run/read
