//! The launcher as an operating system process.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::task::Poll;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::protocol::{FromLauncher, LONGEST, ToLauncher};
use crate::config::Config;
use crate::error::{Exit, StartError};
use crate::package::{self, BOOTSTRAP};
use crate::port::output::{Lines, Source, Stream};
use crate::sys::{self, Process};

/// A launcher whose control socket is closed has this long to kill its workers' groups and to leave.
const LEAVE: Duration = Duration::from_secs(2);

/// A started launcher, not yet tied to a runtime.
pub(super) struct Started {
    guard: Reaper,
    control: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Starts the interpreter. Blocks for as long as a fork and an exec take.
pub(super) fn start(config: &Config) -> Result<Started, StartError> {
    let system = |error: io::Error| StartError::System(error.to_string());
    let package = package::directory().map_err(StartError::Package)?;
    let (control, theirs) = sys::message_pair().map_err(system)?;
    let (stdout, their_stdout) = sys::pipe(false).map_err(system)?;
    let (stderr, their_stderr) = sys::pipe(false).map_err(system)?;
    let mut command = Command::new(&config.interpreter.path);
    command
        .args(["-I", "-S", "-c", BOOTSTRAP])
        .arg(&package)
        .arg("launcher")
        .envs(&config.env)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::from(their_stdout))
        .stderr(Stdio::from(their_stderr));
    if let Some(directory) = &config.working_dir {
        command.current_dir(directory);
    }
    sys::detach(&mut command);
    let child = command.spawn().map_err(|error| StartError::Interpreter {
        path: config.interpreter.path.clone(),
        origin: config.interpreter.origin,
        message: error.to_string(),
    })?;
    let process = Process::of_child(child.id()).map_err(system)?;
    sys::set_nonblocking(&control).map_err(system)?;
    Ok(Started { guard: Reaper { child: Some(child), process }, control, stdout, stderr })
}

/// The launcher's process and the ways to it.
#[derive(Debug)]
pub(super) struct LauncherProcess {
    // Before the guard: dropping it closes the control socket, which ends the launcher, which is then reaped.
    control: AsyncFd<OwnedFd>,
    ended: AsyncFd<OwnedFd>,
    stdout: Lines,
    stderr: Lines,
    guard: Reaper,
}

/// A message, and the descriptor that came with it.
pub(super) type Received = (FromLauncher, Option<OwnedFd>);

impl LauncherProcess {
    pub(super) fn adopt(started: Started) -> io::Result<Self> {
        let Started { guard, control, stdout, stderr } = started;
        Ok(Self {
            control: sys::watch(control, Interest::READABLE | Interest::WRITABLE)?,
            ended: sys::watch(guard.process.duplicate()?, Interest::READABLE)?,
            stdout: Lines::new(Stream::Stdout, stdout)?,
            stderr: Lines::new(Stream::Stderr, stderr)?,
            guard,
        })
    }

    pub(super) fn pid(&self) -> i32 {
        self.guard.process.pid()
    }

    /// Sends a message, with descriptors; waits while the socket is full. Not sent if cancelled.
    pub(super) async fn send(
        &self,
        message: &ToLauncher<'_>,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > LONGEST {
            return Err(io::Error::other(format!(
                "the launcher's configuration takes {} bytes, the limit is {LONGEST}",
                text.len()
            )));
        }
        self.control
            .async_io(Interest::WRITABLE, |control| sys::send_message(control, &text, fds))
            .await
    }

    /// The next message, and the descriptor that came with it; `None` when the socket or the process has ended.
    /// Output is passed on meanwhile. Nothing is lost if it is cancelled.
    pub(super) async fn receive(&mut self, source: Source<'_>) -> io::Result<Option<Received>> {
        let Self { control, ended, stdout, stderr, .. } = self;
        let mut buffer = vec![0; LONGEST];
        let received = {
            let message =
                control.async_io(Interest::READABLE, |fd| sys::receive_message(fd, &mut buffer));
            tokio::pin!(message);
            poll_fn(|cx| {
                stdout.poll(cx, source);
                stderr.poll(cx, source);
                match message.as_mut().poll(cx) {
                    Poll::Ready(received) => Poll::Ready(Some(received)),
                    // Not only by the socket: a process that a preloaded module forked may hold that open.
                    Poll::Pending => ended.poll_read_ready(cx).map(|_| None),
                }
            })
            .await
        };
        let (count, fds) = match received {
            None | Some(Ok((0, _))) => return Ok(None),
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Some(received) => received?,
        };
        let message = serde_json::from_slice(&buffer[..count])?;
        Ok(Some((message, fds.into_iter().next())))
    }

    /// Completes when the process has ended. May be cancelled.
    async fn ended(&self) {
        // An error means that the runtime is going away; then nobody waits for this.
        if self.ended.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Kills the process, and what preloaded modules have started in its group.
    fn kill(&self) {
        if let Err(error) = self.guard.process.kill_group() {
            tracing::warn!(pid = self.pid(), %error, "cannot kill the launcher's process group");
        }
    }

    /// Kills the process if it is still there, and its group; reaps it, and returns how it ended and the last of its stderr.
    pub(super) async fn finish(mut self, source: Source<'_>) -> (Exit, String) {
        self.kill();
        self.ended().await;
        self.stdout.drain(source);
        self.stderr.drain(source);
        // It has ended, so this doesn't block.
        #[allow(clippy::disallowed_methods)]
        let exit = match self.guard.child.take().map(|mut child| child.wait()) {
            Some(Ok(status)) => match (status.code(), status.signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            },
            Some(Err(_)) | None => Exit::Unknown,
        };
        (exit, self.stderr.tail())
    }

    /// Whether the process ends by itself within `time`; what it still says is passed on.
    pub(super) async fn leaves_within(&mut self, time: Duration, source: Source<'_>) -> bool {
        let left = async {
            while let Ok(Some(_)) = self.receive(source).await {}
            self.ended().await;
        };
        tokio::time::timeout(time, left).await.is_ok()
    }
}

/// Reaps a launcher that nobody waited for, because its task, or the whole runtime, was dropped.
#[derive(Debug)]
struct Reaper {
    child: Option<Child>,
    process: Process,
}

impl Drop for Reaper {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = self.process.pid();
        let Ok(pidfd) = self.process.duplicate() else {
            return;
        };
        // A thread, because there may be no runtime any more. It ends when the launcher does, in 2 s at most.
        std::thread::spawn(move || {
            sys::wait_readable(&pidfd, LEAVE);
            // Before it is reaped, so that the group's number is still its own.
            let _ = Process::new(pid, pidfd).kill_group();
            // A thread of its own may block.
            #[allow(clippy::disallowed_methods)]
            let _ = child.wait();
        });
    }
}
