//! What kind of function each handler is, as far as the scheduler has to know. The workers say so when they are ready.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;

use crate::config::Limits;
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
    /// How many calls may be written ahead, of the handlers that say so.
    prefetch: BTreeMap<String, u8>,
}

/// What the workers that became ready last have said.
#[derive(Debug)]
pub(crate) struct Kinds {
    /// Whether several calls of a worker overlap.
    overlaps: bool,
    /// How many calls may be written ahead, where a handler says nothing.
    prefetch: u8,
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

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Kind {
    alone: bool,
    batch: Option<Batch>,
    ahead: u8,
}

impl Kinds {
    pub(crate) fn new(limits: &Limits) -> Self {
        let Limits { concurrency, prefetch, .. } = *limits;
        let (any, known) = (AtomicBool::new(false), RwLock::default());
        Self { overlaps: concurrency > 1, prefetch, any, known }
    }

    /// A worker is ready.
    pub(crate) fn learn(&self, told: &Told) {
        let told_some = !told.batches.is_empty() || !told.prefetch.is_empty();
        let knows_some = self.overlaps || self.prefetch > 0 || self.any.load(Ordering::Acquire);
        if !told_some && !knows_some {
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
            // Where calls overlap, they are with their worker all the same.
            let ahead = match batch {
                None if !self.overlaps => *told.prefetch.get(handler).unwrap_or(&self.prefetch),
                _ => 0,
            };
            let kind = Kind { alone, batch, ahead };
            if kind != Kind::default() {
                kinds.insert(handler.clone(), kind);
            }
        }
        self.any.store(!kinds.is_empty(), Ordering::Release);
    }

    /// Whether calls of any handler may be written ahead.
    pub(crate) fn any_ahead(&self) -> bool {
        self.any.load(Ordering::Acquire) && {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.kinds.values().any(|kind| kind.ahead > 0)
        }
    }

    /// Notes in the wish what kind of handler is called.
    pub(crate) fn apply(&self, handler: &str, wish: &mut Wish) {
        if self.any.load(Ordering::Acquire) {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(&Kind { alone, batch, ahead }) = known.kinds.get(handler) {
                wish.alone = alone;
                wish.batch = batch;
                wish.ahead = ahead;
            }
        }
    }
}
