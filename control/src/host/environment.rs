//! What the libraries that this process opens read of its environment.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// How many queues lead from this process to a GPU: read by the driver when it is opened, and never
/// again.
const QUEUES: &str = "CUDA_DEVICE_MAX_CONNECTIONS";

/// The most that the driver takes. With its own 8, streams wait for each other: 16 streams of
/// MobileNetV3-Small on an H100 served 4,900 requests/s, with 32 queues 13,300.
const QUEUES_MAX: &str = "32";

/// Official builds of ONNX Runtime from 1.29 on report to their maker, of every session that is
/// made, names and hashes of the model; and keep files of that in the user's cache and in /tmp. The
/// call that ends reports (`DisableTelemetryEvents`) comes after the first ones.
const NO_REPORTS: &str = "ORT_DISABLE_TELEMETRY";

/// Files that are there where a GPU is.
const SIGNS: [&str; 3] = ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"];

/// Starts this program anew, in the same process and with the same arguments, with what libraries
/// are to read, unless somebody chose it: a process cannot change its environment once libraries
/// may read it. To be called before anything else. Returns where there is nothing to do, or the
/// program cannot be started anew.
pub fn settle() {
    let has_gpu = SIGNS.iter().any(|sign| Path::new(sign).exists());
    let lacking = lacking(has_gpu, |variable| std::env::var_os(variable));
    let mut arguments = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), arguments.next()) else { return };
    if !lacking.is_empty() {
        // Returns only if it fails.
        let _error = Command::new(program).arg0(name).args(arguments).envs(lacking).exec();
    }
}

/// Variables that nobody set, and what they are to be.
fn lacking(
    has_gpu: bool,
    set: impl Fn(&str) -> Option<OsString>,
) -> Vec<(&'static str, &'static str)> {
    let mut wanted = vec![(NO_REPORTS, "1")];
    if has_gpu {
        wanted.push((QUEUES, QUEUES_MAX));
    }
    wanted.retain(|(variable, _)| set(variable).is_none());
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_chose_stays_and_nothing_is_lacking_the_second_time() {
        assert_eq!(lacking(false, |_| None), [(NO_REPORTS, "1")]);
        assert_eq!(lacking(true, |_| None), [(NO_REPORTS, "1"), (QUEUES, "32")]);
        let chosen = |variable: &str| (variable == NO_REPORTS).then(|| OsString::from("0"));
        assert_eq!(lacking(true, chosen), [(QUEUES, "32")]);
        assert_eq!(lacking(true, |_| Some(OsString::new())), []);
    }
}
