# Loading and ejecting, which others may prevent. $disk is removable.
sg=$(generic "$disk")
sg_prevent "$sg"
status 5 sg_start --eject "$sg"
sg_turs "$sg"
sg_prevent --allow "$sg"
sg_start --eject "$sg"
status 2 sg_turs "$sg"
(sg_requests "$sg" 2>&1 || true) | grep -i 'medium not present'
sg_start --load "$sg"
sg_turs "$sg"
dd if="$disk" of=/dev/null bs=4096 count=1 iflag=direct
