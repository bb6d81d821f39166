//! Random operations against the simplest thing that could be right.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Time, unique};
use crate::session::{
    Expected, Key, Memory, Operation, Outcome, Scope, SessionError, SessionStore, Space,
    StoreBuilder, Value,
};

const TTL: u64 = 1_000;
const SESSIONS: usize = 3;
const BYTES: u64 = 100;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Put(usize, Space, usize, usize, Want),
    Delete(usize, Space, usize, Want),
    Get(usize, Space, usize),
    Keys(usize, Space),
    Info(usize),
    Create(usize, Option<u64>),
    Touch(usize),
    Expire(usize),
    Pass(u64),
    List,
    Sweep,
    /// Close it, and open it again, where it survives that.
    Reopen,
}

/// What a write expects, as far as that can be said before.
#[derive(Clone, Copy, Debug)]
enum Want {
    Any,
    Absent,
    Present,
    Old,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let scope = 0..5_usize;
    let space = prop_oneof![3 => Just(Space::Value), 1 => Just(Space::Program)];
    let want = prop_oneof![
        4 => Just(Want::Any), 1 => Just(Want::Absent), 3 => Just(Want::Present), 1 => Just(Want::Old)
    ];
    let key = 0..3_usize;
    let step = prop_oneof![
        6 => (scope.clone(), space.clone(), key.clone(), 0..40_usize, want.clone())
            .prop_map(|(scope, space, key, size, want)| Step::Put(scope, space, key, size, want)),
        3 => (scope.clone(), space.clone(), key.clone(), want)
            .prop_map(|(scope, space, key, want)| Step::Delete(scope, space, key, want)),
        4 => (scope.clone(), space.clone(), key).prop_map(|(scope, space, key)| Step::Get(scope, space, key)),
        1 => (scope.clone(), space).prop_map(|(scope, space)| Step::Keys(scope, space)),
        1 => scope.clone().prop_map(Step::Info),
        2 => (scope.clone(), proptest::option::of(1..3_000_u64))
            .prop_map(|(scope, ttl)| Step::Create(scope, ttl)),
        1 => scope.clone().prop_map(Step::Touch),
        1 => scope.prop_map(Step::Expire),
        4 => (0..700_u64).prop_map(Step::Pass),
        1 => Just(Step::List),
        1 => Just(Step::Sweep),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

#[derive(Debug)]
struct ModelSession {
    accessed: u64,
    ttl: u64,
    values: BTreeMap<(Space, usize), (usize, u64)>,
}

/// Sessions by number; 0 is the global one.
struct Model {
    now: u64,
    sessions: BTreeMap<usize, ModelSession>,
    last: u64,
}

fn scope(number: usize) -> Scope {
    if number == 0 { Scope::Global } else { Scope::session(format!("s{number}")).unwrap() }
}

fn key(number: usize, space: Space, key: usize) -> Key {
    Key { scope: scope(number), space, name: format!("k{key}") }
}

impl Model {
    fn new() -> Self {
        let global = ModelSession { accessed: 0, ttl: u64::MAX, values: BTreeMap::new() };
        Self { now: 0, sessions: BTreeMap::from([(0, global)]), last: 0 }
    }

    fn expire(&mut self) {
        let now = self.now;
        self.sessions.retain(|_, session| session.accessed.saturating_add(session.ttl) > now);
    }

    fn access(&mut self, number: usize) -> Option<&mut ModelSession> {
        let now = self.now;
        let session = self.sessions.get_mut(&number)?;
        session.accessed = now;
        Some(session)
    }

    fn bytes(&self) -> u64 {
        let values = self.sessions.values().flat_map(|session| session.values.values());
        values.map(|(size, _)| *size as u64 + 2).sum()
    }

    fn expected(&self, want: Want, found: Option<u64>) -> Expected {
        match want {
            Want::Any => Expected::Any,
            Want::Absent => Expected::Absent,
            Want::Present => found.map_or(Expected::Version(1), Expected::Version),
            Want::Old => Expected::Version(self.last.saturating_sub(1)),
        }
    }
}

fn value(size: usize) -> Value {
    Value::Bytes(Bytes::from(vec![1; size]))
}

type Answer = Result<Outcome, SessionError>;

/// Runs a step against both.
async fn step(store: &SessionStore, model: &mut Model, step: Step) {
    model.expire();
    let same = |answer: Answer, expected: Outcome| assert_eq!(answer.unwrap(), expected);
    let conflict = |answer: &Answer, found: Option<u64>| {
        assert!(
            matches!(answer, Err(SessionError::Conflict { found: is, .. }) if *is == found),
            "{answer:?}, not a conflict with {found:?}"
        );
    };
    let full = |answer: &Answer, name: &str| {
        assert!(
            matches!(answer, Err(SessionError::Full { limit, .. }) if *limit == name),
            "{answer:?}, not beyond {name}"
        );
    };
    let sessions = model.sessions.len() - 1;
    match step {
        Step::Put(number, space, name, size, want) => {
            let bytes = model.bytes();
            let found = model.access(number).and_then(|it| it.values.get(&(space, name)).copied());
            let version = found.map(|(_, version)| version);
            let expected = model.expected(want, version);
            let key = key(number, space, name);
            let put = Operation::Put { key, value: value(size), expected };
            let answer = store.execute(put).await;
            let old = found.map_or(0, |(size, _)| size as u64 + 2);
            let new = bytes - old + size as u64 + 2;
            let lives = model.sessions.contains_key(&number);
            let is_met = match expected {
                Expected::Any => true,
                Expected::Absent => version.is_none(),
                Expected::Version(expected) => version == Some(expected),
            };
            if !is_met {
                conflict(&answer, version);
            } else if !lives && sessions == SESSIONS && new > BYTES {
                assert!(matches!(answer, Err(SessionError::Full { .. })), "{answer:?}");
            } else if !lives && sessions == SESSIONS {
                full(&answer, "max_sessions");
            } else if new > BYTES && new > bytes {
                full(&answer, "max_total_bytes");
            } else {
                let Ok(Outcome::Written { version }) = answer else { panic!("{answer:?}") };
                assert!(version > model.last, "{version} after {}", model.last);
                model.last = version;
                let now = model.now;
                let new = || ModelSession { accessed: now, ttl: TTL, values: BTreeMap::new() };
                let session = model.sessions.entry(number).or_insert_with(new);
                session.values.insert((space, name), (size, version));
            }
        }
        Step::Delete(number, space, name, want) => {
            let found = model.access(number).and_then(|it| it.values.get(&(space, name)).copied());
            let version = found.map(|(_, version)| version);
            let expected = model.expected(want, version);
            let key = key(number, space, name);
            let answer = store.execute(Operation::Delete { key, expected }).await;
            if expected.is_met_by(version) {
                same(answer, Outcome::Deleted(found.is_some()));
                if let Some(session) = model.sessions.get_mut(&number) {
                    session.values.remove(&(space, name));
                }
            } else {
                conflict(&answer, version);
            }
        }
        Step::Get(number, space, name) => {
            let found = model.access(number).and_then(|it| it.values.get(&(space, name)).copied());
            let key = key(number, space, name);
            let expected = match found {
                None => Outcome::Missing,
                Some((size, version)) => Outcome::Value { value: value(size), version },
            };
            same(store.execute(Operation::Get { key: key.clone(), known: None }).await, expected);
            if let Some((_, version)) = found {
                let get = Operation::Get { key, known: Some(version) };
                same(store.execute(get).await, Outcome::Unchanged);
            }
        }
        Step::Keys(number, space) => {
            let of = |session: &mut ModelSession| {
                let keys = session.values.keys().filter(|key| key.0 == space);
                keys.map(|(_, name)| format!("k{name}")).collect()
            };
            let keys = model.access(number).map(of).unwrap_or_default();
            let scope = scope(number);
            same(store.execute(Operation::Keys { scope, space }).await, Outcome::Keys(keys));
        }
        Step::Info(number) => {
            let answer = store.execute(Operation::Info { scope: scope(number) }).await.unwrap();
            let Outcome::Info(info) = answer else { panic!("{answer:?}") };
            let found = info.map(|info| (info.entries, info.bytes));
            let bytes =
                |it: &ModelSession| it.values.values().map(|(size, _)| *size as u64 + 2).sum();
            let session = model.sessions.get(&number);
            assert_eq!(found, session.map(|it| (it.values.len() as u64, bytes(it))));
        }
        Step::Create(number, ttl) => {
            let ttl = ttl.filter(|_| number > 0);
            let create =
                Operation::Create { scope: scope(number), ttl: ttl.map(Duration::from_millis) };
            let answer = store.execute(create).await;
            if model.access(number).is_none() && sessions == SESSIONS {
                full(&answer, "max_sessions");
                return;
            }
            let Ok(Outcome::Info(Some(info))) = answer else { panic!("{answer:?}") };
            let accessed = model.now;
            let new =
                || ModelSession { accessed, ttl: ttl.unwrap_or(TTL), values: BTreeMap::new() };
            let session = model.sessions.entry(number).or_insert_with(new);
            assert_eq!(info.entries, session.values.len() as u64);
            let ttl = (number > 0).then(|| Duration::from_millis(session.ttl));
            assert_eq!(info.ttl, ttl);
        }
        Step::Touch(number) => {
            let lives = model.access(number).is_some();
            let touch = Operation::Touch { scope: scope(number) };
            same(store.execute(touch).await, Outcome::Done(lives));
        }
        Step::Expire(number) => {
            let number = number.max(1);
            let lived = model.sessions.remove(&number).is_some();
            let expire = Operation::Expire { scope: scope(number) };
            same(store.execute(expire).await, Outcome::Done(lived));
        }
        Step::List => {
            let ids: Vec<_> = model.sessions.keys().skip(1).map(|n| format!("s{n}")).collect();
            assert_eq!(store.list().await.unwrap(), ids);
        }
        Step::Sweep => {
            store.maintain().await;
            let stats = store.stats().await.unwrap();
            let values: usize = model.sessions.values().map(|it| it.values.len()).sum();
            let expected = (sessions as u64, values as u64, model.bytes());
            assert_eq!((stats.sessions, stats.values, stats.bytes), expected);
        }
        Step::Pass(_) | Step::Reopen => {}
    }
}

async fn run(open: impl Fn(&Time) -> StoreBuilder, survives: bool, steps: Vec<Step>) {
    let time = Time::new();
    let start = || open(&time).ttl(Duration::from_millis(TTL)).max_sessions(SESSIONS);
    let open = || start().max_total_bytes(BYTES).open();
    let mut store = open().await.unwrap();
    let mut model = Model::new();
    for next in steps {
        match next {
            Step::Pass(millis) => {
                time.pass(millis);
                model.now += millis;
            }
            Step::Reopen if survives => {
                // What is not persisted at once is: else a session may come back older than the model knows it.
                model.expire();
                for number in model.sessions.keys().copied().collect::<Vec<_>>() {
                    let name = model.sessions[&number].values.keys().next().copied();
                    if let (Some((space, name)), Some(session)) = (name, model.access(number)) {
                        let (size, _) = session.values[&(space, name)];
                        let key = key(number, space, name);
                        let put =
                            Operation::Put { key, value: value(size), expected: Expected::Any };
                        let written = store.execute(put).await.unwrap();
                        let Outcome::Written { version } = written else { panic!("{written:?}") };
                        model.last = version;
                        let session = model.sessions.get_mut(&number).unwrap();
                        session.values.insert((space, name), (size, version));
                    } else if number > 0 {
                        let expire = Operation::Expire { scope: scope(number) };
                        assert_eq!(store.execute(expire).await.unwrap(), Outcome::Done(true));
                        model.sessions.remove(&number);
                    }
                }
                store.close().await.unwrap();
                store = open().await.unwrap();
            }
            next => step(&store, &mut model, next).await,
        }
    }
    step(&store, &mut model, Step::Sweep).await;
    store.close().await.unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn memory_does_what_the_model_does(steps in steps()) {
        let open = |time: &Time| {
            SessionStore::builder(unique()).backend(Memory::with_clock(time.clock()))
        };
        runtime().block_on(run(open, false, steps));
    }
}

#[cfg(feature = "durable")]
proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20) })]

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn a_file_does_what_the_model_does(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions.redb");
        let open = |time: &Time| {
            let backend = crate::session::Durable::with_clock(&path, time.clock());
            SessionStore::builder(unique()).backend(backend)
        };
        runtime().block_on(run(open, true, steps));
    }
}
