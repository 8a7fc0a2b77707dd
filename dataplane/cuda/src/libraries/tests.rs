use super::*;

fn touch(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "").unwrap();
}

/// Every file of a family, and one more where it has further ones.
fn put(folder: &Path, name: &str) {
    let family = FAMILIES.iter().find(|family| family.name == name).unwrap();
    for file in family.files {
        touch(&folder.join(file));
    }
    if let Some((start, end)) = family.also {
        touch(&folder.join(format!("{start}x{end}")));
    }
}

fn search(root: &Path) -> LibrarySearch {
    LibrarySearch { root: root.to_owned(), ..LibrarySearch::default() }
}

fn files(search: &LibrarySearch, below: &Path) -> Vec<String> {
    let found = search.find().unwrap();
    let files = found.iter().flat_map(|family| &family.files);
    files.map(|it| it.strip_prefix(below).unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn python_packages_are_found_in_the_order_in_which_they_need_each_other() {
    let root = tempfile::tempdir().unwrap();
    let nvidia = root.path().join("usr/lib/python3.11/dist-packages/nvidia");
    for name in ["cuDNN", "NVRTC"] {
        put(&nvidia.join("cudnn/lib"), name);
    }
    for name in ["cuRAND", "cuFFT", "cuBLAS", "cudart"] {
        put(&nvidia.join("cu13/lib"), name);
    }
    // What is not a library of ours, and half of another version, change nothing.
    touch(&nvidia.join("cu13/lib/libnvrtc.alt.so.13"));
    touch(&nvidia.join("cublas/lib/libcublas.so.12"));
    let cu13 = "usr/lib/python3.11/dist-packages/nvidia/cu13/lib";
    let cudnn = "usr/lib/python3.11/dist-packages/nvidia/cudnn/lib";
    let expected = [
        format!("{cu13}/libcudart.so.13"),
        format!("{cu13}/libcublasLt.so.13"),
        format!("{cu13}/libcublas.so.13"),
        format!("{cu13}/libcufft.so.12"),
        format!("{cu13}/libcurand.so.10"),
        format!("{cudnn}/libnvrtc-builtins.so.13x"),
        format!("{cudnn}/libnvrtc.so.13"),
        format!("{cudnn}/libcudnn_x.so.9"),
        format!("{cudnn}/libcudnn.so.9"),
    ];
    assert_eq!(files(&search(root.path()), root.path()), expected);
}

#[test]
fn the_operators_folders_come_first_and_a_family_is_never_mixed() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    let places = [
        "given",
        "path",
        "venv/lib/python3.12/site-packages/nvidia/cu13/lib",
        "conda/lib",
        "usr/local/lib/python3.11/dist-packages/nvidia/cu13/lib",
        "usr/lib/python3/dist-packages/nvidia/cu13/lib",
        "usr/local/cuda/lib64",
    ];
    let mut search = search(here);
    search.loader = vec![here.join("path")];
    search.environments = vec![here.join("venv"), here.join("conda")];
    assert_eq!(files(&search, here), [""; 0]);
    for place in places.iter().rev() {
        put(&here.join(place), "cudart");
        if *place == "given" {
            search.explicit = vec![here.join("given")];
        }
        assert_eq!(files(&search, here), [format!("{place}/libcudart.so.13")], "{place}");
    }
    // Half of cuBLAS in the first place: all of it is taken from the next that has both.
    touch(&here.join("given/libcublas.so.13"));
    put(&here.join("usr/local/cuda/lib64"), "cuBLAS");
    let last = "usr/local/cuda/lib64";
    assert_eq!(
        files(&search, here)[1..],
        [format!("{last}/libcublasLt.so.13"), format!("{last}/libcublas.so.13")]
    );
}

#[test]
fn a_folder_above_the_packages_can_be_given() {
    let root = tempfile::tempdir().unwrap();
    let packages = root.path().join("site-packages");
    put(&packages.join("nvidia/cudnn/lib"), "cuDNN");
    for given in [packages.clone(), packages.join("nvidia"), packages.join("nvidia/cudnn/lib")] {
        let mut search = search(&root.path().join("nothing"));
        search.explicit = vec![given];
        let found = search.find().unwrap();
        assert_eq!(found[0].folder(), packages.join("nvidia/cudnn/lib"));
    }
}

#[test]
fn a_given_folder_that_is_of_no_use_is_named() {
    let root = tempfile::tempdir().unwrap();
    put(&root.path().join("good"), "cudart");
    touch(&root.path().join("file"));
    touch(&root.path().join("empty/readme"));
    for (name, what) in
        [("nowhere", "No such file"), ("file", "ot a directory"), ("empty", "no CUDA")]
    {
        let mut search = search(root.path());
        search.explicit = vec![root.path().join("good"), root.path().join(name)];
        let error = ferry_core::error_text(&search.find().unwrap_err());
        let path = root.path().join(name);
        assert!(error.starts_with(path.to_str().unwrap()) && error.contains(what), "{error}");
        search.explicit.clear();
        search.loader = vec![path.clone()];
        search.environments = vec![path];
        assert_eq!(search.find().unwrap(), [], "places that are not named may lack");
    }
}
