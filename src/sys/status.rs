//! The page that a worker and the host share: what must be known without a message, and after a death.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use rustix::fs::{MemfdFlags, SealFlags};

/// The page that a worker and the host share (`ARCHITECTURE.md`, Status page).
///
/// It is a memfd sealed against resizing. Rust reads it by `pread`, not through a mapping: no reference
/// ever aliases memory that Python can write, and nothing Python does to the file can fault the host.
#[derive(Debug)]
pub(crate) struct StatusPage {
    memory: OwnedFd,
    /// The calls that are to be cancelled.
    cancelled: Marks,
    /// Those that were written ahead, and are not to be started.
    withdrawn: Marks,
    /// What Python had seen when it was asked to look last.
    holder_before: u64,
}

/// Places on the page, each with the id of a call, or 0.
#[derive(Debug)]
struct Marks {
    /// Where they begin, in bytes.
    offset: u64,
    held: Vec<u64>,
}

impl Marks {
    fn new(offset: u64) -> Self {
        Self { offset, held: Vec::new() }
    }

    /// Where to write the id, unless it is there.
    fn add(&mut self, id: u64) -> io::Result<Option<u64>> {
        if self.held.contains(&id) {
            return Ok(None);
        }
        let place = self.held.iter().position(|&held| held == 0).unwrap_or(self.held.len());
        if place >= StatusPage::CALLS {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if place == self.held.len() {
            self.held.push(0);
        }
        self.held[place] = id;
        Ok(Some(self.offset + 8 * place as u64))
    }

    /// Where to write 0, if the id was there.
    fn remove(&mut self, id: u64) -> Option<u64> {
        let place = self.held.iter().position(|&held| held == id)?;
        self.held[place] = 0;
        Some(self.offset + 8 * place as u64)
    }

    fn count(&self) -> u64 {
        self.held.iter().filter(|&&held| held != 0).count() as u64
    }
}

impl StatusPage {
    /// Size in bytes.
    const SIZE: u64 = 8192;

    /// The most calls that a worker holds: so many places there are for those that are to be cancelled, and, beside one for
    /// plain handlers, for those that it has started.
    pub(crate) const CALLS: usize = 256;

    /// Where these words are, in bytes.
    const COPIED: u64 = 512;
    const RELEASED: u64 = 520;
    const MARKS: u64 = 528;
    const HOLDER: u64 = 536;

    /// Where those places begin, in bytes.
    const STARTED: u64 = 2040;
    const CANCELLED: u64 = 4096;
    const WITHDRAWN: u64 = 6144;

    pub(crate) fn new() -> io::Result<Self> {
        let memory = rustix::fs::memfd_create(
            "snakepen-status",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&memory, Self::SIZE)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory, seals)?;
        let (cancelled, withdrawn) = (Marks::new(Self::CANCELLED), Marks::new(Self::WITHDRAWN));
        Ok(Self { memory, cancelled, withdrawn, holder_before: 0 })
    }

    /// The request whose code keeps the event loop from everything else, as far as Python has seen when it looked last at
    /// those that are to be cancelled.
    pub(crate) fn holder(&self) -> io::Result<Option<u64>> {
        const NOBODY: u64 = u64::MAX;
        let seen = match self.word(Self::HOLDER)? {
            // It has not looked since it was asked.
            0 => self.holder_before,
            seen => seen,
        };
        Ok((seen != 0 && seen != NOBODY).then_some(seen))
    }

    /// Python is about to be asked to look again. What it has seen the last time is of use until it has.
    pub(crate) fn renew_holder(&mut self) -> io::Result<()> {
        self.holder_before = self.word(Self::HOLDER)?;
        self.write(Self::HOLDER, 0)
    }

    /// Names a request that is to be cancelled.
    pub(crate) fn cancel(&mut self, id: u64) -> io::Result<()> {
        match self.cancelled.add(id)? {
            Some(at) => self.write(at, id),
            None => Ok(()),
        }
    }

    /// A request is not to be cancelled any more.
    pub(crate) fn cancelled(&mut self, id: u64) -> io::Result<()> {
        self.cancelled.remove(id).map_or(Ok(()), |at| self.write(at, 0))
    }

    /// Says that the first of these requests, which were written ahead in this order, is not to be started. Whether that came
    /// in time: if so, it never is.
    ///
    /// Python writes that it starts a request before it looks for this mark, and here it is the other way round: one of the
    /// two sees what the other has written. Of those that it has started, its place holds the last.
    pub(crate) fn withdraw(&mut self, ahead: &[u64]) -> io::Result<bool> {
        let Some(&id) = ahead.first() else { return Ok(false) };
        if let Some(at) = self.withdrawn.add(id)? {
            self.write(at, id)?;
            self.write(Self::MARKS, self.withdrawn.count())?;
        }
        fence(Ordering::SeqCst);
        let last = self.word(Self::STARTED)?;
        let in_time = !ahead.contains(&last);
        if !in_time {
            self.passed(id)?;
        }
        Ok(in_time)
    }

    /// Python has passed a request over that was not to be started.
    pub(crate) fn passed(&mut self, id: u64) -> io::Result<()> {
        let Some(at) = self.withdrawn.remove(id) else { return Ok(()) };
        self.write(at, 0)?;
        // Without any, Python need not look for one.
        self.write(Self::MARKS, self.withdrawn.count())
    }

    fn write(&self, offset: u64, word: u64) -> io::Result<()> {
        let written = rustix::io::pwrite(&self.memory, &word.to_le_bytes(), offset)?;
        if written == 8 { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn word(&self, offset: u64) -> io::Result<u64> {
        let mut word = [0_u8; 8];
        let read = rustix::io::pread(&self.memory, &mut word, offset)?;
        if read != word.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(u64::from_le_bytes(word))
    }

    /// The ids in the places of requests that Python has started; 0 where none was ever.
    pub(crate) fn started(&self) -> io::Result<Vec<u64>> {
        let mut words = [0_u8; 8 * (Self::CALLS + 1)];
        let read = rustix::io::pread(&self.memory, &mut words, Self::STARTED)?;
        if read != words.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (ids, _) = words.as_chunks::<8>();
        Ok(ids.iter().map(|&id| u64::from_le_bytes(id)).collect())
    }

    /// Says that the buffers of the result with this serial are copied out of their segment.
    pub(crate) fn copied(&self, serial: u64) -> io::Result<()> {
        // Not before they are.
        fence(Ordering::SeqCst);
        self.write(Self::COPIED, serial)
    }

    /// The serial of the arguments that Python has given back last, and whether it has kept a view of them.
    pub(crate) fn released(&self) -> io::Result<(u64, bool)> {
        let word = self.word(Self::RELEASED)?;
        Ok((word >> 1, word & 1 == 1))
    }
}

impl AsFd for StatusPage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}
