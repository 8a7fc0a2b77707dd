//! What the kernel and the machine have beside the driver.

use std::path::{Path, PathBuf};

use ferry_core::Found;

/// Where MPS listens, if `CUDA_MPS_PIPE_DIRECTORY` does not say.
const MPS_FOLDER: &str = "/tmp/nvidia-mps";

/// The version of a kernel module that is loaded and says one.
pub(super) fn module_version(name: &str) -> Option<String> {
    let version = std::fs::read_to_string(format!("/sys/module/{name}/version")).ok()?;
    Some(version.trim().to_owned())
}

pub(super) fn survey() -> Vec<Found> {
    // libcuda itself goes by this variable: it is a fact of the process, not an option of ours.
    let mps = std::env::var_os("CUDA_MPS_PIPE_DIRECTORY").map_or(MPS_FOLDER.into(), PathBuf::from);
    vec![
        peermem(Path::new("/sys/module/nvidia_peermem").exists()),
        gdrcopy(Path::new("/dev/gdrdrv").exists()),
        multi_process(&mps, &mps_processes(Path::new("/proc"))),
    ]
}

fn peermem(loaded: bool) -> Found {
    if loaded {
        return Found::good(
            "nvidia-peermem",
            "loaded: a NIC can register GPU memory without dma-buf",
        );
    }
    let fix = "needed for gdr alone, where dma-buf is missing: modprobe nvidia-peermem";
    Found::bad("nvidia-peermem", "not loaded", fix)
}

fn gdrcopy(there: bool) -> Found {
    if there {
        return Found::good("gdrcopy", "/dev/gdrdrv is there; not used");
    }
    Found::bad("gdrcopy", "no /dev/gdrdrv", "nothing to do: it is not used")
}

/// Names of the processes of MPS.
fn mps_processes(proc: &Path) -> Vec<String> {
    /// The kernel keeps 15 bytes of a name: of `nvidia-cuda-mps-control` and `-server`.
    const START: &str = "nvidia-cuda-mps";
    let Ok(entries) = std::fs::read_dir(proc) else { return Vec::new() };
    let comm = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("comm")).ok();
    let numbered = |entry: &std::fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let names = entries.flatten().filter(numbered).filter_map(comm);
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with(START)).collect()
}

fn multi_process(folder: &Path, processes: &[String]) -> Found {
    let (name, at) = ("MPS", folder.display());
    match (folder.join("control").exists(), processes.len()) {
        (true, 0) => {
            Found::good(name, format!("not seen here, but {at} is: processes may share a GPU"))
        }
        (true, _) => {
            Found::good(name, format!("runs, in {at}: kernels of several processes overlap"))
        }
        (false, 0) => Found::bad(
            name,
            "does not run",
            "nothing to do for one server; where several processes share a GPU: \
             nvidia-cuda-mps-control -d",
        ),
        (false, _) => Found::bad(
            name,
            format!("runs, but not in {at}"),
            "set CUDA_MPS_PIPE_DIRECTORY to the folder of its control pipe",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mps_is_known_by_its_processes_and_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("12/comm", "nvidia-cuda-mps\n");
        put("13/comm", "bash\n");
        put("self/comm", "nvidia-cuda-mps\n");
        let processes = mps_processes(root.path());
        assert_eq!(processes, ["nvidia-cuda-mps"]);
        let pipes = root.path().join("pipes");
        let said = |processes: &[String]| {
            let found = multi_process(&pipes, processes);
            assert_eq!(found.usable, found.fix.is_empty(), "{found:?}");
            (found.usable, found.detail)
        };
        assert_eq!(said(&[]), (false, "does not run".into()));
        assert!(!said(&processes).0, "its pipe is somewhere else");
        put("pipes/control", "");
        assert!(said(&processes).0 && said(&[]).0);
        assert_eq!(mps_processes(Path::new("/nowhere")), [""; 0]);
    }

    #[test]
    fn what_is_missing_comes_with_the_fix() {
        for found in [peermem(false), gdrcopy(false)] {
            assert!(!found.usable && !found.fix.is_empty(), "{found:?}");
        }
        for found in [peermem(true), gdrcopy(true)] {
            assert!(found.usable && found.fix.is_empty(), "{found:?}");
        }
    }
}
