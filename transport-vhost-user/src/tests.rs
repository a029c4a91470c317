//! The whole transport over real sockets and real reactors.

use crate::testing::front_end::{FrontEnd, tmf};
use crate::{Handle, Options, VhostUserExport};
use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_reactor::{Io, Options as ReactorOptions, Reactors};
use lunette_scsi::{Naa, Protocol};
use lunette_store::ram::Ram;
use lunette_store::{Backing, ReactorId};
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) struct Rig {
    export: Option<Handle>,
    reactors: Reactors,
    pub(crate) socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new(io: Io, store: Arc<dyn Backing>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vm.sock");
        let options = ReactorOptions { reactors: 2, io, pin: false, ..ReactorOptions::default() };
        let reactors = Reactors::start(&options).unwrap();
        let disk = Disk::new(&DiskOptions::default(), store.caps()).unwrap();
        let identity = Identity::new("1", Naa::locally_assigned(1));
        let unit = LogicalUnit::new("disk", identity, Box::new(disk), Some(store));
        let port = TargetPort::new("test", 1, Protocol(0xf), [(0, unit)].into());
        let export = VhostUserExport::new(Options::new(&socket), port);
        let export = export.start(reactors.poster(), &[ReactorId(0), ReactorId(1)]).unwrap();
        Self { export: Some(export), reactors, socket, _folder: folder }
    }

    fn ram(io: Io) -> Self {
        Self::new(io, Arc::new(Ram::new(1 << 20).unwrap()))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(export) = self.export.take()
            && !std::thread::panicking()
        {
            export.stop();
            assert!(!self.socket.exists());
        }
    }
}

const MEMORY: u64 = 0x10_0000;
const TEST_UNIT_READY: [u8; 6] = [0; 6];

#[test]
fn commands_are_carried_out() {
    for io in [Io::Auto, Io::Epoll] {
        let rig = Rig::ram(io);
        let mut front = FrontEnd::ready(&rig.socket, MEMORY);
        let mut ring = front.start(2, 0, 64);
        let first = front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        assert_eq!((first.status, first.response, first.sense[2], first.sense[12]), (2, 0, 6, 0x29));
        let second = front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        assert_eq!((second.status, second.response, second.written), (0, 0, 108));
        let _ = &rig.reactors;
    }
}

#[test]
fn control_requests_are_answered() {
    for io in [Io::Auto, Io::Epoll] {
        let rig = Rig::ram(io);
        let mut front = FrontEnd::ready(&rig.socket, MEMORY);
        let mut control = front.start(0, 0, 64);
        let unit = [1, 0, 0x40, 0];
        for (subtype, lun, expected) in [
            (0, unit, 0),
            (1, unit, 0),
            (2, unit, 11),
            (3, unit, 0),
            (4, unit, 0),
            (5, unit, 0),
            (6, unit, 0),
            (7, unit, 0),
            (8, unit, 11),
            (5, [1, 1, 0x40, 0], 3),
            (5, [1, 0, 0x40, 9], 12),
        ] {
            let response = front.control(&mut control, &tmf(subtype, lun, 7), 1);
            assert_eq!(response, [expected], "subtype {subtype}, LUN {lun:?}");
        }
        let notifications = [[1, 0, 0, 0], unit, [0; 4], [0xff; 4]].concat();
        assert_eq!(front.control(&mut control, &notifications, 5), [0; 5]);
    }
}
