//! The checks, and the checked form that the actors read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Builder, EVER, Limits, WorkerLimits};
use crate::autoscale::Autoscale;
use crate::error::{Error, StartError};
use crate::expose::Exposures;
use crate::interpreter::{self, Interpreter};
use crate::session::SessionStore;

/// Variables that set the number of threads of BLAS and OpenMP libraries: 1 per worker unless set otherwise.
pub(super) const THREAD_VARIABLES: [&str; 5] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
];

/// A worker with nothing in it has some 10 MiB.
const MIN_MEMORY: u64 = 16 << 20;

/// Workers that are replaced faster than this do nothing else.
const MIN_AGE: Duration = Duration::from_secs(1);

/// The most calls that a worker can run at once.
const MAX_CONCURRENCY: usize = crate::sys::StatusPage::CALLS;

/// As in `_handlers.py`.
const MAX_PREFETCH: u8 = 64;

/// The most workers that a pool can have.
const MAX_WORKERS: usize = 4096;

impl Builder {
    pub(crate) fn check(self) -> Result<Config, Error> {
        let reject =
            |option, message: &str| Err(Error::Config { option, message: message.to_owned() });
        if self.name.is_empty() || self.name.contains('/') {
            return reject(
                "builder",
                "a pool's name is not empty and has no `/`, which parts it from its workers'",
            );
        }
        if let Some(actor) = &self.actor {
            self.check_actor(actor)?;
        }
        let workers = match (self.workers, &self.autoscale) {
            _ if self.actor.is_some() => 1,
            (Some(workers), _) => workers,
            (None, Some(range)) => *range.start(),
            (None, None) => std::thread::available_parallelism().map_or(1, usize::from),
        };
        if let Some(range) = &self.autoscale {
            check_workers("autoscale", *range.start())?;
            check_workers("autoscale", *range.end())?;
            if range.is_empty() {
                return reject("autoscale", "the least number of workers is above the most");
            }
            if !range.contains(&workers) {
                return reject("workers", "must be within the range of `autoscale`");
            }
        }
        check_workers("workers", workers)?;
        if !(1..=MAX_CONCURRENCY).contains(&self.limits.concurrency) {
            return reject("concurrency", "a worker runs from 1 to 256 calls at once");
        }
        if self.limits.concurrency > 1 && self.worker_limits.cpu.is_some() {
            return reject(
                "cpu_limit",
                "the time of calls that overlap can't be told apart: leave it out, or `concurrency`",
            );
        }
        if self.limits.prefetch > MAX_PREFETCH {
            return reject("prefetch", "up to 64 calls are written ahead to a worker");
        }
        if self.limits.prefetch > 0 && self.limits.concurrency > 1 {
            return reject(
                "prefetch",
                "calls that overlap are with their worker at once: leave it out, or `concurrency`",
            );
        }
        if self.limits.spin > Duration::from_millis(1) {
            return reject("spin", "up to 1 ms: it holds up a thread of the runtime");
        }
        let intervals = Duration::from_micros(1)..=Duration::from_secs(1);
        if self.limits.switch_interval.is_some_and(|interval| !intervals.contains(&interval)) {
            return reject("switch_interval", "Python's threads take turns every 1 µs to 1 s");
        }
        if self.limits.max_frame < 1024 || u32::try_from(self.limits.max_frame).is_err() {
            return reject("max_frame", "a frame's limit is from 1 KiB to 4 GiB - 1");
        }
        for (option, time) in [
            ("call_timeout", self.limits.call_timeout),
            ("circuit_cool_down", self.limits.circuit_cool_down),
            ("autoscale_after", self.autoscale_after.0.min(self.autoscale_after.1)),
            ("startup_timeout", self.limits.startup_timeout),
            ("health_interval", self.limits.health_interval),
            ("health_timeout", self.limits.health_timeout),
        ] {
            if time.is_zero() {
                return reject(option, "must be longer than nothing");
            }
        }
        if self.handlers.is_none() && self.expose.is_empty() && self.actor.is_none() {
            return reject("handlers", "name a Python file or module, or expose functions");
        }
        for (name, target) in &self.expose {
            if name.is_empty()
                || !target.split_once(':').is_some_and(|(m, a)| !m.is_empty() && !a.is_empty())
            {
                return Err(Error::Config {
                    option: "expose",
                    message: format!(
                        "`{target}` (as `{name}`) is not of the form `module:function`"
                    ),
                });
            }
        }
        self.exposed.check()?;
        if self.preload.iter().any(String::is_empty) {
            return reject("preload", "a module's name is not empty");
        }
        if let Some(path) = self.preload.iter().find(|name| name.contains('/')) {
            let message = format!("`{path}` is a path: name a module, and its directory by `path`");
            return Err(Error::Config { option: "preload", message });
        }
        for (key, value) in &self.env {
            let (key, value) = (key.as_encoded_bytes(), value.as_encoded_bytes());
            if key.is_empty() || key.contains(&b'=') || key.contains(&0) || value.contains(&0) {
                return reject(
                    "env",
                    "a key is not empty and has no `=`, and neither it nor its value has a NUL",
                );
            }
        }
        if self.worker_limits.requests == Some(0) {
            return reject("max_requests", "a worker answers one call at least");
        }
        if self.worker_limits.memory.is_some_and(|bytes| bytes < MIN_MEMORY) {
            return reject(
                "memory_limit",
                "less than 16 MiB, which Python itself needs: it counts bytes, as in `512 << 20`",
            );
        }
        if self.worker_limits.age.is_some_and(|age| age < MIN_AGE) {
            return reject("max_age", "a worker lives for a second at least");
        }
        let working_dir = self.working_dir.map(|dir| absolute("working_dir", dir)).transpose()?;
        if let Some(directory) = &working_dir
            && !directory.is_dir()
        {
            return Err(Error::Config {
                option: "working_dir",
                message: format!("there is no directory {}", directory.display()),
            });
        }
        let handlers = match &self.actor {
            Some(actor) => Some(Handlers::parse_as("target", actor.module.clone())?),
            None => self.handlers.map(Handlers::parse).transpose()?,
        };
        let paths = self
            .paths
            .into_iter()
            .map(|path| absolute("path", path))
            .collect::<Result<Vec<_>, _>>()?;
        let interpreter = interpreter::resolve(self.python, working_dir.as_deref())?;
        let mut env = self.env;
        for variable in THREAD_VARIABLES {
            if std::env::var_os(variable).is_none() {
                env.entry(variable.into()).or_insert_with(|| "1".into());
            }
        }
        let (wait, idle) = self.autoscale_after;
        let (wait, idle) = (wait.min(EVER), idle.min(EVER));
        Ok(Config {
            autoscale: self.autoscale.map(|range| Autoscale { range, wait, idle }),
            name: self.name,
            handlers,
            expose: self.expose,
            actor: self.actor,
            workers,
            interpreter,
            env,
            working_dir,
            paths,
            preload: self.preload,
            fresh_interpreter: self.fresh_interpreter,
            reuse_after_cancel: self.reuse_after_cancel,
            sessions: self.sessions,
            exposed: self.exposed,
            worker_limits: self.worker_limits,
            limits: self.limits.clamped(),
        })
    }
}

