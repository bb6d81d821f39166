//! Memory that the host and one worker share, for large buffers.
//!
//! A segment is a memfd sealed against resizing, so that nothing its other user does takes its pages away: that would be a
//! SIGBUS here. Its bytes are copied in and out through raw pointers. No reference to them ever exists, as Python may
//! write to them at any moment; what is read while it does is some of its bytes, and memory of our own by the time that
//! anybody looks at it.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// With these a file keeps its size, and its pages.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// A mapped segment.
#[derive(Debug)]
pub(crate) struct Segment {
    fd: OwnedFd,
    start: NonNull<c_void>,
    size: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to the value, whichever thread has it, and is only unmapped when it is dropped.
#[allow(unsafe_code)]
unsafe impl Send for Segment {}

// SAFETY: through a shared reference its bytes are only copied in and out, never referred to; that they may change
// meanwhile is so already, as another process can write to them.
#[allow(unsafe_code)]
unsafe impl Sync for Segment {}

impl Segment {
    /// A new one, to write to. All of its memory is there at once: to find none later would be a SIGBUS.
    pub(crate) fn create(size: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("snakepen-segment", flags)?;
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, size as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SIZE_SEALS | SealFlags::SEAL)?;
        Self::map(fd, size, true)
    }

    /// One that the other side has made, to read from; refused unless it is sealed.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SIZE_SEALS) {
            return refuse("the segment is not sealed against resizing");
        }
        match usize::try_from(rustix::fs::fstat(&fd)?.st_size) {
            Ok(size @ 1..) => Self::map(fd, size, false),
            _ => refuse("the segment is empty"),
        }
    }

    #[allow(unsafe_code)]
    fn map(fd: OwnedFd, size: usize, writable: bool) -> io::Result<Self> {
        let write = if writable { ProtFlags::WRITE } else { ProtFlags::empty() };
        // SAFETY: a new mapping, at an address that the kernel chooses, takes nobody's memory away.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                size,
                ProtFlags::READ | write,
                MapFlags::SHARED,
                &fd,
                0,
            )?
        };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { fd, start, size, writable })
    }

    /// Bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Copies `bytes` in; `false`, and nothing copied, where they don't fit.
    #[allow(unsafe_code)]
    #[must_use]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        if !self.writable || !self.has(offset, bytes.len()) {
            return false;
        }
        // SAFETY: the target is within the mapping, which is writable and stays mapped, with all its pages there, as the
        // file is sealed against shrinking; `bytes` cannot overlap it, as no reference into the mapping exists.
        unsafe {
            let target = self.start.cast::<u8>().add(offset).as_ptr();
            ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
        true
    }

    /// Appends so many bytes to `into`; `false`, and nothing appended, where the segment doesn't have them.
    #[allow(unsafe_code)]
    #[must_use]
    pub(crate) fn read(&self, offset: usize, length: usize, into: &mut Vec<u8>) -> bool {
        if !self.has(offset, length) {
            return false;
        }
        into.reserve(length);
        let room = into.spare_capacity_mut();
        // SAFETY: the source is within the mapping, which stays mapped, with all its pages there, as the file is sealed
        // against shrinking; `room` has at least `length` bytes, which are ours and are initialized by this, whatever
        // Python writes to the source meanwhile.
        unsafe {
            let source = self.start.cast::<u8>().add(offset).as_ptr();
            ptr::copy_nonoverlapping(source, room.as_mut_ptr().cast::<u8>(), length);
            into.set_len(into.len() + length);
        }
        true
    }

    fn has(&self, offset: usize, length: usize) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.size)
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Segment {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers to it.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.size) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}

#[cfg(test)]
mod tests;
