//! How far a handler is.

use serde::Deserialize;
use tokio::sync::watch;

/// How far a handler is, as it says with `snakepen.progress(done, total, message)`.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// How much is done, in the handler's own unit.
    pub done: f64,
    /// How much there is to do, in the same unit, if the handler has said so.
    pub total: Option<f64>,
    /// What it is at, in at most 4 KiB; empty if it has not said.
    pub message: String,
}

impl Progress {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Told(f64, Option<f64>, String);
        let Told(done, total, message) = serde_json::from_slice(json)?;
        Ok(Self { done, total, message })
    }

    /// What part is done, from 0 to 1; `None` without a total, or with one of 0.
    pub fn fraction(&self) -> Option<f64> {
        let total = self.total.filter(|&total| total != 0.0)?;
        Some((self.done / total).clamp(0.0, 1.0))
    }
}

/// The progress of a call, beside its result. Made by [`Call::progress`](crate::Call::progress) and
/// [`CallStream::progress`](crate::CallStream::progress).
///
/// It has the last value that arrived: who looks seldom misses those between, and nothing piles up.
#[derive(Clone, Debug)]
pub struct ProgressWatch(watch::Receiver<Option<Progress>>);

impl ProgressWatch {
    pub(crate) fn new(receiver: watch::Receiver<Option<Progress>>) -> Self {
        Self(receiver)
    }

    /// Of a call that nobody watches.
    pub(crate) fn ended() -> Self {
        Self(watch::channel(None).1)
    }

    /// Waits for a value that this watch has not returned yet; `None` when the call has ended, or was dropped, and there
    /// is none. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Progress> {
        self.0.changed().await.ok()?;
        self.0.borrow_and_update().clone()
    }

    /// The last value, if one has arrived.
    pub fn latest(&self) -> Option<Progress> {
        self.0.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_is_between_nothing_and_all() {
        let of = |done, total| Progress { done, total, message: String::new() }.fraction();
        assert_eq!(of(1.0, Some(4.0)), Some(0.25));
        assert_eq!(of(5.0, Some(4.0)), Some(1.0));
        assert_eq!(of(-1.0, Some(4.0)), Some(0.0));
        assert_eq!(of(1.0, None), None);
        assert_eq!(of(0.0, Some(0.0)), None);
    }

    #[tokio::test]
    async fn a_watch_has_the_last_value_and_then_the_end() {
        let (sender, receiver) = watch::channel(None);
        let mut watch = ProgressWatch::new(receiver);
        assert_eq!(watch.latest(), None);
        for json in [r#"[1.0,2.0,"a"]"#, r#"[2.0,null,"b"]"#] {
            sender.send_replace(Some(Progress::parse(json.as_bytes()).unwrap()));
        }
        drop(sender);
        let last = watch.next().await.unwrap();
        assert_eq!((last.done, last.total, &*last.message), (2.0, None, "b"));
        assert_eq!(watch.next().await, None);
        assert_eq!(watch.latest(), Some(last));
    }
}
