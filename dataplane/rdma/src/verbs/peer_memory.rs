//! Why memory of another device cannot be registered: what of kernel, driver and module is missing.

use std::path::Path;

use super::VerbsError;

/// The first Linux that registers dma-bufs.
const KERNEL_MIN: (u32, u32) = (5, 12);

/// Modules that answer for the addresses of NVIDIA's GPUs: of the driver, and of earlier times.
const MODULES: [&str; 2] = ["nvidia_peermem", "nv_peer_mem"];

/// `errno` where something is not offered: by the system call, or by a driver.
const NOT_OFFERED: [i32; 4] = [95, 93, 38, 25];

/// What this machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The RDMA device.
    device: String,
    /// The kernel's release, such as `6.1.0-49-amd64`.
    kernel: String,
    /// A module that answers for addresses of a GPU is loaded.
    has_module: bool,
}

impl Found {
    /// Looks.
    pub(super) fn here(device: &str) -> Found {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let has_module = MODULES.iter().any(|it| Path::new("/sys/module").join(it).exists());
        Found { device: device.to_owned(), kernel, has_module }
    }

    fn kernel_is_too_old(&self) -> bool {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < KERNEL_MIN,
            // An unknown scheme is a new one.
            _ => false,
        }
    }
}

/// What is missing, and what to do, from how both ways ended; there is no error of the first where
/// the memory has no dma-buf.
pub(super) fn missing(
    of_dma_buf: Option<&VerbsError>,
    of_peer_memory: &VerbsError,
    found: &Found,
) -> VerbsError {
    let Found { device, kernel, has_module } = found;
    let by_dma_buf = match of_dma_buf {
        None => "the GPU's driver exports no dma-buf (it needs the open kernel modules)".to_owned(),
        Some(error) if found.kernel_is_too_old() => {
            format!("the kernel {kernel} registers no dma-bufs ({error}): 5.12 or later does")
        }
        Some(error) if error.is_one_of(&NOT_OFFERED) => {
            format!("the driver of {device} takes no dma-bufs ({error}): mlx5 and later cards' do")
        }
        Some(error) => format!("{device} refused the dma-buf ({error})"),
    };
    let by_address = match (of_peer_memory, has_module) {
        (error, true) => format!("nvidia-peermem is loaded and did not help ({error})"),
        (error, false) => {
            format!("no nvidia-peermem is loaded ({error}): modprobe nvidia-peermem")
        }
    };
    let verb = of_dma_buf.map_or(of_peer_memory.verb, |error| error.verb);
    VerbsError { verb, error: std::io::Error::other(format!("{by_dma_buf}; {by_address}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(verb: &'static str, errno: i32) -> VerbsError {
        VerbsError { verb, error: std::io::Error::from_raw_os_error(errno) }
    }

    fn found(kernel: &str, has_module: bool) -> Found {
        Found { device: "mlx5_0".into(), kernel: kernel.into(), has_module }
    }

    #[test]
    fn it_is_said_which_of_kernel_driver_and_module_is_missing() {
        let (not_offered, bad) = (failed("ibv_reg_dmabuf_mr", 95), failed("ibv_reg_dmabuf_mr", 22));
        let fault = failed("ibv_reg_mr", 14);
        let cases = [
            (Some(&not_offered), found("5.10.0-8-amd64", false), "the kernel 5.10.0-8-amd64"),
            (Some(&not_offered), found("4.18.0", false), "5.12 or later"),
            (Some(&not_offered), found("6.1.0-49-amd64", false), "the driver of mlx5_0 takes no"),
            (Some(&bad), found("6.1.0-49-amd64", false), "mlx5_0 refused the dma-buf"),
            (None, found("6.1.0", false), "open kernel modules"),
            (None, found("what is this", false), "open kernel modules"),
            (Some(&not_offered), found("6.1.0", false), "modprobe nvidia-peermem"),
            (Some(&not_offered), found("6.1.0", true), "is loaded and did not help"),
        ];
        for (of_dma_buf, found, expected) in cases {
            let said = missing(of_dma_buf, &fault, &found).to_string();
            assert!(said.contains(expected), "{found:?}: {said}");
            assert!(said.contains("os error 14"), "{said}");
        }
    }
}
