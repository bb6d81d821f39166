//! The shared backend: a Redis or Valkey server. Each operation is one script (`store.lua`), which the server runs atomically.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, Script};

use super::clock::{millis, system_time};
use super::{
    Answer, Backend, Expected, Key, Operation, Outcome, Scope, SessionError, SessionInfo, Settings,
    Space, Usage, Value,
};

const SCRIPT: &str = include_str!("redis/store.lua");

/// So many expired sessions are removed by one script; nothing else runs in the server meanwhile.
const PURGE: &str = "500";

/// How often a host has expired sessions removed.
const SWEEP: Duration = Duration::from_secs(1);

/// How often, and after which time, something is tried again that the server has certainly not seen.
const TRIES: u32 = 3;
const AGAIN: Duration = Duration::from_millis(20);

/// Keeps sessions in a Redis or Valkey server, which any number of hosts share: Redis 7 or later, or Valkey.
///
/// Hosts that have the same server and [`prefix`](Redis::prefix) have the same sessions. Each operation is one script, which
/// the server runs atomically. A session is one key, which the server lets expire; what is counted of it is taken back by the
/// next sweep of any host, once a second, and by a write that finds the store full. So the bounds hold exactly, and for
/// everybody: each write is held to the bounds of the host that makes it. Times are those of the server's clock.
///
/// An operation ends within the [`timeout`](Redis::timeout). One that was not sent is tried again within it; a write that may
/// have been is not, and [`SessionError::Unavailable`] says so. The store finds its server again by itself.
///
/// What survives what is up to the server: with `appendonly yes` and `appendfsync always`, an acknowledged write survives its
/// death. It must not evict: leave `maxmemory-policy` at `noeviction`. Versions are at least the time of the
/// server in µs, so that they are not used twice if it loses everything, or its last writes. Connections are not encrypted.
#[derive(Clone, Debug)]
pub struct Redis {
    url: String,
    prefix: String,
    timeout: Duration,
    connected: Arc<OnceLock<Connected>>,
}

struct Connected {
    server: String,
    store: String,
    /// None once it is closed.
    connection: Mutex<Option<ConnectionManager>>,
    script: Script,
    key: String,
    settings: Settings,
    timeout: Duration,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Redis {
    /// At this server: `redis://[user:password@]host[:port][/database]`, or `redis+unix:///path/to/socket`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: "snakepen".to_owned(),
            timeout: Duration::from_secs(2),
            connected: Arc::default(),
        }
    }

    /// What all its keys in the server begin with. Default: `snakepen`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The time that an operation has, connecting included. Default: 2 s. After it, it fails with
    /// [`SessionError::Unavailable`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Has the server run the script.
    fn run(&self, arguments: Vec<Vec<u8>>, writes: bool) -> Answer<Vec<Vec<u8>>> {
        let connected = Arc::clone(&self.connected);
        Answer::later(async move {
            let Some(connected) = connected.get() else {
                return Err(SessionError::Closed { store: "not opened".to_owned() });
            };
            connected.run(arguments, writes).await
        })
    }

    fn settings(&self) -> Option<&Settings> {
        self.connected.get().map(|connected| &connected.settings)
    }
}

impl Connected {
    async fn run(
        &self,
        arguments: Vec<Vec<u8>>,
        writes: bool,
    ) -> Result<Vec<Vec<u8>>, SessionError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(mut connection) = connection else {
            return Err(SessionError::Closed { store: self.store.clone() });
        };
        let mut call = self.script.key(&self.key);
        for argument in &arguments {
            call.arg(argument);
        }
        let calls = async {
            let mut tries = 1;
            loop {
                match call.invoke_async(&mut connection).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => {
                        let error = self.explain(&error, writes);
                        let is_again = matches!(
                            error,
                            SessionError::Unavailable { may_have_applied: false, .. }
                        );
                        if !is_again || tries == TRIES {
                            return Err(error);
                        }
                    }
                }
                tokio::time::sleep(AGAIN * tries).await;
                tries += 1;
            }
        };
        tokio::time::timeout(self.timeout, calls).await.unwrap_or_else(|_| {
            Err(SessionError::Unavailable {
                server: self.server.clone(),
                message: format!("no answer within {:?} (`timeout`)", self.timeout),
                may_have_applied: writes,
            })
        })
    }

    fn explain(&self, error: &RedisError, writes: bool) -> SessionError {
        let (server, message) = (self.server.clone(), error.to_string());
        // It says that it does not serve now, and has done nothing.
        let refused =
            ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MISCONF"];
        if error.code().is_some_and(|code| refused.contains(&code)) {
            return SessionError::Unavailable { server, message, may_have_applied: false };
        }
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
            let may_have_applied = writes && !error.is_connection_refusal();
            return SessionError::Unavailable { server, message, may_have_applied };
        }
        SessionError::Server { server, message }
    }

    fn nonsense(&self, answer: &[Vec<u8>]) -> SessionError {
        let what = answer.first().map(|what| String::from_utf8_lossy(what));
        let message = format!(
            "its answer {what:?} makes no sense: does something else use the keys of this prefix?"
        );
        SessionError::Server { server: self.server.clone(), message }
    }
}

