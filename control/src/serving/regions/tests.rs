use super::file::{FOLDER, KEY_BYTES_MAX};
use super::*;
use crate::tenants::Quota;

/// A file of shared memory, which goes with the value.
struct Shm(String);

impl Shm {
    fn new(what: &str, bytes: &[u8]) -> Shm {
        let key = format!("ferry-regions-{}-{what}", std::process::id());
        std::fs::write(format!("{FOLDER}/{key}"), bytes).unwrap();
        Shm(key)
    }

    fn path(&self) -> String {
        format!("{FOLDER}/{}", self.0)
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        std::fs::remove_file(self.path()).unwrap();
    }
}

fn tenant(name: &str) -> Arc<Tenant> {
    Tenant::new(name, Quota { bytes: 1000, ..Quota::default() })
}

fn told<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn bytes_go_in_and_out_at_their_place() {
    let (regions, a, shm) = (Regions::new(None), tenant("a"), Shm::new("place", &[7; 100]));
    regions.register(&a, "r", &format!("/{}", shm.0), 10, 80).unwrap();
    let part = regions.part(&a, "r", 20, 8).unwrap();
    part.write(&[1, 2, 3, 4]).unwrap();
    let mut read = [0; 8];
    part.read(&mut read).unwrap();
    assert_eq!(read, [1, 2, 3, 4, 7, 7, 7, 7]);
    assert_eq!(std::fs::read(shm.path()).unwrap()[30..34], [1, 2, 3, 4]);
}

#[test]
fn keys_that_lead_elsewhere_are_refused() {
    let (regions, a) = (Regions::new(None), tenant("a"));
    let long = "x".repeat(KEY_BYTES_MAX + 1);
    for key in ["", "/", ".", "..", "/..", "a/b", "../etc/passwd", "//a", "a\0b", &long] {
        let told = told(regions.register(&a, "r", key, 0, 1));
        assert!(told.starts_with("key: ") && told.contains("names no file"), "{told}");
    }
    let told_of_none = told(regions.register(&a, "r", "ferry-there-is-no-such-key", 0, 1));
    assert!(told_of_none.contains("No such file"), "{told_of_none}");
    let link = format!("{FOLDER}/ferry-regions-{}-link", std::process::id());
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    let told_of_link = told(regions.register(&a, "r", link.rsplit('/').next().unwrap(), 0, 1));
    std::fs::remove_file(&link).unwrap();
    assert!(told_of_link.contains("cannot be opened"), "{told_of_link}");
    let fifo = format!("{FOLDER}/ferry-regions-{}-fifo", std::process::id());
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    let told_of_fifo = told(regions.register(&a, "r", fifo.rsplit('/').next().unwrap(), 0, 1));
    std::fs::remove_file(&fifo).unwrap();
    assert!(made.success() && told_of_fifo.contains("no regular file"), "{told_of_fifo}");
}

#[test]
fn sizes_are_checked_without_overflow() {
    let (regions, a, shm) = (Regions::new(None), tenant("a"), Shm::new("sizes", &[0; 100]));
    for (offset, bytes) in [(0, 0), (0, 101), (100, 1), (u64::MAX, 1), (1, u64::MAX)] {
        let told = told(regions.register(&a, "r", &shm.0, offset, bytes));
        assert!(told.contains("100 bytes"), "{told}");
    }
    regions.register(&a, "r", &shm.0, 50, 50).unwrap();
    for (at, bytes) in [(0, 51), (51, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let told = told(regions.part(&a, "r", at, bytes));
        assert!(told.contains("50 bytes"), "{told}");
    }
    regions.part(&a, "r", 50, 0).unwrap();
}

#[test]
fn a_file_that_is_cut_short_is_an_error_and_not_made_longer() {
    let (regions, a, shm) = (Regions::new(None), tenant("a"), Shm::new("cut", &[1; 8192]));
    let a = Tenant::new(a.name(), Quota::default());
    regions.register(&a, "r", &shm.0, 0, 8192).unwrap();
    let part = regions.part(&a, "r", 4096, 4096).unwrap();
    std::fs::File::options().write(true).open(shm.path()).unwrap().set_len(5000).unwrap();
    let mut read = [0; 4096];
    for told in [told(part.read(&mut read)), told(part.write(&read))] {
        assert!(told.contains("cut short") && told.contains("\"r\""), "{told}");
    }
    assert_eq!(std::fs::metadata(shm.path()).unwrap().len(), 5000);
}

#[test]
fn a_region_is_its_tenants_alone_and_lives_as_long_as_it_is_used() {
    let (regions, a, b) = (Regions::new(None), tenant("a"), tenant("b"));
    let shm = Shm::new("own", &[3; 10]);
    regions.register(&a, "r", &shm.0, 0, 10).unwrap();
    assert!(matches!(regions.register(&a, "r", &shm.0, 0, 10), Err(ApiError::Exists { .. })));
    assert!(matches!(regions.part(&b, "r", 0, 1), Err(ApiError::NotFound { .. })));
    assert!(matches!(regions.list(&b, Kind::System, "r"), Err(ApiError::NotFound { .. })));
    assert!(regions.list(&b, Kind::System, "").unwrap().is_empty());
    let told = told(regions.register(&b, "mine", &shm.0, 0, 1));
    assert!(told.contains("another tenant"), "{told}");
    regions.unregister(&b, Kind::System, "r");
    regions.unregister(&b, Kind::System, "");
    assert_eq!(regions.list(&a, Kind::System, "").unwrap().len(), 1);
    let part = regions.part(&a, "r", 0, 10).unwrap();
    regions.unregister(&a, Kind::System, "r");
    assert!(regions.list(&a, Kind::System, "").unwrap().is_empty());
    let mut read = [0; 10];
    part.read(&mut read).unwrap();
    assert_eq!(read, [3; 10]);
    regions.register(&b, "mine", &shm.0, 0, 1).unwrap();
}

#[test]
fn number_and_bytes_are_bounded_and_files_of_others_refused() {
    let (regions, a, shm) = (Regions::new(None), tenant("a"), Shm::new("bounds", &[0; 900]));
    regions.register(&a, "large", &shm.0, 0, 900).unwrap();
    let quota = regions.register(&a, "more", &shm.0, 0, 101);
    assert!(matches!(quota, Err(ApiError::Quota { quota: "bytes", .. })), "{quota:?}");
    regions.unregister(&a, Kind::System, "");
    for at in 0..TENANT_MAX {
        regions.register(&a, &at.to_string(), &shm.0, 0, 1).unwrap();
    }
    let full = regions.register(&a, "one more", &shm.0, 0, 1);
    assert!(matches!(full, Err(ApiError::Busy(_))), "{full:?}");
    let told_of_name = told(regions.register(&a, "", &shm.0, 0, 1));
    assert!(told_of_name.starts_with("name: "), "{told_of_name}");
    let others = Regions::new(Some(vec![u32::MAX]));
    let told_of_owner = told(others.register(&a, "r", &shm.0, 0, 1));
    assert!(told_of_owner.contains("shm-uids"), "{told_of_owner}");
}
