//! The embedded Python package, on disk.
//!
//! Workers, and processes that they spawn (`multiprocessing`, joblib), import `snakepen` by path, so it has to be
//! a directory. It is written once per version of its contents, into a cache directory that only this user can
//! write; what stands there is compared at each start and replaced where it differs.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

/// The program that `python -c` runs to reach the package; it parses on every Python 3.
pub(crate) const BOOTSTRAP: &str = include_str!("../python_worker/bootstrap.py");

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// The package's files, as (path in the package directory, text).
        const FILES: &[(&str, &str)] = &[
            $((concat!("snakepen/", $name), include_str!(concat!("../python_worker/snakepen/", $name)))),*
        ];
    };
}

files!(
    "__init__.py",
    "_actor.py",
    "_actors.py",
    "_async.py",
    "_batch.py",
    "_cancel.py",
    "_cgroup.py",
    "_codec.py",
    "_config.py",
    "_connection.py",
    "_control.py",
    "_diagnosis.py",
    "_directory.py",
    "_errors.py",
    "_fork.py",
    "_fresh.py",
    "_handlers.py",
    "_input.py",
    "_json.py",
    "_launcher.py",
    "_linux.py",
    "_logging.py",
    "_overlap.py",
    "_programs.py",
    "_progress.py",
    "_request.py",
    "_segment.py",
    "_serve.py",
    "_session.py",
    "_startup.py",
    "_status.py",
    "_store.py",
    "_stream.py",
    "_waiter.py",
    "_wire.py",
    "_worker.py",
    "contrib/__init__.py",
    "contrib/dspy/__init__.py",
    "contrib/dspy/_errors.py",
    "contrib/dspy/_handlers.py",
    "contrib/dspy/_history.py",
    "contrib/dspy/_library.py",
    "contrib/dspy/_lm.py",
    "contrib/dspy/_optimize.py",
    "contrib/dspy/_places.py",
    "contrib/dspy/_programs.py",
    "contrib/dspy/_signatures.py",
    "contrib/dspy/_values.py",
    "py.typed",
);

/// The directory that contains `snakepen/`, written if need be.
pub(crate) fn directory() -> Result<PathBuf, String> {
    let mut hasher = DefaultHasher::new();
    FILES.hash(&mut hasher);
    let leaf = format!("{}-{:016x}", env!("CARGO_PKG_VERSION"), hasher.finish());
    let mut reasons = Vec::new();
    for base in candidates() {
        let directory = base.join(&leaf);
        match install(&base, &directory) {
            Ok(()) => return Ok(directory),
            Err(error) => reasons.push(format!("{}: {error}", directory.display())),
        }
    }
    Err(reasons.join("; "))
}

fn candidates() -> Vec<PathBuf> {
    let variable =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(chosen) = std::env::var_os("SNAKEPEN_CACHE_DIR") {
        return vec![std::path::absolute(&chosen).unwrap_or_else(|_| chosen.into())];
    }
    let mut bases = Vec::new();
    if let Some(cache) = variable("XDG_CACHE_HOME") {
        bases.push(cache.join("snakepen"));
    }
    if let Some(home) = variable("HOME") {
        bases.push(home.join(".cache/snakepen"));
    }
    bases.push(std::env::temp_dir().join(format!("snakepen-{}", sys::effective_uid())));
    bases
}

fn install(base: &Path, directory: &Path) -> io::Result<()> {
    let parts: BTreeSet<PathBuf> =
        FILES.iter().filter_map(|(name, _)| Some(directory.join(name).parent()?.into())).collect();
    for part in &parts {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(part)?;
    }
    // A directory that somebody else owns, or can write, could hold somebody else's code.
    for part in [base, directory].into_iter().chain(parts.iter().map(PathBuf::as_path)) {
        let data = fs::symlink_metadata(part)?;
        if !data.is_dir() || data.uid() != sys::effective_uid() || data.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} is not a directory that only this user can write", part.display()),
            ));
        }
    }
    for (name, text) in FILES {
        let path = directory.join(name);
        if fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            continue;
        }
        write_whole(&path, text)?;
    }
    Ok(())
}

/// Writes a file so that nobody ever sees half of it.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let draft = path.with_extension(format!("{}-{serial}.tmp", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests;