impl Backend for Redis {
    fn open(&self, settings: &Settings) -> Answer<()> {
        let (url, prefix, timeout) = (self.url.clone(), self.prefix.clone(), self.timeout);
        let (settings, cell) = (settings.clone(), Arc::clone(&self.connected));
        let reject = |message: String| SessionError::Config { option: "backend", message };
        if timeout.is_zero() {
            return Answer::now(Err(reject(
                "the time-out of Redis must be longer than nothing".into(),
            )));
        }
        Answer::later(async move {
            let client = Client::open(url).map_err(|error| reject(error.to_string()))?;
            let server = format!("Redis at {}", client.get_connection_info().addr());
            // What fails is tried again with the next operation, or by `run`.
            let config = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(timeout))
                .set_response_timeout(Some(timeout))
                .set_number_of_retries(0);
            let connection = ConnectionManager::new_lazy_with_config(client, config)
                .map_err(|error| reject(error.to_string()))?;
            let connected = Connected {
                server,
                store: settings.name.clone(),
                connection: Mutex::new(Some(connection)),
                script: Script::new(SCRIPT),
                key: format!("{{{prefix}}}"),
                settings,
                timeout,
            };
            // It is there, and can run the script.
            connected.run(vec![b"usage".to_vec(), Vec::new()], false).await?;
            cell.set(connected).map_err(|_| reject("it belongs to a store already".to_owned()))
        })
    }

    fn execute(&self, operation: Operation) -> Answer<Outcome> {
        let Some(settings) = self.settings() else {
            return Answer::now(Err(SessionError::Closed { store: "not opened".to_owned() }));
        };
        let writes = operation.is_write();
        let scope = operation.scope().clone();
        let name = match &operation {
            Operation::Get { key, .. }
            | Operation::Put { key, .. }
            | Operation::Delete { key, .. } => key.name.clone(),
            _ => String::new(),
        };
        let answer = self.run(arguments(operation, settings), writes);
        let (connected, settings) = (Arc::clone(&self.connected), settings.clone());
        Answer::later(async move {
            let answer = answer.await?;
            let words: Vec<&[u8]> = answer.iter().map(Vec::as_slice).collect();
            let read = match words.as_slice() {
                [b"conflict", found] => {
                    let found = if found.is_empty() { None } else { number(found) };
                    return Err(SessionError::Conflict { key: name, found });
                }
                [b"full", b"max_sessions"] => {
                    let value = settings.max_sessions as u64;
                    return Err(SessionError::Full { limit: "max_sessions", value });
                }
                [b"full", _] => {
                    let value = settings.max_total_bytes;
                    return Err(SessionError::Full { limit: "max_total_bytes", value });
                }
                [b"missing"] => Some(Outcome::Missing),
                [b"unchanged"] => Some(Outcome::Unchanged),
                [b"value", version, contents] => decode(contents)
                    .zip(number(version))
                    .map(|(value, version)| Outcome::Value { value, version }),
                [b"written", version] => {
                    number(version).map(|version| Outcome::Written { version })
                }
                [b"deleted", deleted] => Some(Outcome::Deleted(*deleted == b"1")),
                [b"done", done] => Some(Outcome::Done(*done == b"1")),
                [b"none"] => Some(Outcome::Info(None)),
                [b"info", times @ ..] => info(&scope, times).map(|info| Outcome::Info(Some(info))),
                [b"keys", keys @ ..] => names(keys).map(|mut keys| {
                    keys.sort_unstable();
                    Outcome::Keys(keys)
                }),
                _ => None,
            };
            match (read, connected.get()) {
                (Some(outcome), _) => Ok(outcome),
                (None, Some(connected)) => Err(connected.nonsense(&answer)),
                (None, None) => Err(SessionError::Closed { store: settings.name }),
            }
        })
    }

    fn list(&self, prefix: String, after: Option<String>, limit: usize) -> Answer<Vec<String>> {
        let first = match after {
            Some(after) if after >= prefix => format!("({after}"),
            _ if prefix.is_empty() => "-".to_owned(),
            _ => format!("[{prefix}"),
        };
        let words = [b"list".to_vec(), Vec::new(), prefix.into(), first.into()];
        let limit = limit.min(i32::MAX as usize).to_string();
        self.ask(words.into_iter().chain([limit.into()]).collect(), |words| match words {
            [b"ids", ids @ ..] => names(ids),
            _ => None,
        })
    }

    fn usage(&self) -> Answer<Usage> {
        self.ask(vec![b"usage".to_vec(), Vec::new()], |words| match words {
            [b"usage", sessions, values, bytes, expired] => Some(Usage {
                sessions: number(sessions)?,
                values: number(values)?,
                bytes: number(bytes)?,
                expired: number(expired)?,
            }),
            _ => None,
        })
    }

    fn maintain(&self) -> Answer<Duration> {
        let this = self.clone();
        Answer::later(async move {
            loop {
                let words = vec![b"purge".to_vec(), Vec::new(), PURGE.into()];
                let purged = this.ask(words, |words| match words {
                    [b"purged", purged] => Some(*purged == PURGE.as_bytes()),
                    _ => None,
                });
                if !purged.await? {
                    return Ok(SWEEP);
                }
            }
        })
    }

    fn close(&self) -> Answer<()> {
        if let Some(connected) = self.connected.get() {
            connected.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Answer::now(Ok(()))
    }
}

