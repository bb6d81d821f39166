//! A file that can be written without being changed: what is written stays in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use redb::StorageBackend;

const PAGE: u64 = 4096;

/// Lets a database be opened, repaired and checked as a rehearsal.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    len: u64,
    /// The file counts up to here: less than its length if it was shortened.
    kept: u64,
    pages: HashMap<u64, Box<[u8]>>,
}

impl Overlay {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, state: Mutex::new(State { len, kept: len, pages: HashMap::new() }) })
    }
}

impl State {
    /// A page as the file has it, zeros beyond its end.
    fn original(&self, file: &File, number: u64) -> io::Result<Box<[u8]>> {
        let mut page = vec![0; PAGE as usize];
        let start = number * PAGE;
        if start < self.kept {
            let there = (self.kept - start).min(PAGE) as usize;
            file.read_exact_at(&mut page[..there], start)?;
        }
        Ok(page.into())
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + len as u64;
        if end > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut data = vec![0; len];
        if offset < state.kept {
            let there = (state.kept.min(end) - offset) as usize;
            self.file.read_exact_at(&mut data[..there], offset)?;
        }
        for number in offset / PAGE..end.div_ceil(PAGE) {
            if let Some(page) = state.pages.get(&number) {
                let start = (number * PAGE).max(offset);
                let stop = ((number + 1) * PAGE).min(end);
                let from = (start - number * PAGE) as usize;
                data[(start - offset) as usize..(stop - offset) as usize]
                    .copy_from_slice(&page[from..from + (stop - start) as usize]);
            }
        }
        Ok(data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if len < state.len {
            // What is cut off comes back as zeros.
            let last = len / PAGE;
            let mut page = match state.pages.remove(&last) {
                Some(page) => page,
                None => state.original(&self.file, last)?,
            };
            page[(len % PAGE) as usize..].fill(0);
            state.pages.retain(|&number, _| number < last);
            state.pages.insert(last, page);
            state.kept = state.kept.min(len);
        }
        state.len = len;
        Ok(())
    }

    fn sync_data(&self, _eventual: bool) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + data.len() as u64;
        for number in offset / PAGE..end.div_ceil(PAGE) {
            let mut page = match state.pages.remove(&number) {
                Some(page) => page,
                None => state.original(&self.file, number)?,
            };
            let start = (number * PAGE).max(offset);
            let stop = ((number + 1) * PAGE).min(end);
            let from = (start - number * PAGE) as usize;
            page[from..from + (stop - start) as usize]
                .copy_from_slice(&data[(start - offset) as usize..(stop - offset) as usize]);
            state.pages.insert(number, page);
        }
        Ok(())
    }
}
