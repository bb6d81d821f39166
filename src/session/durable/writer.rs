//! The thread that writes: all that waits goes into one transaction.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::batch::{Batch, Reply};
use super::disk::{Change, Disk, times};
use super::file;
use crate::session::table::Table;
use crate::session::{Operation, Outcome, SessionError};

/// The most writes of one transaction.
const BATCH: usize = 4096;

/// Of the sessions that have expired, so many are deleted with one transaction: it must not keep writers waiting.
const REAP: usize = 1000;

/// What waits may have so many KiB together; who comes then waits before the queue.
const QUEUE: u32 = 64 << 10;

/// A handle of the thread, which ends when it is closed, or dropped, and has written what was queued by then.
#[derive(Debug)]
pub(super) struct Writer {
    store: String,
    path: Arc<Path>,
    commands: mpsc::UnboundedSender<Command>,
    room: Arc<Semaphore>,
    ready: watch::Receiver<Option<Result<(), SessionError>>>,
    /// Closed when the thread has ended and the file is.
    ended: watch::Receiver<()>,
}

enum Command {
    Write(Box<Write>),
    /// See to what was left for later.
    Tidy,
    Close,
}

struct Write {
    operation: Operation,
    default_ttl: u64,
    reply: oneshot::Sender<Result<Outcome, SessionError>>,
    _room: OwnedSemaphorePermit,
}

/// Tells when the thread has read the file.
pub(super) struct Ready(watch::Receiver<Option<Result<(), SessionError>>>, PathBuf);

impl Ready {
    pub(super) async fn wait(&mut self) -> Result<(), SessionError> {
        match self.0.wait_for(Option::is_some).await.ok().and_then(|ready| ready.clone()) {
            Some(result) => result,
            None => Err(SessionError::File {
                path: self.1.clone(),
                message: "the thread that was to read it has ended; the log says why".to_owned(),
            }),
        }
    }
}

impl Writer {
    /// Starts the thread, which opens the file and fills the table.
    pub(super) fn opening(
        store: String,
        path: PathBuf,
        table: Arc<Table>,
    ) -> Result<Self, SessionError> {
        let (commands, queue) = mpsc::unbounded_channel();
        let (opened, ready) = watch::channel(None);
        let (running, ended) = watch::channel(());
        let file: Arc<Path> = path.clone().into();
        let body = move || {
            match open(&path, &table) {
                Ok(disk) => {
                    let _ = opened.send(Some(Ok(())));
                    Work { path, table, disk, queue, broken: None }.run();
                }
                Err(error) => {
                    let _ = opened.send(Some(Err(error)));
                }
            }
            drop(running);
        };
        let thread = thread::Builder::new().name("snakepen-store".to_owned()).spawn(body);
        thread.map_err(|error| SessionError::File {
            path: file.to_path_buf(),
            message: format!("cannot start the thread that writes it: {error}"),
        })?;
        let room = Arc::new(Semaphore::new(QUEUE as usize));
        Ok(Self { store, path: file, commands, room, ready, ended })
    }

    pub(super) fn ready(&self) -> Ready {
        Ready(self.ready.clone(), self.path.to_path_buf())
    }

    /// Queues a write and waits for its answer. Dropped before it is queued, it is not done; after that, it is.
    pub(super) fn write(
        &self,
        operation: Operation,
        default_ttl: u64,
    ) -> impl Future<Output = Result<Outcome, SessionError>> + Send + 'static + use<> {
        let (commands, room) = (self.commands.clone(), Arc::clone(&self.room));
        let (store, path) = (self.store.clone(), Arc::clone(&self.path));
        async move {
            let size = match &operation {
                Operation::Put { key, value, .. } => key.name.len() + value.size(),
                _ => 0,
            };
            let kib = u32::try_from(size / 1024 + 1).unwrap_or(QUEUE).min(QUEUE);
            let closed = || SessionError::Closed { store };
            let Ok(_room) = room.acquire_many_owned(kib).await else { return Err(closed()) };
            let (reply, answer) = oneshot::channel();
            let write = Write { operation, default_ttl, reply, _room };
            if commands.send(Command::Write(Box::new(write))).is_err() {
                return Err(closed());
            }
            answer.await.unwrap_or_else(|_| {
                Err(SessionError::Write {
                    path: path.to_path_buf(),
                    message: "the thread that writes has ended; the log says why".to_owned(),
                })
            })
        }
    }

    /// What has the thread see to what was left for later.
    pub(super) fn tidying(&self) -> impl FnOnce() + Send + 'static + use<> {
        let commands = self.commands.clone();
        // A thread that is gone has nothing to see to.
        move || drop(commands.send(Command::Tidy))
    }

    /// Lets the thread finish what is queued; resolves when the file is closed.
    pub(super) fn close(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.room.close();
        // A thread that is gone is closed.
        let _ = self.commands.send(Command::Close);
        let mut ended = self.ended.clone();
        async move { while ended.changed().await.is_ok() {} }
    }
}

