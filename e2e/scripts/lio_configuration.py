"""Has the kernel's target (LIO) serve three disks, and saves its configuration as targetcli does. Argument: a directory."""

import sys
from rtslib_fb import (FabricModule, FileIOStorageObject, LUN, MappedLUN, NetworkPortal, NodeACL, RTSRoot, TPG, Target)

folder = sys.argv[1]
root = RTSRoot()
disks = [FileIOStorageObject(name, f"{folder}/{name}.img", size << 20, write_back=name != "log")
         for name, size in [("data", 16), ("log", 8), ("all", 4)]]
disks[1].set_attribute("block_size", 4096)
fabric = FabricModule("iscsi")


def group(name, luns, **attributes):
    """A target with these units by their numbers."""
    group = TPG(Target(fabric, "iqn.2026-11.org.example:" + name), 1)
    for key, value in attributes.items():
        group.set_attribute(key, value)
    NetworkPortal(group, "0.0.0.0", 3260)
    group.enable = True
    return group, {number: LUN(group, number, disk) for number, disk in luns.items()}


def initiator(group, name, mapped, secret=None, proof=None):
    """Lets one in to see units by its own numbers: (unit, whether it may only read)."""
    acl = NodeACL(group, "iqn.2026-11.dev.lunette:" + name)
    if secret:
        acl.chap_userid, acl.chap_password = name, secret
    if proof is not None:
        acl.set_attribute("authentication", proof)
    for number, (lun, reads) in mapped.items():
        MappedLUN(acl, number, lun, reads)
    return acl


closed, luns = group("closed", {3: disks[0], 4: disks[1]}, authentication="1")
closed.chap_userid, closed.chap_password = "group", "secret-of-group"
guest = initiator(closed, "guest", {5: (luns[3], False), 6: (luns[4], False)}, "secret-of-guest")
guest.chap_mutual_userid, guest.chap_mutual_password = "disks", "secret-of-disks"
initiator(closed, "unproven", {0: (luns[3], False)}, proof="0")
initiator(closed, "keyless", {0: (luns[3], False)})
closed.set_parameter("MaxConnections", "4")

named, luns = group("named", {0: disks[0]}, authentication="0")
initiator(named, "guest", {0: (luns[0], False)})
initiator(named, "proven", {0: (luns[0], False)}, "secret-of-proven", proof="1")

group("all", {0: disks[2]}, authentication="0", generate_node_acls="1", demo_mode_write_protect="0")
root.save_to_file(f"{folder}/saveconfig.json")