impl Builder {
    /// What an actor's private pool cannot be told.
    fn check_actor(&self, actor: &ActorSpec) -> Result<(), Error> {
        let reject = |option, message: String| Err(Error::Config { option, message });
        if self.workers.is_some_and(|workers| workers != 1) || self.autoscale.is_some() {
            let option = if self.autoscale.is_some() { "autoscale" } else { "workers" };
            return reject(option, "an actor is one instance, in one process".to_owned());
        }
        if self.limits.concurrency != 1 {
            return reject("concurrency", "an actor does one message at a time".to_owned());
        }
        if self.handlers.is_some() || !self.expose.is_empty() {
            let option = if self.handlers.is_some() { "handlers" } else { "expose" };
            let message = "what can be called of an actor are its class's public methods";
            return reject(option, message.to_owned());
        }
        // The frame that they travel in has both.
        let size = actor.args.len() + actor.state_key().len();
        if size > self.limits.max_frame {
            let limit = self.limits.max_frame;
            return Err(Error::TooLarge { handler: actor.class.clone(), size, limit });
        }
        Ok(())
    }
}

/// Whether a pool can have so many workers.
pub(crate) fn check_workers(option: &'static str, workers: usize) -> Result<(), Error> {
    if (1..=MAX_WORKERS).contains(&workers) {
        return Ok(());
    }
    let message = format!("a pool has 1 to {MAX_WORKERS} workers, not {workers}");
    Err(Error::Config { option, message })
}

fn absolute(option: &'static str, path: PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(&path)
        .map_err(|error| Error::Config { option, message: format!("{}: {error}", path.display()) })
}

/// Where the decorated handlers are.
#[derive(Clone, Debug)]
pub(crate) enum Handlers {
    File(PathBuf),
    Module(String),
}

impl Handlers {
    pub(super) fn parse(text: String) -> Result<Self, Error> {
        Self::parse_as("handlers", text)
    }

