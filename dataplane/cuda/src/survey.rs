//! What CUDA has and lacks on this machine, for people: what `ferry doctor` prints.

mod system;

use ferry_core::Found;

use crate::driver::list::{ComputeMode, Listed, list};
use crate::driver::probe::probe;
use crate::libraries::{FAMILIES, Family, LibrarySearch, is_loadable, opened};
use crate::nvml;

/// Looks at everything that models on a GPU need here. No device is taken into use: a GPU that is
/// only listed has no context of this process. Without a driver, only that and the libraries are
/// looked at.
pub fn survey(search: &LibrarySearch) -> Vec<Found> {
    let mut all = Vec::new();
    match probe() {
        Err(missing) => all.push(Found::bad("driver", missing.why, missing.fix)),
        Ok(driver) => {
            let module = system::module_version("nvidia").or_else(|| nvml::driver_version().ok());
            let number = module.map_or_else(String::new, |it| format!("driver {it}, "));
            let devices = driver.devices();
            let detail = format!("{number}CUDA {}, {devices} devices", driver.version());
            all.push(Found::good("driver", detail));
            devices_of(&mut all);
            all.push(match nvml::driver_version() {
                Ok(_) => Found::good("NVML", "memory, load, traffic and energy are sampled"),
                Err(missing) => Found::bad("NVML", missing.why, missing.fix),
            });
            all.extend(system::survey());
        }
    }
    all.extend(libraries(search));
    all
}

fn devices_of(all: &mut Vec<Found>) {
    let Ok(listed) = list() else { return };
    let count = listed.len();
    for (ordinal, device) in listed.iter().enumerate() {
        match device {
            Ok(device) => look_at(device, count, all),
            Err(error) => {
                let fix = "see `nvidia-smi`: a device that is lost comes back with a reset";
                all.push(Found::bad(format!("cuda:{ordinal}"), error.to_string(), fix));
            }
        }
    }
}

fn look_at(device: &Listed, count: usize, all: &mut Vec<Found>) {
    let name = |what: &str| format!("cuda:{}{what}", device.ordinal);
    let attributes = &device.attributes;
    let (major, minor) = attributes.capability;
    let divided = match nvml::is_divided(&device.pci) {
        Some(true) => ", MIG on",
        Some(false) => ", MIG off",
        None => "",
    };
    let mode = match device.compute_mode {
        ComputeMode::Default => "shared by processes",
        ComputeMode::ExclusiveProcess => "for one process",
        ComputeMode::Prohibited => "compute mode prohibited",
        ComputeMode::Other(_) => "compute mode unknown",
    };
    let detail = format!(
        "{} at {}, compute capability {major}.{minor}, {} MiB, {} multiprocessors, \
         {} copy engines{divided}, {mode}",
        device.name,
        device.pci,
        device.memory_bytes >> 20,
        attributes.multiprocessors,
        attributes.copy_engines
    );
    all.push(match device.compute_mode {
        ComputeMode::Prohibited => {
            Found::bad(name(""), detail, format!("nvidia-smi -i {} -c DEFAULT", device.pci))
        }
        _ => Found::good(name(""), detail),
    });
    if count > 1 {
        all.push(peers(name(" peers"), device, count));
    }
    all.push(if attributes.dma_buf {
        Found::good(name(" dma-buf"), "its memory can be exported")
    } else {
        let fix = "needed for gdr alone: Linux 5.12 or later with NVIDIA's open kernel modules, or \
                   nvidia-peermem instead";
        Found::bad(name(" dma-buf"), "the driver does not export its memory", fix)
    });
    all.push(gpudirect(name(" GPUDirect"), device));
}

fn peers(name: String, device: &Listed, count: usize) -> Found {
    let others = (0..count).filter_map(|other| u32::try_from(other).ok());
    let (direct, not): (Vec<u32>, Vec<u32>) = others
        .filter(|other| *other != device.ordinal)
        .partition(|other| device.peers.contains(other));
    let text = |all: &[u32]| {
        let names: Vec<_> = all.iter().map(|it| format!("cuda:{it}")).collect();
        names.join(", ")
    };
    if not.is_empty() {
        return Found::good(name, format!("reaches {} directly", text(&direct)));
    }
    let detail = match direct.as_slice() {
        [] => format!("does not reach {} directly", text(&not)),
        some => format!("reaches {} directly, not {}", text(some), text(&not)),
    };
    Found::bad(
        name,
        detail,
        "copies between them go through the host; give a session the GPU of its model",
    )
}

fn gpudirect(name: String, device: &Listed) -> Found {
    let attributes = &device.attributes;
    if !attributes.gpudirect_rdma {
        let fix = "needed for gdr alone: no peer writes this GPU's memory; use pinned or mapped";
        return Found::bad(name, "a NIC cannot write its memory", fix);
    }
    let flush = match attributes.gpudirect_flush & 3 {
        0 => "no flush",
        1 => "flushed by the host",
        2 => "flushed by stream memory operations",
        _ => "flushed by the host or by stream memory operations",
    };
    let ordering = match attributes.gpudirect_ordering {
        0..100 => "a peer's writes need one before they are read",
        100..200 => "a peer's writes are in order for its own work without one",
        _ => "a peer's writes are in order for all devices without one",
    };
    let numbers = (attributes.gpudirect_flush, attributes.gpudirect_ordering);
    Found::good(
        name,
        format!("{flush}; {ordering} (options {}, ordering {})", numbers.0, numbers.1),
    )
}

/// Each family: opened, found by us, found by the loader, or missing.
fn libraries(search: &LibrarySearch) -> Vec<Found> {
    let found = search.find();
    let mut all: Vec<Found> = Vec::new();
    if let Err(error) = &found {
        all.push(Found::bad("libraries", error.to_string(), "correct --cuda-libraries"));
    }
    let found = found.unwrap_or_default();
    all.extend(FAMILIES.iter().map(|family| {
        match found.iter().find(|found| found.name == family.name) {
            Some(found) => ours(family, &found.files),
            None => of_loader(family),
        }
    }));
    all
}

/// A family that was found where we look.
fn ours(family: &Family, files: &[std::path::PathBuf]) -> Found {
    let folder = files.last().and_then(|file| file.parent()).unwrap_or("".as_ref());
    let folder = folder.display();
    let Some(opened) = opened() else {
        return Found::good(
            family.name,
            format!("in {folder}, opened with the first model on a GPU"),
        );
    };
    match opened.failed.iter().find(|(file, _)| files.contains(file)) {
        None => Found::good(family.name, format!("opened in {folder}")),
        Some((_, why)) => Found::bad(family.name, why.clone(), install(family)),
    }
}

/// A family that the system's loader may find: of CUDA 13, or of CUDA 12 for engines that are
/// built for it.
fn of_loader(family: &Family) -> Found {
    let by_loader = |files: &[&str]| files.iter().all(|file| is_loadable(file));
    if by_loader(family.files) {
        return Found::good(
            family.name,
            format!("{}, by the system's loader", family.files.join(", ")),
        );
    }
    let missing = format!("{} is not found", family.files.join(", "));
    if !family.older.is_empty() && by_loader(family.older) {
        let detail = format!("{missing}, only {} of CUDA 12", family.older.join(", "));
        return Found::bad(family.name, detail, install(family));
    }
    Found::bad(family.name, missing, install(family))
}

/// What to do about a missing family.
pub(crate) fn install(family: &Family) -> String {
    format!("python3 -m pip install {}, or name its folder by --cuda-libraries", family.package)
}

#[cfg(test)]
mod tests;
