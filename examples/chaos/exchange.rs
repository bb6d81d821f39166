//! Streams, inputs and progress: what is sent, and what must have come.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use snakepen::{Buffer, CallStream, ProgressWatch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::call::{Answer, Call, Expect};
use crate::caller::Caller;
use crate::judge::Outcome;
use crate::values::{mixed, piece};
use crate::{Chaos, LIMIT};

/// A stream of so many items does not come to its end; as in chaos_beside.py.
pub(crate) const ENDLESS: u64 = 2000;

/// The items of a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Items {
    /// So many come, where nothing ends the call earlier.
    pub(crate) count: u64,
    /// Each has so many times 16 letters,
    pub(crate) size: usize,
    /// and a buffer of so many bytes.
    pub(crate) beside: usize,
    /// They are those of the call's input.
    pub(crate) echo: bool,
    /// The consumer leaves when it has so many.
    pub(crate) take: Option<u64>,
    /// The longest that the consumer rests after an item.
    pub(crate) rest: Duration,
    pub(crate) item_timeout: Option<Duration>,
}

/// As handlers yield them: nonce, slot, index, text, and what is beside the JSON.
#[derive(Deserialize)]
pub(crate) struct Item(u64, usize, u64, String, Vec<Buffer>);

impl Items {
    /// Takes the items, which must be the right ones, in their order, whatever ends the stream.
    pub(crate) async fn consume(
        &self,
        call: &Call,
        made: CallStream<Item>,
        caller: &Caller,
    ) -> Outcome {
        let made = match self.item_timeout {
            Some(time) => made.item_timeout(time),
            None => made,
        };
        tokio::pin!(made);
        let (mut came, mut slot) = (0, 0);
        let mut rng = fastrand::Rng::with_seed(call.nonce);
        loop {
            if self.take == Some(came) {
                return Outcome::Dropped { unsure: came == 0 };
            }
            match made.next().await {
                Some(Ok(item)) => {
                    if let Err(what) = self.check(call, came, &item, caller) {
                        return Outcome::Wrong(format!("item {came}: {what}"));
                    }
                    (came, slot) = (came + 1, item.1);
                }
                Some(Err(error)) => {
                    let all = matches!(call.expect, Expect::Exception(_));
                    if all && matches!(error, snakepen::Error::Python { .. }) && came != self.count
                    {
                        return Outcome::Wrong(format!("an exception after {came} items"));
                    }
                    if came > 0 && !error.may_have_run() {
                        return Outcome::Wrong(format!("it has given {came} items: {error}"));
                    }
                    return Outcome::Ended(Err(error));
                }
                None if came == self.count => {
                    let text = format!("{came} items");
                    return Outcome::Ended(Ok(Answer(call.nonce, slot, text, vec![], vec![])));
                }
                None => return Outcome::Wrong(format!("{came} items of {}", self.count)),
            }
            if !self.rest.is_zero() && rng.u8(..4) == 0 {
                sleep(self.rest.mul_f64(rng.f64())).await;
            }
        }
    }

    fn check(&self, call: &Call, at: u64, item: &Item, caller: &Caller) -> Result<(), String> {
        let Item(nonce, _, index, text, buffers) = item;
        if (*nonce, *index) != (call.nonce, at) {
            return Err(format!("it is item {index} of call {nonce:x}"));
        }
        let fits = if self.echo {
            *text == letters(call.nonce, at, self.size)
        } else {
            let unit = format!("{:016x}", call.nonce + at);
            text.len() == 16 * self.size
                && text.as_bytes().chunks(16).all(|it| it == unit.as_bytes())
        };
        if !fits {
            return Err(format!("another text: {text:.80}"));
        }
        match &buffers[..] {
            [] if self.beside == 0 => Ok(()),
            [one] if *one == piece(&caller.chaos.pattern, *nonce, *index, self.beside) => Ok(()),
            other => Err(format!("other buffers: {other:?}")),
        }
    }
}

/// What the items of an input are: a number, with zeros before it.
fn letters(nonce: u64, at: u64, size: usize) -> String {
    let number = mixed(nonce, at);
    "0".repeat(16 * size - number.len()) + &number
}

/// A stream that is an argument.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) count: u64,
    /// It ends with an error.
    pub(crate) fails: bool,
    /// Each has so many times 16 digits.
    pub(crate) size: usize,
    /// How long it rests now and then.
    pub(crate) rest: Duration,
}

impl Input {
    /// The stream; the run counts those that are not dropped yet.
    pub(crate) fn stream(
        &self,
        nonce: u64,
        chaos: &Chaos,
    ) -> impl Stream<Item = Result<String, String>> + Send + use<> {
        let Self { count, fails, size, rest } = self.clone();
        let alive = Arc::clone(&chaos.alive);
        stream::iter(0..count + u64::from(fails)).then(move |at| {
            let alive = Arc::clone(&alive);
            async move {
                if at % 16 == 15 {
                    sleep(rest).await;
                }
                drop(alive);
                if at < count { Ok(letters(nonce, at, size)) } else { Err(nonce.to_string()) }
            }
        })
    }

    /// What a handler that takes so many items finds: the answer of `sums`.
    pub(crate) fn sum(&self, nonce: u64, most: u64) -> String {
        let count = most.min(self.count);
        let number = |at| u64::from_str_radix(&mixed(nonce, at), 16).unwrap_or_default();
        let total = (0..count).fold(0, |total, at| total ^ number(at));
        match (most > self.count, self.fails) {
            (false, _) => format!("{count} {total:x}"),
            (true, false) => format!("{count} {total:x} all"),
            (true, true) => format!("{count} {total:x} failed"),
        }
    }
}

/// Looks at a call's progress while it is made.
pub(crate) struct Watching {
    task: JoinHandle<Result<f64, String>>,
    steps: u64,
}

impl Watching {
    pub(crate) fn new(mut progress: ProgressWatch, nonce: u64, steps: u64) -> Self {
        let task = tokio::spawn(async move {
            let mut last = 0.0;
            while let Some(now) = progress.next().await {
                if now.message != nonce.to_string() || now.total != Some(steps as f64) {
                    return Err(format!("another call's: {now:?}"));
                }
                if now.done <= last {
                    return Err(format!("{} after {last}", now.done));
                }
                last = now.done;
            }
            Ok(last)
        });
        Self { task, steps }
    }

    /// The call has ended: so does its progress, and with the last step if all was done.
    pub(crate) async fn ended(self, completed: bool) -> Result<(), String> {
        let Ok(ended) = timeout(LIMIT, self.task).await else {
            return Err("does not end".to_owned());
        };
        let last = ended.map_err(|panic| panic.to_string())??;
        if completed && last != self.steps as f64 {
            return Err(format!("the last that was told is {last} of {}", self.steps));
        }
        Ok(())
    }
}
