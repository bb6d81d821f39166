//! Sources that seldom have anything to tell, polled when one of them has woken the task and not whenever the task runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Some sources that share a waker. A task that has a dozen of them, and is woken by one that is none of these, would spend
/// more time on asking them in vain than on what it was woken for.
#[derive(Debug)]
pub(super) struct Quiet {
    flag: Arc<Flag>,
    waker: Waker,
    /// What the flag wakes, as known to it.
    task: Waker,
}

#[derive(Debug)]
struct Flag {
    /// One of them may have something.
    woken: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
    }
}

impl Quiet {
    /// Nothing was asked yet.
    pub(super) fn new() -> Self {
        let task = Waker::noop().clone();
        let flag = Arc::new(Flag { woken: AtomicBool::new(true), task: Mutex::new(task.clone()) });
        Self { waker: Arc::clone(&flag).into(), flag, task }
    }

    /// They are to be asked when this is polled next: something else than their waker has changed them.
    pub(super) fn again(&self) {
        self.flag.woken.store(true, Ordering::Release);
    }

    /// Whether one of them may have something that was not asked for yet.
    pub(super) fn is_woken(&self) -> bool {
        self.flag.woken.load(Ordering::Acquire)
    }

    /// Asks them with `ask`, if there is reason to. That asks all of them, up to the first that is ready.
    pub(super) fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        ask: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // First: whoever sets the flag after it was looked at wakes this task.
        if !self.task.will_wake(cx.waker()) {
            self.task.clone_from(cx.waker());
            let mut task = self.flag.task.lock().unwrap_or_else(PoisonError::into_inner);
            task.clone_from(cx.waker());
        }
        if !self.is_woken() {
            return Poll::Pending;
        }
        // What wakes it from now on, even while it is asked, counts.
        self.flag.woken.swap(false, Ordering::AcqRel);
        let polled = ask(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            self.again();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::{Pin, pin};

    use tokio::sync::oneshot;

    use super::*;

    /// Asks until one of the receivers has something; counts how often it asks.
    async fn first(
        quiet: &mut Quiet,
        receivers: &mut [oneshot::Receiver<u8>],
        asked: &mut u32,
    ) -> u8 {
        poll_fn(|cx| {
            quiet.poll(cx, |cx| {
                *asked += 1;
                for receiver in &mut *receivers {
                    if let Poll::Ready(value) = Pin::new(receiver).poll(cx) {
                        return Poll::Ready(value.unwrap());
                    }
                }
                Poll::Pending
            })
        })
        .await
    }

    #[test]
    fn they_are_asked_when_one_of_them_has_woken_the_task() {
        let (mut quiet, mut asked) = (Quiet::new(), 0);
        let (sender, receiver) = oneshot::channel();
        let (_idle, idle) = oneshot::channel();
        let mut receivers = [idle, receiver];
        let mut next = Box::pin(first(&mut quiet, &mut receivers, &mut asked));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(next.as_mut().poll(&mut cx).is_pending());
        }
        sender.send(7).unwrap();
        assert_eq!(next.as_mut().poll(&mut cx), Poll::Ready(7));
        drop(next);
        assert_eq!(asked, 2, "once to begin with, and once woken");
        assert!(quiet.is_woken(), "others may have something as well");
    }

    #[tokio::test]
    async fn the_task_that_asked_last_is_woken() {
        let mut quiet = Quiet::new();
        let (sender, receiver) = oneshot::channel();
        let mut receivers = [receiver];
        {
            // By nobody who could be woken.
            let mut asked = 0;
            let mut next = pin!(first(&mut quiet, &mut receivers, &mut asked));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(next.as_mut().poll(&mut cx).is_pending());
        }
        let waits = tokio::spawn(async move { first(&mut quiet, &mut receivers, &mut 0).await });
        tokio::task::yield_now().await;
        sender.send(9).unwrap();
        assert_eq!(waits.await.unwrap(), 9);
    }
}