    fn parse_as(option: &'static str, text: String) -> Result<Self, Error> {
        let is_file = text.contains('/') || Path::new(&text).extension().is_some_and(|e| e == "py");
        if text.is_empty() {
            return Err(Error::Config {
                option,
                message: "the name is empty: name a Python file or module".to_owned(),
            });
        }
        if !is_file {
            return Ok(Handlers::Module(text));
        }
        let path = absolute(option, text.into())?;
        if !path.is_file() {
            let file = path.with_extension("py");
            let message = match () {
                () if path.is_dir() => {
                    format!("{} is a directory: name a Python file in it", path.display())
                }
                () if file.is_file() => {
                    format!("there is no file {}: is it {}?", path.display(), file.display())
                }
                () => format!("there is no file {}", path.display()),
            };
            return Err(Error::Config { option, message });
        }
        Ok(Handlers::File(path))
    }
}

/// What an actor is an instance of, and built from.
#[derive(Clone, Debug)]
pub(crate) struct ActorSpec {
    /// The actor's name.
    pub(crate) name: String,
    /// A Python file, or the name of a module.
    pub(crate) module: String,
    /// The class, as a path of attributes in it.
    pub(crate) class: String,
    /// The arguments of its `__init__`, as JSON.
    pub(crate) args: Bytes,
    /// Its state is saved after so many messages; 0 is never.
    pub(crate) save_every: u32,
}

impl ActorSpec {
    /// Where its state is, among the store's global values.
    pub(crate) fn state_key(&self) -> String {
        format!("actor/{}", self.name)
    }
}

/// Checked options.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    handlers: Option<Handlers>,
    expose: BTreeMap<String, String>,
    /// Whose private pool it is, if it is one.
    pub(crate) actor: Option<ActorSpec>,
    /// At the start.
    pub(crate) workers: usize,
    pub(crate) autoscale: Option<Autoscale>,
    pub(crate) interpreter: Interpreter,
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) working_dir: Option<PathBuf>,
    paths: Vec<PathBuf>,
    preload: Vec<String>,
    pub(super) fresh_interpreter: bool,
    reuse_after_cancel: bool,
    /// The store that was given; without one the pool has its own.
    pub(crate) sessions: Option<SessionStore>,
    /// What handlers may call in Rust from the start on.
    pub(crate) exposed: Exposures,
    pub(crate) worker_limits: WorkerLimits,
    pub(crate) limits: Limits,
}

impl Config {
    pub(crate) fn worker_name(&self, slot: usize) -> String {
        format!("{}/worker/{slot}", self.name)
    }

    /// The names of all actors of the pool's tree but its root, with so many slots.
    pub(crate) fn actor_names(&self, slots: usize) -> impl Iterator<Item = String> {
        let parts = ["supervisor", "launcher", "workers"].map(|part| self.actor_name(part));
        let workers = (0..slots).map(|slot| self.worker_name(slot));
        std::iter::once(self.name.clone()).chain(parts).chain(workers)
    }

    pub(crate) fn actor_name(&self, part: &str) -> String {
        format!("{}/{part}", self.name)
    }

    /// What the launcher is told (`ARCHITECTURE.md`, Launcher protocol); the workers' cgroups go into this directory.
    pub(crate) fn for_launcher(&self, cgroup: Option<&Path>) -> Result<Value, StartError> {
        let text = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| {
                StartError::System(format!("the path {} is not UTF-8", path.display()))
            })
        };
        let handlers = match &self.handlers {
            None => Value::Null,
            Some(Handlers::File(path)) => json!({ "file": text(path)? }),
            Some(Handlers::Module(name)) => json!({ "module": name }),
        };
        let paths = self.paths.iter().map(|p| text(p)).collect::<Result<Vec<_>, _>>()?;
        let cgroup = match cgroup {
            None => Value::Null,
            Some(path) => json!({ "directory": text(path)?, "memory": self.worker_limits.memory }),
        };
        Ok(json!({
            "pool": self.name,
            "handlers": handlers,
            "expose": self.expose,
            "actor": self.actor.as_ref().map(|actor| &actor.class),
            "paths": paths,
            "preload": self.preload,
            "fresh": self.fresh_interpreter,
            "reuse_after_cancel": self.reuse_after_cancel,
            "concurrency": self.limits.concurrency,
            "prefetch": self.limits.prefetch,
            "max_frame": self.limits.max_frame,
            "shared_memory": self.limits.shared_memory,
            "switch_interval": self.limits.switch_interval.map(|interval| interval.as_secs_f64()),
            "cgroup": cgroup,
            "log_level": crate::port::output::python_log_level(),
        }))
    }
}
