//! A daemon with a disk that keeps nothing: what is left is the cost of ring and engine.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, bail};
use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_reactor::{Options as ReactorOptions, Poll, Reactors};
use lunette_scsi::Protocol;
use lunette_store::{Backing, Caps, Cx, IoId, Op, ReactorId, Store, Submit};
use lunette_transport_vhost_user::{Options as VhostUserOptions, VhostUserExport};

const SIZE: u64 = 1 << 30;

/// Answers every operation at once and does nothing.
#[derive(Clone)]
struct Null(Caps);

impl Null {
    fn new() -> Self {
        Self(Caps {
            size: SIZE.into(),
            read_only: false,
            logical_block: 512,
            physical_block: 4096,
            max_transfer: 16 << 20,
            volatile_cache: false,
            discard: None,
            fast_zero: true,
            rotational: false,
        })
    }
}

impl Store for Null {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn submit(&self, op: Op<'_>, _id: IoId, _cx: &mut dyn Cx) -> Submit {
        Submit::Done(self.0.check(&op).map(|()| op.range().1))
    }
}

impl Backing for Null {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn attach(&self, _cx: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(self.clone())
    }
}

/// Serves the disk at a vhost-user socket until the process is killed.
pub(crate) fn serve(socket: &Path, poll: &str) -> Result<()> {
    let poll = match poll {
        "adaptive" => Poll::Adaptive,
        "always" => Poll::Always,
        "never" => Poll::Never,
        other => bail!("no such way to wait: {other}"),
    };
    let reactors = Reactors::start(&ReactorOptions { reactors: 1, poll, ..ReactorOptions::default() })?;
    let store = Null::new();
    let disk = Disk::new(&DiskOptions::default(), &store.0)?;
    let identity = Identity::new("null".to_owned(), "naa.3000000000000001".parse()?);
    let unit = LogicalUnit::new("null".to_owned(), identity, Box::new(disk), Some(Arc::new(store)));
    let units = BTreeMap::from([(0, unit)]);
    let port = TargetPort::new("naa.3000000000000002".to_owned(), 1, Protocol::SAS, units);
    let export = VhostUserExport::new(VhostUserOptions::new(socket), BTreeMap::from([(0, port)]));
    let _handle = export.start(reactors.poster(), &[ReactorId(0)])?;
    println!("ready");
    loop {
        std::thread::park();
    }
}