impl Redis {
    fn ask<T: Send + 'static>(
        &self,
        words: Vec<Vec<u8>>,
        read: impl FnOnce(&[&[u8]]) -> Option<T> + Send + 'static,
    ) -> Answer<T> {
        let (answer, connected) = (self.run(words, false), Arc::clone(&self.connected));
        Answer::later(async move {
            let answer = answer.await?;
            let words: Vec<&[u8]> = answer.iter().map(Vec::as_slice).collect();
            match (read(&words), connected.get()) {
                (Some(read), _) => Ok(read),
                (None, Some(connected)) => Err(connected.nonsense(&answer)),
                (None, None) => Err(SessionError::Closed { store: "not opened".to_owned() }),
            }
        })
    }
}

// === What the script is told, and what it answers ===

fn arguments(operation: Operation, settings: &Settings) -> Vec<Vec<u8>> {
    let id = match operation.scope() {
        Scope::Global => Vec::new(),
        Scope::Session(id) => id.as_bytes().to_vec(),
    };
    let text = |number: u64| number.to_string().into_bytes();
    let max_sessions = text(settings.max_sessions as u64);
    let default_ttl = text(millis(settings.ttl));
    let (name, rest) = match operation {
        Operation::Get { key, known } => {
            ("get", vec![entry(&key), known.map(text).unwrap_or_default()])
        }
        Operation::Put { key, value, expected } => {
            let size = text((key.name.len() + value.size()) as u64);
            let contents = encode(&value);
            let max_bytes = text(settings.max_total_bytes);
            let expected = expectation(expected);
            let rest =
                vec![entry(&key), expected, size, default_ttl, max_sessions, max_bytes, contents];
            ("put", rest)
        }
        Operation::Delete { key, expected } => ("delete", vec![entry(&key), expectation(expected)]),
        Operation::Keys { space, .. } => ("keys", vec![vec![letter(space)]]),
        Operation::Info { .. } => ("info", vec![]),
        Operation::Create { ttl, .. } => {
            let ttl = ttl.map(|ttl| text(millis(ttl)));
            ("create", vec![ttl.unwrap_or(default_ttl), max_sessions])
        }
        Operation::Touch { .. } => ("touch", vec![]),
        Operation::Expire { .. } => ("expire", vec![]),
    };
    [name.into(), id].into_iter().chain(rest).collect()
}

fn letter(space: Space) -> u8 {
    match space {
        Space::Value => b'v',
        Space::Program => b'p',
    }
}

fn entry(key: &Key) -> Vec<u8> {
    let mut entry = vec![letter(key.space)];
    entry.extend(key.name.as_bytes());
    entry
}

fn expectation(expected: Expected) -> Vec<u8> {
    match expected {
        Expected::Any => b"*".to_vec(),
        Expected::Absent => b"-".to_vec(),
        Expected::Version(version) => version.to_string().into_bytes(),
    }
}

/// A digit for the kind, and the contents; before an array's, its dtype and shape as JSON, and a line feed.
fn encode(value: &Value) -> Vec<u8> {
    let (kind, head, data) = match value {
        Value::Json(text) => (b'0', String::new(), text),
        Value::Bytes(data) => (b'1', String::new(), data),
        Value::Array { dtype, shape, data } => {
            (b'2', serde_json::json!([dtype, shape]).to_string() + "\n", data)
        }
    };
    let mut contents = Vec::with_capacity(1 + head.len() + data.len());
    contents.push(kind);
    contents.extend(head.as_bytes());
    contents.extend(data);
    contents
}

fn decode(contents: &[u8]) -> Option<Value> {
    let (kind, data) = contents.split_first()?;
    match kind {
        b'0' => Some(Value::Json(Bytes::copy_from_slice(data))),
        b'1' => Some(Value::Bytes(Bytes::copy_from_slice(data))),
        b'2' => {
            let end = data.iter().position(|&byte| byte == b'\n')?;
            let (dtype, shape) = serde_json::from_slice(&data[..end]).ok()?;
            Some(Value::Array { dtype, shape, data: Bytes::copy_from_slice(&data[end + 1..]) })
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn names(names: &[&[u8]]) -> Option<Vec<String>> {
    names.iter().map(|name| String::from_utf8(name.to_vec()).ok()).collect()
}

fn info(scope: &Scope, words: &[&[u8]]) -> Option<SessionInfo> {
    let [created, accessed, ttl, entries, bytes] = words else { return None };
    let id = match scope {
        Scope::Global => "",
        Scope::Session(id) => id,
    };
    let ttl = if ttl.is_empty() { None } else { Some(Duration::from_millis(number(ttl)?)) };
    let (created, accessed) = (system_time(number(created)?), system_time(number(accessed)?));
    Some(SessionInfo::new(id, created, accessed, ttl, number(entries)?, number(bytes)?))
}
