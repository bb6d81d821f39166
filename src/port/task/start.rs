//! The start of a port: from the order to the launcher until READY.

use std::convert::Infallible;
use std::future::poll_fn;

use tokio::sync::{mpsc, oneshot};

use super::calls::Calls;
use super::limits::Meter;
use super::{CLOSED_GRACE, Command, Live, PortTask, REPORT, source, unexpected};
use crate::actors::launcher::{LauncherMsg, SpawnOrder};
use crate::error::{Exit, PythonException, StartError};
use crate::port::desk::Desk;
use crate::port::quiet::Quiet;
use crate::port::{Event, Port};
use crate::wire::{self, Frame, Kind, ProtocolError};

impl PortTask {
    pub(super) async fn start(&mut self) -> Result<Live, StartError> {
        let system = |error: std::io::Error| StartError::System(error.to_string());
        self.wait_for_predecessor().await?;
        let (mut port, ends) = Port::open(&self.shared.config.limits).map_err(system)?;
        let cgroup = self.shared.cgroup.as_ref().map(|pool| pool.worker(self.slot, self.epoch));
        let (reply, mut spawned) = oneshot::channel();
        let order = SpawnOrder {
            slot: self.slot,
            epoch: self.epoch,
            worker: self.name.clone(),
            ends,
            cgroup,
            reply,
        };
        let name = self.name.clone();
        let no_launcher = || StartError::Stopped { what: name.clone() };
        self.launcher.send_message(LauncherMsg::Spawn(order)).map_err(|_| no_launcher())?;
        let child = tokio::select! {
            retired = told_to_stop(&mut self.actor_gone, &mut self.commands) => {
                // The pool lives on, and is told when this slot's processes are gone.
                if retired
                    && let Ok(Ok(Ok(mut child))) = tokio::time::timeout(REPORT, spawned).await
                {
                    child.kill_group();
                    let _ = child.exit(REPORT).await;
                }
                return Err(no_launcher());
            }
            spawned = &mut spawned => match spawned {
                Ok(spawned) => spawned?,
                Err(_) => {
                    // A launcher that died may have forked just before, and nobody else knows of that process. It finds
                    // its parent gone and ends; until then it holds its end of the port.
                    let gone = port.end_of_stream(self.source(0));
                    let _ = tokio::time::timeout(REPORT, gone).await;
                    return Err(no_launcher());
                }
            },
        };
        self.pid = child.pid();
        self.shared.board.spawned(self.slot, self.epoch, self.pid);
        let mut live = Live {
            port,
            child,
            calls: Calls::default(),
            successor: None,
            retiring: false,
            draining: false,
            meter: Meter::new(&self.shared.config.worker_limits),
            desk: Desk::new(
                self.shared.sessions.clone(),
                self.shared.exposed.clone(),
                self.shared.config.limits.max_frame,
            ),
            early: Quiet::new(),
            late: Quiet::new(),
        };
        let timeout = self.shared.config.limits.startup_timeout;
        let ready = async {
            self.introduce(&mut live).await?;
            self.ready(&mut live).await
        };
        let ready = tokio::time::timeout(timeout, ready).await;
        let error = match ready {
            Ok(Ok(())) => {
                self.check_cgroup(&mut live);
                return Ok(live);
            }
            Ok(Err(error)) => error,
            Err(_) => StartError::Timeout {
                what: format!("worker {} (loading its handlers)", self.name),
                timeout,
            },
        };
        live.child.kill_group();
        let _ = live.child.exit(REPORT).await;
        live.port.drain(self.source(0));
        Err(error)
    }

    /// One that could not be put into its cgroup serves all the same, and is watched: the launcher has said why.
    fn check_cgroup(&self, live: &mut Live) {
        if live.child.give_up_cgroup() {
            tracing::warn!(
                worker = self.name,
                "no cgroup of its own: its resident size is watched"
            );
        }
    }

    /// Waits until the worker has said READY.
    async fn ready(&mut self, live: &mut Live) -> Result<(), StartError> {
        loop {
            let source = source(&self.shared, &self.name, 0);
            let event = tokio::select! {
                biased;
                _ = told_to_stop(&mut self.actor_gone, &mut self.commands) => {
                    return Err(StartError::Stopped { what: self.name.clone() });
                }
                event = live.port.event(source) => event,
                () = poll_fn(|cx| live.child.poll_ended(cx)) => Event::Closed,
            };
            match event {
                Event::Frame(frame) => {
                    if self.starting_frame(&frame)? {
                        return Ok(());
                    }
                }
                Event::Stack(..) => {}
                Event::Closed => return Err(self.ended_before_ready(live).await),
                Event::Broken(error) => return Err(self.broke_protocol(&error)),
            }
        }
    }

    /// Whether the frame says that the worker is ready.
    fn starting_frame(&self, frame: &Frame) -> Result<bool, StartError> {
        match frame.kind {
            Kind::Ready if frame.arg == wire::VERSION => {
                let told = serde_json::from_slice(&frame.json).map_err(|error| {
                    self.broke_protocol(&ProtocolError::Unexpected(error.to_string()))
                })?;
                self.shared.kinds.learn(&told);
                Ok(true)
            }
            Kind::Ready => Err(self.broke_protocol(&ProtocolError::Version {
                found: frame.arg,
                expected: wire::VERSION,
            })),
            Kind::Failed => Err(match serde_json::from_slice::<PythonException>(&frame.json) {
                Ok(exception) => StartError::Python {
                    stage: frame.name().to_owned(),
                    python: self.shared.config.interpreter.path.clone(),
                    exception: Box::new(exception),
                },
                Err(error) => self.broke_protocol(&ProtocolError::Unexpected(error.to_string())),
            }),
            Kind::Log => {
                self.log(frame);
                Ok(false)
            }
            kind => Err(self.broke_protocol(&unexpected(kind, frame.id))),
        }
    }

    async fn ended_before_ready(&self, live: &mut Live) -> StartError {
        if tokio::time::timeout(CLOSED_GRACE, poll_fn(|cx| live.child.poll_ended(cx)))
            .await
            .is_err()
        {
            live.child.kill_group();
        }
        let exit = live.child.exit(REPORT).await.unwrap_or(Exit::Unknown);
        for frame in live.port.drain(self.source(0)) {
            if let Err(error) = self.starting_frame(&frame) {
                return error;
            }
        }
        let what = format!("worker {}", self.name);
        if let Some((held, limit)) = self.over_limit(live) {
            return StartError::Memory { what, held, limit };
        }
        StartError::Exited { what, exit, stderr: live.port.stderr_tail() }
    }

    fn broke_protocol(&self, error: &ProtocolError) -> StartError {
        StartError::Protocol { what: format!("worker {}", self.name), message: error.to_string() }
    }
}

/// Resolves when a port that is being started is not wanted any more: whether because its slot is retired.
pub(super) async fn told_to_stop(
    actor_gone: &mut oneshot::Receiver<Infallible>,
    commands: &mut mpsc::UnboundedReceiver<Command>,
) -> bool {
    let stop = async {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Retire => return true,
                Command::Exit { .. } | Command::Kill(_) => return false,
                _ => {}
            }
        }
        false
    };
    tokio::select! {
        _ = actor_gone => false,
        retired = stop => retired,
    }
}
