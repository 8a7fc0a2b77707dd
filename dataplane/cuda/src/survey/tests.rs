use std::time::{Duration, Instant};

use super::*;
use crate::driver::device::Attributes;

fn device(ordinal: u32, peers: &[u32], attributes: Attributes) -> Listed {
    Listed {
        ordinal,
        name: "NVIDIA H100 80GB HBM3".into(),
        pci: "no-such-place".into(),
        memory_bytes: 80 << 30,
        attributes,
        compute_mode: ComputeMode::Default,
        peers: peers.to_vec(),
    }
}

const ABLE: Attributes = Attributes {
    capability: (9, 0),
    multiprocessors: 132,
    copy_engines: 3,
    shared_bytes_max: 232_448,
    dma_buf: true,
    gpudirect_rdma: true,
    gpudirect_flush: 1,
    gpudirect_ordering: 200,
    shareable: true,
};

#[test]
fn a_survey_says_what_is_missing_and_how_to_get_it() {
    let start = Instant::now();
    let all = survey(&LibrarySearch::default());
    assert!(start.elapsed() < Duration::from_secs(30), "a watchdog");
    let driver = all.iter().find(|found| found.name == "driver").unwrap();
    for family in &FAMILIES {
        assert!(all.iter().any(|found| found.name == family.name), "{all:?}");
    }
    if !driver.usable {
        assert!(driver.fix.contains("driver"), "{driver:?}");
    }
    for found in &all {
        assert!(!found.detail.is_empty(), "{found:?}");
        assert_eq!(found.usable, found.fix.is_empty(), "{found:?}");
    }
}

#[test]
fn a_missing_library_names_the_package_that_brings_it() {
    let root = tempfile::tempdir().unwrap();
    let mut search = LibrarySearch { root: root.path().to_owned(), ..LibrarySearch::default() };
    let find =
        |all: Vec<Found>, name: &str| all.into_iter().find(|found| found.name == name).unwrap();
    let family =
        Family { name: "none", files: &["libnone.so.1"], older: &[], also: None, package: "p-q" };
    let none = of_loader(&family);
    assert!(!none.usable && none.detail.contains("libnone.so.1"), "{none:?}");
    assert!(none.fix.contains("pip install p-q") && none.fix.contains("--cuda-libraries"));

    std::fs::write(root.path().join("libcudnn.so.9"), "").unwrap();
    search.explicit = vec![root.path().to_owned()];
    let cudnn = find(libraries(&search), "cuDNN");
    assert!(cudnn.usable && cudnn.detail.contains(root.path().to_str().unwrap()), "{cudnn:?}");

    search.explicit = vec![root.path().join("nowhere")];
    let wrong = find(libraries(&search), "libraries");
    assert!(!wrong.usable && wrong.detail.contains("nowhere"), "{wrong:?}");
}

#[test]
fn a_device_is_described_with_what_it_can_do() {
    let mut all = Vec::new();
    look_at(&device(0, &[1], ABLE), 3, &mut all);
    let find = |name: &str| all.iter().find(|found| found.name == name).unwrap();
    let itself = find("cuda:0");
    assert!(itself.usable, "{itself:?}");
    for part in ["H100", "9.0", "81920 MiB", "132 multi", "3 copy"] {
        assert!(itself.detail.contains(part), "{itself:?}");
    }
    let peers = find("cuda:0 peers");
    assert_eq!(peers.detail, "reaches cuda:1 directly, not cuda:2");
    assert!(!peers.usable && !peers.fix.is_empty());
    assert!(find("cuda:0 dma-buf").usable);
    let direct = &find("cuda:0 GPUDirect").detail;
    assert!(direct.contains("all devices") && direct.contains("by the host"), "{direct}");
}

#[test]
fn what_a_device_lacks_comes_with_the_fix() {
    let unable = Attributes { dma_buf: false, gpudirect_rdma: false, ..ABLE };
    let mut all = Vec::new();
    let mut closed = device(1, &[], unable);
    closed.compute_mode = ComputeMode::Prohibited;
    look_at(&closed, 2, &mut all);
    assert_eq!(all.len(), 4);
    for found in &all {
        assert!(!found.usable && !found.fix.is_empty(), "{found:?}");
    }
    assert!(all[0].fix.contains("nvidia-smi"), "{all:?}");
    let mut alone = Vec::new();
    look_at(&device(0, &[], ABLE), 1, &mut alone);
    assert!(!alone.iter().any(|found| found.name.ends_with("peers")), "{alone:?}");
    assert!(peers("p".into(), &device(0, &[1], ABLE), 2).usable);
}
