use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// The texts of all files under `base/name`, by their paths in `base`.
fn files(base: &Path, name: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(base.join(name)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{name}/{}", entry.file_name().into_string().unwrap());
        if path.ends_with("/__pycache__") {
        } else if entry.file_type().unwrap().is_dir() {
            found.extend(files(base, &path));
        } else {
            found.insert(path, fs::read_to_string(entry.path()).unwrap());
        }
    }
    found
}

#[test]
fn all_files_of_the_package_are_embedded() {
    let there = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("python_worker"), "snakepen");
    let embedded: BTreeMap<_, _> =
        FILES.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&embedded), names(&there));
    assert!(embedded == there, "built from other texts than are there");
}

/// A base directory like a user's cache, and the directory for the package in it.
fn cache() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let guard = tempfile::tempdir().unwrap();
    let base = guard.path().join("cache/snakepen");
    let directory = base.join("version");
    (guard, base, directory)
}

#[track_caller]
fn assert_whole(directory: &Path) {
    for (name, text) in FILES {
        assert_eq!(fs::read_to_string(directory.join(name)).unwrap(), *text, "{name}");
    }
    assert_eq!(files(directory, "snakepen").len(), FILES.len(), "drafts are left");
}

#[test]
fn the_package_is_written_whole_and_again_where_it_differs() {
    let (_guard, base, directory) = cache();
    install(&base, &directory).unwrap();
    assert_whole(&directory);

    let damaged = directory.join("snakepen/_worker.py");
    fs::write(&damaged, "half a fi").unwrap();
    fs::remove_file(directory.join("snakepen/_wire.py")).unwrap();
    let kept = directory.join("snakepen/_json.py");
    let before = fs::metadata(&kept).unwrap().ino();
    install(&base, &directory).unwrap();
    assert_whole(&directory);
    assert_eq!(fs::metadata(&kept).unwrap().ino(), before, "what is right is left alone");
}

#[test]
fn many_that_start_at_once_all_find_it_whole() {
    let (_guard, base, directory) = cache();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                install(&base, &directory).unwrap();
                for (name, text) in FILES {
                    assert_eq!(fs::read_to_string(directory.join(name)).unwrap(), *text);
                }
            });
        }
    });
    assert_whole(&directory);
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let (_guard, base, directory) = cache();
    install(&base, &directory).unwrap();
    let package = directory.join("snakepen");
    for part in
        [&base, &directory, &package, &package.join("contrib"), &package.join("contrib/dspy")]
    {
        fs::set_permissions(part, fs::Permissions::from_mode(0o770)).unwrap();
        let error = install(&base, &directory).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains(part.to_str().unwrap()), "{error}");
        fs::set_permissions(part, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn a_link_in_the_place_of_the_directory_is_refused() {
    let (guard, base, directory) = cache();
    let elsewhere = guard.path().join("elsewhere");
    install(&elsewhere, &elsewhere.join("version")).unwrap();
    fs::create_dir_all(&base).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("version"), &directory).unwrap();
    let error = install(&base, &directory).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}
