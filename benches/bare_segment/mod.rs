//! The least that can bring an array to Python and back: two segments that are mapped once and used again and again. The host
//! copies the array into one, and sends its size; Python copies it into the other, and sends that back; the host copies
//! it out.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// The largest array, in bytes.
const LARGEST: usize = 16 << 20;

const BARE: &str = "
import mmap, os, socket, sys
port = socket.socket(socket.AF_UNIX)
port.connect(sys.argv[1])
ours, theirs = (mmap.mmap(os.open(path, os.O_RDWR), 0) for path in sys.argv[2:4])
view = memoryview(ours)
while message := port.recv(8):
    size = int.from_bytes(message, 'little')
    if size:
        theirs[:size] = view[:size]
    port.send(message)
";

/// A segment that is mapped for as long as the program runs.
struct Mapped {
    fd: OwnedFd,
    start: *mut u8,
}

// SAFETY: the mapping is used by whoever has the value, and by nobody else.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new() -> Self {
        let fd = rustix::fs::memfd_create("bare", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
        rustix::fs::ftruncate(&fd, LARGEST as u64).expect("memory");
        let (null, access) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start =
            unsafe { libc::mmap(null, LARGEST, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        assert_ne!(start, libc::MAP_FAILED, "memory");
        Self { fd, start: start.cast() }
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= LARGEST);
        // SAFETY: the mapping is that large, and nothing refers to it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start, bytes.len()) };
    }

    fn read(&self, bytes: &mut [u8]) {
        assert!(bytes.len() <= LARGEST);
        // SAFETY: the mapping is that large, and nothing refers to it.
        unsafe { std::ptr::copy_nonoverlapping(self.start, bytes.as_mut_ptr(), bytes.len()) };
    }
}

/// The host's end, and the process.
pub(crate) struct BareSegment {
    port: UnixStream,
    there: Mapped,
    back: Mapped,
    received: Vec<u8>,
    _child: tokio::process::Child,
}

impl BareSegment {
    /// Starts a Python process that has both segments mapped.
    pub(crate) async fn start(python: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("bare");
        let listener = UnixListener::bind(&path).expect("a socket");
        let (there, back) = (Mapped::new(), Mapped::new());
        let child = tokio::process::Command::new(python)
            .args(["-c", BARE])
            .arg(&path)
            .args([there.path(), back.path()])
            .kill_on_drop(true)
            .spawn()
            .expect("a Python process");
        let (port, _) = listener.accept().await.expect("a connection");
        Self { port, there, back, received: vec![0; LARGEST], _child: child }
    }

    /// There and back; `in_place` is only read in Python, and not copied back.
    pub(crate) async fn echo(&mut self, data: &[u8], in_place: bool) {
        self.there.write(data);
        let message = if in_place { 0 } else { data.len() as u64 };
        self.port.write_all(&message.to_le_bytes()).await.expect("a process that listens");
        let mut answer = [0; 8];
        self.port.read_exact(&mut answer).await.expect("a process that answers");
        if !in_place {
            self.back.read(&mut self.received[..data.len()]);
        }
    }
}
