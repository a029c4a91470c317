# Verifying, erasing and stopping as sg3_utils do it. $disk is writable, thin and fixed. What is on it is lost.
sg=$(generic "$disk")
blocks=$(blockdev --getsz "$disk")
for letter in A B; do
    head -c 512 /dev/zero | tr '\0' $letter >/run/$letter
done

# holds BYTE: fails unless the whole disk is full of it.
holds() {
    head -c $((blocks * 512)) /dev/zero | tr '\0' "$1" |
        cmp - <(dd if="$disk" bs=1M iflag=direct status=none)
}
fill() {
    sg_write_same --16 --lba=0 --num=$blocks --in=/run/A --xferlen=512 "$sg"
    holds A
}

# What is there can be read, and is what it should be.
fill
sg_verify --lba=0 --count=$blocks "$sg"
sg_verify --16 --ebytchk=3 --ndo=512 --count=$blocks --in=/run/A "$sg"
sg_verify --ndo=512 --count=1 --lba=9 --in=/run/A "$sg"
status 14 sg_verify --quiet --ndo=512 --count=1 --lba=9 --in=/run/B "$sg"
status 22 sg_verify --lba=$blocks "$sg"
sg_reassign --address=9,10 "$sg"
holds A

# Sanitizing.
sg_sanitize --overwrite --pattern=/run/B --count=3 --invert --quick --wait "$sg"
holds B
for how in --block --crypto '--overwrite --zero'; do
    fill
    sg_sanitize $how --quick --wait "$sg"
    holds '\0'
done
sg_sanitize --fail --quick --wait "$sg"

# Formatting: as it comes, in the background, and with a pattern.
fill
sg_format --format --quick --wait "$sg"
holds '\0'
fill
sg_format --format --quick --early "$sg"
until sg_turs "$sg"; do
    sleep 0.1
done
holds '\0'
printf '\0\x88\0\0\0\1\0\1B' >/run/list
sg_raw --send=9 --infile=/run/list "$sg" 04 10 00 00 00 00
holds B

# sense: what REQUEST SENSE tells; the status says so once more.
sense() {
    sg_requests "$sg" 2>&1 || true
}

# Stopping, starting and resting.
sg_start --stop "$sg"
status 2 sg_turs "$sg"
sense | grep -i 'initializing command required'
sg_start --start "$sg"
sg_turs "$sg"
sg_start --pc=2 "$sg"
sense | grep -i 'idle condition activated by command'
holds B
sense >/run/sense
if grep -i 'idle' /run/sense; then
    false
fi