fn open(path: &Path, table: &Table) -> Result<Disk, SessionError> {
    let disk = file::open(path)?;
    let now = table.now();
    let cleaned = disk.clean(now);
    let loaded = cleaned.and_then(|()| {
        disk.load(now, |session| table.put_in(session), |version| table.begin_at(version))
    });
    loaded.map_err(|error| SessionError::File {
        path: path.to_owned(),
        message: format!("cannot read it: {error}"),
    })?;
    Ok(disk)
}

// === The thread ===

struct Work {
    path: PathBuf,
    table: Arc<Table>,
    disk: Disk,
    queue: mpsc::UnboundedReceiver<Command>,
    /// Why nothing can be written any more.
    broken: Option<SessionError>,
}

impl Work {
    fn run(mut self) {
        let mut writes = Vec::new();
        while let Some(first) = self.queue.blocking_recv() {
            let mut next = Some(first);
            while let Some(command) = next {
                match command {
                    Command::Write(write) => writes.push(*write),
                    Command::Tidy => {}
                    Command::Close => self.queue.close(),
                }
                next = if writes.len() < BATCH { self.queue.try_recv().ok() } else { None };
            }
            while self.commit(std::mem::take(&mut writes)) {}
        }
    }

    /// Does these writes, and some of what was left for later; whether more of that is left, and nobody waits.
    fn commit(&mut self, writes: Vec<Write>) -> bool {
        let table = Arc::clone(&self.table);
        let late = table.take_late(REAP);
        let mut batch = Batch::new(&table);
        let mut answers = Vec::with_capacity(writes.len());
        for Write { operation, default_ttl, reply, _room } in writes {
            answers.push((reply, batch.add(operation, default_ttl), _room));
        }
        let mut changes = Vec::new();
        for cell in &late.accessed {
            let accessed = cell.accessed();
            if accessed != 0 {
                changes.push(times(cell, accessed));
            }
        }
        for (id, incarnation) in &late.gone {
            changes.push(Change::End { id, incarnation: *incarnation });
        }
        changes.extend(batch.changes());
        let committed = if changes.is_empty() { Ok(()) } else { self.write(changes) };
        match committed {
            Ok(()) => {
                batch.apply();
                for (reply, answer, _room) in answers {
                    // Whoever asked may be gone.
                    let _ = reply.send(answer.map(|answer| self.finished(answer)));
                }
                late.more && self.queue.is_empty()
            }
            Err(error) => {
                drop(batch);
                table.put_back(late.gone);
                for (reply, ..) in answers {
                    let _ = reply.send(Err(error.clone()));
                }
                false
            }
        }
    }

    fn write(&mut self, changes: Vec<Change<'_>>) -> Result<(), SessionError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let version = self.table.version();
        self.disk.commit(version, changes).map_err(|error| {
            let error = SessionError::Write {
                path: self.path.clone(),
                message: format!(
                    "{error}; the store takes no more writes until it is opened again"
                ),
            };
            tracing::error!(%error, "a session store cannot write");
            self.broken = Some(error.clone());
            error
        })
    }

    fn finished(&self, reply: Reply) -> Outcome {
        match reply {
            Reply::Outcome(outcome) => outcome,
            Reply::Info(scope, info) => match self.table.read(&Operation::Info { scope }) {
                Outcome::Info(Some(now)) => Outcome::Info(Some(now)),
                _ => Outcome::Info(Some(info)),
            },
        }
    }
}
