//! Whether two processes can share memory.

use std::sync::OnceLock;

/// A name that is equal for two processes exactly if each can reach the other's sockets in the
/// abstract namespace, where shared memory is handed over: the kernel's boot and the network
/// namespace. Empty where the system does not tell; an empty name is equal to none.
///
/// A peer may lie about it and gains nothing: the socket is where it is.
pub fn host_id() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let net = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
        let (boot, net) = (boot.trim(), net.to_string_lossy());
        if boot.is_empty() || net.is_empty() { String::new() } else { format!("{boot}/{net}") }
    })
}

/// Whether a peer that names itself `other` shares this process's host.
pub fn is_this_host(other: &str) -> bool {
    !other.is_empty() && other == host_id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shares_its_own_host_and_no_nameless_one() {
        assert_eq!(is_this_host(host_id()), cfg!(target_os = "linux"));
        assert!(!is_this_host(""));
        assert!(!is_this_host("another"));
    }
}
