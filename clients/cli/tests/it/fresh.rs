//! Whether a binary of another package is of the sources that lie here. Cargo builds the binaries of
//! the package under test alone: any other that it left behind may be of yesterday.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The newest source of `binary` that changed after it was built, if there is one. It is made of
/// `package` and of all packages of ours that this needs, whose sources rustc lists in `deps`
/// beside it, relative to the folder `root`.
///
/// # Errors
/// That there is no such binary, or nothing that tells of its sources.
pub(crate) fn newer(root: &Path, binary: &Path, package: &str) -> io::Result<Option<PathBuf>> {
    let built = fs::metadata(binary)?.modified()?;
    let deps = binary.with_file_name("deps");
    let (mut known, mut next) = (BTreeSet::new(), vec![package.to_owned()]);
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    while let Some(package) = next.pop() {
        if !known.insert(package.clone()) {
            continue;
        }
        let mut library = None;
        for source in sources(&deps, &package.replace('-', "_"))? {
            let file = root.join(&source);
            if source.ends_with("src/lib.rs") {
                library = Some(file.clone());
            }
            // One that is gone is not missed by whoever still names it: that would not compile.
            let changed = fs::metadata(&file).and_then(|file| file.modified());
            newest = newest.max(changed.ok().map(|changed| (changed, file)));
        }
        let folder = library.as_deref().and_then(Path::parent).and_then(Path::parent);
        let Some(folder) = folder else {
            // An optional one, of a feature that is off.
            if known.len() > 1 {
                continue;
            }
            return Err(io::Error::other(format!("{package} was not built")));
        };
        let manifest = folder.join("Cargo.toml");
        next.extend(dependencies(&fs::read_to_string(manifest)?));
    }
    Ok(newest.filter(|&(changed, _)| changed > built).map(|(_, file)| file))
}

/// What the library `name` was compiled of, in every build of it that is kept; its tests apart.
fn sources(deps: &Path, name: &str) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(deps)? {
        let file = entry?.file_name().into_string().unwrap_or_default();
        let build = file.strip_prefix("lib").and_then(|file| file.strip_suffix(".rlib"));
        let Some(build) = build.filter(|it| it.rsplit_once('-').is_some_and(|it| it.0 == name))
        else {
            continue;
        };
        let list = fs::read_to_string(deps.join(format!("{build}.d")))?;
        let (_, files) =
            list.lines().next().and_then(|all| all.split_once(": ")).unwrap_or_default();
        let files = files.replace("\\ ", "\0");
        found.extend(files.split(' ').map(|file| PathBuf::from(file.replace('\0', " "))));
    }
    Ok(found)
}

/// Packages of ours that a manifest needs, those of its tests apart.
fn dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| name.starts_with("ferry-")).map(str::to_owned).collect()
}

#[test]
fn a_binary_that_is_older_than_what_it_was_built_of_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str, seconds| {
        fs::create_dir_all(file(name).parent().unwrap()).unwrap();
        fs::write(file(name), text).unwrap();
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::options().write(true).open(file(name)).unwrap().set_modified(at).unwrap();
    };
    let package = |name: &str, needs: &str| {
        let manifest =
            format!("[dependencies]\n{needs}\nserde = 1\n[dev-dependencies]\nferry-t.w = 1\n");
        write(&format!("{name}/Cargo.toml"), &manifest, 9);
        let list =
            format!("/x/ferry_{name}-1.d: {name}/src/lib.rs {name}/src/a\\ b.rs\n\nferry.d: z\n");
        write(&format!("out/deps/ferry_{name}-1.d"), &list, 9);
        write(&format!("out/deps/libferry_{name}-1.rlib"), "", 9);
        // Of its tests: there is no library beside it.
        write(&format!("out/deps/ferry_{name}-2.d"), &format!("x: {name}/src/tests.rs\n"), 9);
        for (source, seconds) in [("lib", 1), ("a b", 2), ("tests", 9)] {
            write(&format!("{name}/src/{source}.rs"), "", seconds);
        }
    };
    package("a", "ferry-b.workspace = true");
    package("b", "ferry-a = { workspace = true, optional = true }");
    write("out/binary", "", 3);
    let newer = || newer(folder.path(), &file("out/binary"), "ferry-a");
    assert_eq!(newer().unwrap(), None);
    write("b/src/a b.rs", "", 4);
    assert_eq!(newer().unwrap(), Some(file("b/src/a b.rs")));
    write("out/binary", "", 5);
    assert_eq!(newer().unwrap(), None);
    // Optional, and off.
    fs::remove_file(file("out/deps/libferry_b-1.rlib")).unwrap();
    assert_eq!(newer().unwrap(), None);
    fs::remove_file(file("out/deps/libferry_a-1.rlib")).unwrap();
    newer().unwrap_err();
    package("a", "");
    fs::remove_file(file("out/binary")).unwrap();
    newer().unwrap_err();
}
