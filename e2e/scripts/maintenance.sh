# Pages and maintenance commands as sg3_utils use them. $disk is a writable block device.
sg=$(generic "$disk")

# Mode pages, and values that are saved.
for page in 0x01 0x02 0x07 0x08 0x0a 0x0a,1 0x1a 0x1c 0x3f,0xff; do
    for control in 0 1 2 3; do
        sg_modes --page=$page --control=$control "$sg"
    done
done
sg_wr_mode --page=0x0a --save --contents=0a,0a,04,10,00,00,00,00,ff,ff,00,00 "$sg"
sg_modes --page=0x0a --control=3 --raw "$sg" | od -An -tx1 | grep '8a 0a 04'
sg_wr_mode --page=0x0a --save --contents=0a,0a,00,10,00,00,00,00,ff,ff,00,00 "$sg"

# Log pages count what is done.
sg_logs --all "$sg"
sg_logs --page=0x19 "$sg" | grep 'number of read commands ='
sg_logs --reset "$sg"
dd if="$disk" of=/dev/null bs=4096 count=3 iflag=direct
sg_logs --page=0x03 "$sg" | grep 'Total bytes processed = 12288'

# Self-tests, and their results.
sg_senddiag --list "$sg"
sg_senddiag --test "$sg"
sg_senddiag --selftest=5 "$sg"
sg_senddiag --selftest=1 "$sg"
until sg_logs --page=0x10 "$sg" >/run/results && ! grep -q 'in progress' /run/results; do
    sleep 0.1
done
grep -i 'foreground short' /run/results
grep -i 'background short' /run/results
grep -i 'without error' /run/results

# Names, time and commands.
printf 'shelf 3' | sg_ident --set "$sg"
sg_ident --ascii "$sg" | grep 'shelf 3'
sg_timestamp "$sg"
sg_timestamp --milliseconds=1700000000000 "$sg"
sg_timestamp "$sg" | grep '^17000000'
sg_opcodes --rctd "$sg" >/run/opcodes
sg_opcodes --opcode=0x28 "$sg" | grep 28

# Buffers.
head -c 512 /dev/urandom >/run/buffer
sg_write_buffer --mode=data --in=/run/buffer --length=512 "$sg"
sg_raw --request=512 --binary --outfile=/run/read "$sg" 3c 02 00 00 00 00 00 02 00 00
cmp /run/buffer /run/read
sg_write_buffer --mode=echo --in=/run/buffer --length=512 "$sg"
sg_raw --request=512 --binary --outfile=/run/read "$sg" 3c 0a 00 00 00 00 00 02 00 00
cmp /run/buffer /run/read
# sg_read_buffer leaves out the allocation length, so there is nothing to compare.
sg_read_buffer --mode=desc "$sg"

for page in 0x86 0x87 0x88; do
    sg_vpd --page=$page "$sg"
done
