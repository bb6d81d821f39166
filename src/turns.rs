//! Whose turn it is among the calls of one session that run one at a time, in order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// The sessions whose turn somebody has, each with those that wait for it, in order.
type Queues = HashMap<String, VecDeque<oneshot::Sender<Turn>>>;

/// The turns of all sessions. A session in which nothing runs or waits takes no room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns(Arc<Mutex<Queues>>);

/// A session's turn: when it is dropped, the next one has it.
#[derive(Debug)]
pub(crate) struct Turn {
    session: String,
    turns: Turns,
    /// It was passed on.
    passed: bool,
}

impl Turns {
    /// A place in the session's line; resolves when it is its turn. A receiver that is dropped gives its place up.
    pub(crate) fn line_up(&self, session: &str) -> oneshot::Receiver<Turn> {
        let (sender, receiver) = oneshot::channel();
        let mut queues = self.lock();
        match queues.get_mut(session) {
            Some(waiting) => {
                // Those that have left are passed over in their turn; a line of nothing else must not grow.
                if waiting.len() == waiting.capacity() {
                    waiting.retain(|sender| !sender.is_closed());
                }
                waiting.push_back(sender);
            }
            None => {
                queues.insert(session.to_owned(), VecDeque::new());
                let turn = Turn { session: session.to_owned(), turns: self.clone(), passed: false };
                // Its receiver is here.
                let sent = sender.send(turn);
                drop(queues);
                drop(sent);
            }
        }
        receiver
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Whose turn it is.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        let mut turn = Turn {
            session: std::mem::take(&mut self.session),
            turns: self.turns.clone(),
            passed: false,
        };
        loop {
            let next = {
                let mut queues = turn.turns.lock();
                let next = queues.get_mut(&turn.session).and_then(VecDeque::pop_front);
                if next.is_none() {
                    queues.remove(&turn.session);
                }
                next
            };
            let Some(next) = next else { break };
            match next.send(turn) {
                Ok(()) => return,
                Err(back) => turn = back,
            }
        }
        turn.passed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_in_order() {
        let turns = Turns::default();
        let first = turns.line_up("a").await.unwrap();
        let mut second = turns.line_up("a");
        let third = turns.line_up("a");
        let mut fourth = turns.line_up("a");
        let other = turns.line_up("b").await.unwrap();
        assert!(second.try_recv().is_err());
        drop(third);
        drop(first);
        let second = second.try_recv().unwrap();
        assert!(fourth.try_recv().is_err());
        drop(second);
        drop(fourth.try_recv().unwrap());
        drop(other);
        assert!(turns.lock().is_empty());
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_is_passed_on() {
        let turns = Turns::default();
        let held = turns.line_up("a").await.unwrap();
        let mut waiting = turns.line_up("a");
        drop(held);
        // It was sent, and is dropped with its channel.
        let mut last = turns.line_up("a");
        assert!(last.try_recv().is_err());
        waiting.close();
        drop(waiting);
        drop(last.try_recv().unwrap());
        assert!(turns.lock().is_empty());
    }

    #[test]
    fn a_line_of_calls_that_have_left_stays_short() {
        let turns = Turns::default();
        let held = turns.line_up("a").blocking_recv().unwrap();
        for _ in 0..100_000 {
            drop(turns.line_up("a"));
        }
        assert!(turns.lock()["a"].capacity() < 100);
        drop(held);
        assert!(turns.lock().is_empty());
    }
}
