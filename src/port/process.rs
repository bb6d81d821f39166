//! A worker's process: its end is learned from its exit status, and nobody leaves it alive.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::error::Exit;
use crate::sys::{self, Process, Signal, WorkerCgroup};

/// A process that the launcher started. Dropping it kills its group, and all in its cgroup: half-started ones are undone
/// that way.
#[derive(Debug)]
pub(crate) struct Child {
    process: Process,
    cgroup: Option<WorkerCgroup>,
    pidfd: AsyncFd<OwnedFd>,
    reports: oneshot::Receiver<Exit>,
    report: Option<Result<Exit, LauncherGone>>,
    ended: bool,
}

/// The launcher that would tell of the exit has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LauncherGone;

impl Child {
    pub(crate) fn new(
        process: Process,
        cgroup: Option<WorkerCgroup>,
        reports: oneshot::Receiver<Exit>,
    ) -> io::Result<Self> {
        let watched = process
            .duplicate()
            .and_then(|pidfd| sys::watch(pidfd, Interest::READABLE))
            .inspect_err(|_| {
                // One that cannot be watched is not kept.
                let _ = process.kill_group();
            });
        Ok(Self { pidfd: watched?, process, cgroup, reports, report: None, ended: false })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The cgroup that holds it to its memory limit.
    pub(crate) fn cgroup(&self) -> Option<&WorkerCgroup> {
        self.cgroup.as_ref()
    }

    /// Gives up its cgroup if it is not in it, as that could not be made, or entered; whether that was so.
    pub(crate) fn give_up_cgroup(&mut self) -> bool {
        let pid = self.pid();
        // One that was killed at its limit was in it.
        let never_held = |it: &mut WorkerCgroup| !it.holds(pid) && it.killed().is_none();
        self.cgroup.take_if(never_held).is_some()
    }

    /// Ready when the process has ended, or when the launcher that would tell is gone.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.report.is_none()
            && let Poll::Ready(report) = Pin::new(&mut self.reports).poll(cx)
        {
            self.report = Some(report.map_err(|_| LauncherGone));
        }
        if self.report.is_some() {
            return Poll::Ready(());
        }
        self.poll_gone(cx)
    }

    /// Ready when the process has ended, reaped or not.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.pidfd.poll_read_ready(cx) {
            Poll::Ready(Ok(_)) => Poll::Ready(()),
            // An error means that the runtime is going away; then nobody waits for this.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Whether a signal that was sent has not reached the process yet.
    pub(crate) fn awaits(&self, signal: Signal) -> bool {
        self.process.awaits(signal)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = self.process.signal(signal) {
            tracing::warn!(pid = self.pid(), %error, "cannot signal a worker");
        }
    }

    pub(crate) fn signal_main_thread(&self, signal: Signal) {
        if let Err(error) = self.process.signal_main_thread(signal) {
            tracing::warn!(pid = self.pid(), %error, "cannot signal a worker");
        }
    }

    pub(crate) fn kill_group(&self) {
        if let Err(error) = self.process.kill_group() {
            tracing::warn!(pid = self.pid(), %error, "cannot kill a worker's process group");
        }
    }

    /// Waits until the process has ended, and for its status: from the launcher, which kills the group before
    /// it reaps and then reports. One that is gone, or silent for so long, is not waited for; then the group is killed
    /// here.
    pub(crate) async fn exit(&mut self, patience: Duration) -> Result<Exit, LauncherGone> {
        poll_fn(|cx| self.poll_ended(cx)).await;
        if self.report.is_none() {
            let report = tokio::time::timeout(patience, &mut self.reports).await;
            self.report = report.ok().map(|report| report.map_err(|_| LauncherGone));
        }
        let exit = match self.report {
            Some(Ok(exit)) => Ok(exit),
            Some(Err(gone)) => Err(gone),
            None => Ok(Exit::Unknown),
        };
        if !matches!(exit, Ok(Exit::Code(_) | Exit::Signal(_))) {
            self.kill_group();
            poll_fn(|cx| self.poll_gone(cx)).await;
        }
        self.ended = true;
        exit
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            self.kill_group();
        }
    }
}
