# One disk over two sessions becomes /dev/mapper/mpatha. PORTALS are its portals, TARGET its target.
modprobe -a dm_mod dm_multipath dm_service_time
mkdir -p /run/udev /etc/multipath
/lib/systemd/systemd-udevd --daemon
# The kernel has no device handlers, and what is lost is to be noticed soon.
cat >/etc/multipath.conf <<'CONF'
defaults {
    user_friendly_names yes
    find_multipaths no
    polling_interval 1
    max_polling_interval 1
    verbosity 2
}
devices {
    device {
        vendor ".*"
        product ".*"
        hardware_handler "0"
        detect_prio no
        prio const
        detect_checker no
        path_checker tur
        path_grouping_policy multibus
        path_selector "service-time 0"
        no_path_retry queue
        fast_io_fail_tmo 1
    }
}
CONF
multipathd -d >/run/multipathd.log 2>&1 &
until multipathd show status >/dev/null 2>&1; do
    sleep 0.1
done
for portal in $PORTALS; do
    iscsi_node $TARGET $portal node.session.timeo.replacement_timeout 1 \
        node.conn[0].timeo.noop_out_interval 2 node.conn[0].timeo.noop_out_timeout 3
done
