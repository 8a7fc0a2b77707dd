//! A device that is lost. Whoever loses it loses it for the whole process, so that this happens in
//! a process of its own.

use std::ptr::NonNull;
use std::sync::Arc;

use ferry_core::{HostMemory, MemoryChoice, Placement, SlotLayout};
use ferry_engine::{Engine, EngineError};
use ferry_memory::{Backing, DeviceAddress, HeapBacking, PeerAccess, Region, SlotTable};
use ferry_onnx::{CudaModel, CudaOptions, OrtEngine, OrtOptions};

use crate::common::{At, bytes_of, finish, job, model, noise, reply, search, table, zoo};

/// Says to the child that it may.
const CONSENT: &str = "FERRY_TEST_LOSES_THE_DEVICE";

/// Host memory at an address where the device finds nothing: as if a driver had gone wrong.
#[derive(Debug)]
struct Astray(HeapBacking);

// SAFETY: everything about host addresses is the inner backing's, which keeps the contract; that
// the device's address is wrong is the point.
#[expect(unsafe_code, reason = "a wrong address is what is tested")]
unsafe impl Backing for Astray {
    fn placement(&self) -> Placement {
        self.0.placement()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn host(&self) -> Option<NonNull<u8>> {
        self.0.host()
    }

    fn device(&self) -> Option<DeviceAddress> {
        Some(DeviceAddress { ordinal: 0, address: 0x1000 })
    }
}

#[test]
fn a_lost_device_is_told_and_the_cpu_serves_on() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lost::child", "--ignored", "--nocapture", "--test-threads", "1"])
        .env(CONSENT, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}: {said}", child.status);
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "takes the device from its process: a_lost_device_is_told_and_the_cpu_serves_on runs it"]
fn child() {
    if std::env::var_os(CONSENT).is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), "digits");
    let mut cpu = OrtEngine::load(&path, &search(), OrtOptions { threads: 2 }).unwrap();
    let model = model(&path, CudaOptions::default());
    let mut engine = model.instance().unwrap();
    let binding = Arc::new(engine.signature().bind(&[]).unwrap());
    let request = bytes_of(&noise(64, 1));
    let slots = table(&binding, At::Pinned, 4);
    let right = reply(&finish(&mut engine, job(&slots, &binding, &request, 1, 0)));

    let layout = SlotLayout { slots: 1, request_bytes: 1024, reply_bytes: binding.reply_bytes() };
    let heap = HeapBacking::new(SlotTable::bytes(&layout).unwrap()).unwrap();
    let astray = Region::whole(Astray(heap));
    let astray = SlotTable::over(layout, PeerAccess::Writes, astray).unwrap();
    let mut fatal = job(&astray, &binding, &request, 2, 0);
    fatal.memory = MemoryChoice::Always(HostMemory::Mapped);
    let error = finish(&mut engine, fatal).outcome.unwrap_err();
    assert!(matches!(&error, EngineError::Lost(_)), "{error}");
    assert!(error.to_string().contains("start the process again"), "{error}");
    for priority in [0, 1] {
        let later = finish(&mut engine, job(&slots, &binding, &request, 1, priority));
        let error = later.outcome.unwrap_err();
        assert!(matches!(&error, EngineError::Lost(_)), "{error}");
    }
    let refused = model.instance().map(|_| ()).unwrap_err();
    assert!(matches!(&refused, EngineError::Lost(_)), "{refused}");
    drop(engine);
    drop(model);
    let again = CudaModel::open(&path, &search(), CudaOptions::default()).map(|_| ());
    eprintln!("opened again: {}", again.unwrap_err());

    let own = table(&binding, At::Pageable, 1);
    let by_cpu = reply(&finish(&mut cpu, job(&own, &binding, &request, 1, 0)));
    assert_eq!(by_cpu.len(), right.len(), "the CPU serves on");
}
