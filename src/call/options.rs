//! What can be said of a call before it is made, whatever it gives: one result or a stream of items.

/// The options of a type that has `change(self, impl FnOnce(&mut Plan)) -> Self`.
macro_rules! options {
    () => {
        /// Says that the handler may be run more than once without harm: a call whose worker dies, that is lost with the
        /// pool's actor, or for which no worker can be started, is tried again after a short pause, up to
        /// [`Builder::retries`](crate::Builder::retries) times, within its own time. Default: a handler that may have
        /// started is never run again.
        ///
        /// Nothing else is tried again: not what the handler answers, an exception included; not a time-out, as there is
        /// no time left; and no refusal ([`Error::Saturated`], [`Error::WorkerBusy`], [`Error::CircuitOpen`],
        /// [`Error::Closed`]), which asks for fewer calls and not for more. Nor is a call that has given an item, or read
        /// one of an input. Each try counts as a call in [`Stats`](crate::Stats). The error is that of the last try that
        /// may have run, else of the last one; a call that was cancelled gets [`Error::Cancelled`], whichever try that met.
        pub fn idempotent(self) -> Self {
            self.change(|plan| plan.idempotent = true)
        }

        /// Which of the calls that wait goes first. Default: [`Priority::Normal`].
        pub fn priority(self, priority: Priority) -> Self {
            self.change(|plan| plan.wish.priority = priority)
        }

        /// Runs the call on the worker that `key` belongs to if that one is idle, else on any other: for handlers that
        /// keep something of their own, such as a cache. Calls that wait are run in order by whichever worker is free
        /// first.
        ///
        /// A key belongs to the same slot for as long as the pool has the same number of them; when it is
        /// [resized](crate::Pool::resize), no more keys move than have to. Nothing is kept of a key. Of this method and the
        /// next two the last one that is called counts, also over [`WorkerHandle::call`](crate::WorkerHandle::call).
        pub fn affinity(self, key: impl AsRef<str>) -> Self {
            self.change(|plan| plan.at(Place::Preferred(0), key.as_ref()))
        }

        /// Runs the call on the worker that `key` belongs to (see [`affinity`](Self::affinity)), and waits for that one:
        /// calls of one key and priority run one after another, in the order in which they were made. They hold up no call
        /// of another worker.
        ///
        /// Like a [`WorkerHandle`](crate::WorkerHandle), the key means the slot: it survives the worker's restart, what the
        /// worker keeps in memory doesn't. While the slot's worker can't be started, the call fails with [`Error::Start`].
        /// When the pool is [resized](crate::Pool::resize) a key may move: a call that waits for a slot that is retired
        /// goes to the one that its key belongs to then. Calls from before and after such a move are not ordered.
        pub fn pinned(self, key: impl AsRef<str>) -> Self {
            self.change(|plan| plan.at(Place::Only(0), key.as_ref()))
        }

        /// Like [`pinned`](Self::pinned), and does not wait: if the worker is not free at this moment, the call fails at
        /// once with [`Error::WorkerBusy`].
        pub fn pinned_now(self, key: impl AsRef<str>) -> Self {
            self.change(|plan| plan.at(Place::Now(0), key.as_ref()))
        }

        /// Gives the handler a stream as its keyword argument `name`, beside the others: an iterator in Python, and an
        /// asynchronous one in an `async def` handler.
        ///
        /// The stream is not polled before the handler asks for an item, and then at most 64 items, or 1 MiB and one item,
        /// ahead of what it has taken. It is polled where the call is, and dropped when the call ends, read to its end or
        /// not. Items are values as in arguments: of a stream of `Result`s Python sees `{"Ok": …}` and `{"Err": …}`, so take
        /// them apart first (`try_take_while`, `filter_map`). An item that cannot be written as JSON, or is larger than the pool's largest frame, arrives as
        /// `snakepen.InputError` in the handler's iterator, and is the last.
        ///
        /// # Errors
        ///
        /// [`Error::Encode`], when the call is made, for a name that is empty, has a zero byte, or is there twice.
        pub fn input<S>(self, name: &str, stream: S) -> Self
        where
            S: Stream<Item: Serialize> + Send + 'static,
        {
            self.change(|plan| plan.input(name, stream))
        }

        /// Like [`input`](Self::input), with a stream that may fail: the first error arrives, as its text, as
        /// `snakepen.InputError` in the handler's iterator, after the items before it.
        pub fn try_input<S, I, E>(self, name: &str, stream: S) -> Self
        where
            S: Stream<Item = Result<I, E>> + Send + 'static,
            I: Serialize,
            E: Display,
        {
            self.change(|plan| plan.try_input(name, stream))
        }
    };
}

pub(super) use options;
