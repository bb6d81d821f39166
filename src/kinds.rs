//! What kind of function each handler is, as far as the scheduler has to know. The workers say so when they are ready.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;

use crate::scheduler::{Batch, Wish};

/// The part of READY that is read here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Told {
    handlers: Vec<String>,
    /// Those that are `async def`.
    #[serde(rename = "async")]
    overlapping: Vec<String>,
    /// The size of a batch, and the microseconds that its first call waits.
    batches: BTreeMap<String, (u16, u64)>,
}

/// What the workers that became ready last have said.
#[derive(Debug)]
pub(crate) struct Kinds {
    /// Whether several calls of a worker overlap.
    overlaps: bool,
    /// Whether there is anything to know: else a call needs no look.
    any: AtomicBool,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    kinds: HashMap<String, Kind>,
    /// The numbers of the handlers whose calls are gathered; they stay theirs.
    numbers: HashMap<String, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    alone: bool,
    batch: Option<Batch>,
}

impl Kinds {
    pub(crate) fn new(overlaps: bool) -> Self {
        Self { overlaps, any: AtomicBool::new(false), known: RwLock::default() }
    }

    /// A worker is ready.
    pub(crate) fn learn(&self, told: &Told) {
        if !self.overlaps && told.batches.is_empty() && !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let Known { kinds, numbers } = &mut *known;
        kinds.clear();
        for handler in &told.handlers {
            let batch = told.batches.get(handler).map(|&(size, wait)| {
                let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                let number = *numbers.entry(handler.clone()).or_insert(next);
                Batch { handler: number, size, wait: Duration::from_micros(wait) }
            });
            let alone = self.overlaps && !told.overlapping.contains(handler);
            if alone || batch.is_some() {
                kinds.insert(handler.clone(), Kind { alone, batch });
            }
        }
        self.any.store(!kinds.is_empty(), Ordering::Release);
    }

    /// Notes in the wish what kind of handler is called.
    pub(crate) fn apply(&self, handler: &str, wish: &mut Wish) {
        if self.any.load(Ordering::Acquire) {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(&Kind { alone, batch }) = known.kinds.get(handler) {
                wish.alone = alone;
                wish.batch = batch;
            }
        }
    }
}
