//! The file of a durable store: found, locked, and looked at before anything is written to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageError};
use rustix::fs::{FlockOperation, flock};

use super::disk::{Disk, DiskError};
use super::overlay::Overlay;
use crate::session::SessionError;

/// The first bytes of every `redb` file.
const MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";

/// The pages of the file that are kept: all that is read at work is the way to what is written.
const CACHE: usize = 16 << 20;

/// Opens the file, or creates it. It is not written to before it is known to be whole, and a session store's.
pub(super) fn open(path: &Path) -> Result<Disk, SessionError> {
    let file = lock(path)?;
    if is_empty(path, &file)? {
        create(path)?;
        // Under its name there is another file now.
        drop(file);
        return start(path, lock(path)?);
    }
    rehearse(path, &file)?;
    start(path, file)
}

fn reject(path: &Path, message: impl Into<String>) -> SessionError {
    SessionError::File { path: path.to_owned(), message: message.into() }
}

/// Opens it for writing, with a lock that ends with this process.
fn lock(path: &Path) -> Result<File, SessionError> {
    loop {
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => ": create its directory first",
                io::ErrorKind::IsADirectory => ": give the path of a file in it",
                _ => "",
            };
            reject(path, format!("cannot open it for writing: {error}{hint}"))
        })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(reject(
                    path,
                    "another store has it open, here or in another process: close that one first, or give another path",
                ));
            }
            Err(error) => return Err(reject(path, format!("cannot lock it: {error}"))),
        }
        // Somebody may have put another file in its place between the two.
        let same = |found: fs::Metadata| -> io::Result<bool> {
            let mine = file.metadata()?;
            Ok((mine.dev(), mine.ino()) == (found.dev(), found.ino()))
        };
        if fs::metadata(path).and_then(same).unwrap_or(false) {
            return Ok(file);
        }
    }
}

/// Whether it has just been made; an error if it is something else than a database.
fn is_empty(path: &Path, mut file: &File) -> Result<bool, SessionError> {
    let mut start = Vec::new();
    let read = file.rewind().and_then(|()| file.take(MAGIC.len() as u64).read_to_end(&mut start));
    read.map_err(|error| reject(path, format!("cannot read it: {error}")))?;
    if start.is_empty() {
        return Ok(true);
    }
    if start == MAGIC { Ok(false) } else { Err(foreign(path)) }
}

fn foreign(path: &Path) -> SessionError {
    reject(path, "it is no session store of Snakepen: give another path, or move the file away")
}

fn damaged(path: &Path, detail: &str) -> SessionError {
    reject(
        path,
        format!(
            "it is damaged ({detail}) and was left as it is: put a backup in its place, or move it away to begin with an empty store"
        ),
    )
}

/// Makes a whole store beside an empty file, and puts it in its place at once: there is no half-made one.
fn create(path: &Path) -> Result<(), SessionError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let failed = |message: String| reject(path, format!("cannot create it: {message}"));
    let made = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&draft);
    let file = made.map_err(|error| failed(error.to_string()))?;
    let disk = Disk::create(database(FileBackend::new(file)).map_err(|e| failed(e.to_string()))?);
    drop(disk.map_err(|error| failed(error.to_string()))?);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let named = fs::rename(&draft, path)
        .and_then(|()| File::open(directory.unwrap_or(Path::new(".")))?.sync_all());
    named.map_err(|error| failed(error.to_string()))
}

fn database<B: redb::StorageBackend>(
    backend: Result<B, DatabaseError>,
) -> Result<Database, DatabaseError> {
    Database::builder()
        .create_with_file_format_v3(true)
        .set_cache_size(CACHE)
        .create_with_backend(backend?)
}

/// Opens and checks the whole of it, with all writes kept in memory.
fn rehearse(path: &Path, file: &File) -> Result<(), SessionError> {
    let check = || -> Result<(), DiskError> {
        let overlay = file.try_clone().and_then(Overlay::new).map_err(StorageError::Io)?;
        let mut database = database(Ok(overlay))?;
        if !database.check_integrity()? {
            return Err(DiskError::Damaged("a checksum is wrong".to_owned()));
        }
        Disk::open(database)?.load(0, |_| {}, |_| {})
    };
    // Of a file that is not what it seems, the database makes an assertion that fails.
    match catch_unwind(AssertUnwindSafe(check)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(DiskError::Foreign)) => Err(foreign(path)),
        Ok(Err(DiskError::Newer(format))) => Err(reject(
            path,
            format!("it has the format {format} of a later version of Snakepen: use that version"),
        )),
        Ok(Err(error)) => Err(damaged(path, &error.to_string())),
        Err(_) => Err(damaged(path, "its parts do not fit each other")),
    }
}

fn start(path: &Path, file: File) -> Result<Disk, SessionError> {
    let opened = database(FileBackend::new(file)).map_err(DiskError::from).and_then(Disk::open);
    opened.map_err(|error| reject(path, format!("cannot open it: {error}")))
}
