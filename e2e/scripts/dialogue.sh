# What open-iscsi and sg3_utils see of the target TARGET at PORTAL and of its disk LUN: lines of `STEP | ANSWER`.

# tell STEP ANSWER
tell() { echo "$1 | $2"; }

# try STEP COMMAND...: its exit status.
try() {
    local name=$1 got=0
    shift
    "$@" >/run/said 2>&1 </dev/null || got=$?
    tell "$name" "exit $got"
}

# raw STEP BYTES-TO-READ CDB...: the outcome of a command, and how much it gave.
raw() {
    local name=$1 length=$2 got=0
    shift 2
    rm -f /run/raw
    sg_raw --request="$length" --outfile=/run/raw "$sg" "$@" >/run/said 2>&1 </dev/null || got=$?
    tell "$name" "exit $got, $(stat -c %s /run/raw 2>/dev/null || echo 0) bytes"
}

listed=$(iscsiadm -m discovery -t sendtargets -p "$PORTAL" | sed "s/$PORTAL/PORTAL/; s/$TARGET/TARGET/" | sort | tr '\n' ' ')
tell "discovery" "$listed"
iscsiadm -m node -T "$TARGET" -p "$PORTAL" --login >/dev/null
iscsiadm -m session -P 2 | sed -n '/Negotiated/,$p' | grep ': ' | sed 's/^[[:space:]]*//; s/: / | /' |
    while read -r line; do echo "negotiated $line"; done
disk=$(disk "$LUN")
sg=$(generic "$disk")

try "TEST UNIT READY" sg_turs "$sg"
tell "INQUIRY version" "$(sg_inq --hex "$sg" | awk 'NR == 1 { print $4 }')"
pages=$(sg_vpd --page=0 --raw "$sg" | od -An -v -tx1 -j4 | tr -d '\n')
for page in 80 83 85 86 87 88 89 8f b0 b1 b2 b3; do
    case $pages in *" $page"*) tell "VPD page $page" yes ;; *) tell "VPD page $page" no ;; esac
done
tell "READ CAPACITY" "$(blockdev --getsize64 "$disk")"
for page in 01 02 08 0a 18 1a 1c 3f; do
    try "mode page $page" sg_modes --page=0x$page "$sg"
done
for page in 00 0d 0e 2f; do
    try "log page $page" sg_logs --page=0x$page "$sg"
done
for command in readcap:--16 readcap: luns: requests: opcodes: opcodes:--rctd rtpg: rtpg:--extended sync: verify:--count=8 \
    get_lba_status: referrals: read_long: rdac: senddiag:--test start:--start start:--stop start:--start; do
    try "sg_${command%%:*} ${command#*:}" "sg_${command%%:*}" ${command#*:} "$sg"
done
try "sg_prevent" sg_prevent "$sg"
try "sg_prevent --allow" sg_prevent --allow "$sg"
try "sg_unmap" sg_unmap --force --lba=64 --num=64 "$sg"
try "sg_write_same --10" sg_write_same --10 --lba=128 --num=8 --xferlen=512 "$sg"
try "sg_write_same --16" sg_write_same --16 --lba=128 --num=8 --xferlen=512 "$sg"
try "sg_write_same --16 --unmap" sg_write_same --16 --unmap --lba=128 --num=8 --xferlen=512 "$sg"
try "sg_write_same --32" sg_write_same --32 --lba=128 --num=8 --xferlen=512 "$sg"
head -c 1024 /dev/zero >/run/zeroes
dd if=/dev/zero of="$disk" bs=512 count=8 oflag=direct 2>/dev/null
try "sg_compare_and_write" sg_compare_and_write --lba=0 --num=1 --in=/run/zeroes "$sg"
dd if=/dev/urandom of="$disk" bs=512 count=8 oflag=direct 2>/dev/null
try "sg_compare_and_write miscompare" sg_compare_and_write --lba=0 --num=1 --in=/run/zeroes "$sg"
try "sg_xcopy to itself" sg_xcopy if="$sg" of="$sg" skip=0 seek=100 count=8 bs=512
try "sg_copy_results" sg_copy_results --params "$sg"

raw "READ(6)" 512 08 00 00 00 01 00
raw "READ(12)" 512 a8 00 00 00 00 00 00 00 00 01 00 00
raw "READ(16)" 512 88 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00
raw "READ(32)" 512 7f 00 00 00 00 00 00 18 00 09 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01
raw "READ(10) with DPO and FUA" 512 28 18 00 00 00 00 00 00 01 00
raw "READ(10) with RDPROTECT" 512 28 20 00 00 00 00 00 00 01 00
raw "READ(10) beyond the end" 512 28 00 7f ff ff ff 00 00 01 00
raw "PRE-FETCH(10)" 0 34 00 00 00 00 00 00 00 01 00
raw "VERIFY(10) beyond the end" 0 2f 00 7f ff ff ff 00 00 01 00
raw "READ DEFECT DATA(10)" 8 37 00 18 00 00 00 00 00 08 00
raw "READ BUFFER descriptor" 4 3c 03 00 00 00 00 00 00 04 00
raw "INQUIRY with a page code but no EVPD" 36 12 00 80 00 24 00
raw "INQUIRY of a page that is not there" 36 12 01 7e 00 24 00
raw "MODE SENSE of a page that is not there" 36 1a 00 3e 00 24 00
raw "REPORT IDENTIFYING INFORMATION" 36 a3 05 00 00 00 00 00 00 00 24 00 00
raw "REPORT TIMESTAMP" 12 a3 0f 00 00 00 00 00 00 00 0c 00 00
raw "RESERVE(6)" 0 16 00 00 00 00 00
raw "RELEASE(6)" 0 17 00 00 00 00 00

try "PR report capabilities" sg_persist --in --report-capabilities "$sg"
try "PR register" sg_persist --out --register --param-sark=0xabc "$sg"
try "PR register with a wrong key" sg_persist --out --register --param-rk=0x123 --param-sark=0xdef "$sg"
try "PR reserve" sg_persist --out --reserve --param-rk=0xabc --prout-type=5 "$sg"
try "PR reserve with another type" sg_persist --out --reserve --param-rk=0xabc --prout-type=1 "$sg"
try "PR read keys" sg_persist --in --read-keys "$sg"
try "PR read reservation" sg_persist --in --read-reservation "$sg"
try "PR read full status" sg_persist --in --read-full-status "$sg"
try "PR release with another type" sg_persist --out --release --param-rk=0xabc --prout-type=1 "$sg"
try "PR release" sg_persist --out --release --param-rk=0xabc --prout-type=5 "$sg"
try "PR clear" sg_persist --out --clear --param-rk=0xabc "$sg"
raw "PR with an unknown service action" 8 5e 1f 00 00 00 00 00 00 08 00

try "sg_reset --device" sg_reset --device "$sg"
try "sg_reset --target" sg_reset --target "$sg"
try "the unit attention afterwards" sg_turs "$sg"
sg_turs "$sg" >/dev/null 2>&1 || true
try "fio" fio --name=verify --filename="$disk" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite \
    --bsrange=4k-256k --size=2M --verify=crc32c --verify_fatal=1 --verify_state_save=0
iscsiadm -m node -T "$TARGET" -p "$PORTAL" --logout >/dev/null
try "a session that was logged out" iscsiadm -m session
