//! The least that can drive the same Python workers: a launcher and its workers, spoken to as Snakepen does, and
//! one task per worker that takes frames from a shared channel. No actors, no supervision, no deadlines, no
//! cancellation, no statistics, and the arguments encoded beforehand: what Snakepen's calls are held against.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, socketpair, sockopt,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const BOOTSTRAP: &str = include_str!("../../python_worker/bootstrap.py");

/// The wire protocol's version, kinds and header, and the socket buffers, as in `src/`.
const VERSION: u64 = 1;
const CALL: u8 = 1;
const READY: u8 = 65;
const RESULT: u8 = 67;
const HEADER: usize = 24;
const SOCKET_BUFFER: usize = 4 << 20;

type Job = (Bytes, oneshot::Sender<Bytes>);

pub(crate) struct BarePool {
    jobs: async_channel::Sender<Job>,
    tasks: Vec<JoinHandle<()>>,
    launcher: Launcher,
}

impl BarePool {
    /// Starts the launcher and the workers, and returns when all of them are ready.
    pub(crate) async fn start(
        python: &Path,
        package: &Path,
        handlers: &str,
        workers: usize,
    ) -> io::Result<Self> {
        let mut launcher = Launcher::start(python, package, handlers)?;
        let (jobs, queue) = async_channel::unbounded();
        let mut tasks = Vec::new();
        for slot in 0..workers {
            let socket = UnixStream::from_std(launcher.spawn(slot)?.into())?;
            let mut worker = Worker { socket, buffer: BytesMut::with_capacity(64 << 10) };
            let (kind, _) = worker.read().await?;
            assert_eq!(kind, READY, "a worker does not start");
            tasks.push(tokio::spawn(worker.serve(queue.clone())));
        }
        Ok(Self { jobs, tasks, launcher })
    }

    /// Sends a frame to whichever worker is free first, and returns the JSON of its result.
    pub(crate) async fn call(&self, frame: Bytes) -> Bytes {
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send((frame, reply)).expect("the workers' tasks are there");
        answer.await.expect("a worker lives")
    }

    pub(crate) async fn stop(self) {
        self.jobs.close();
        for task in self.tasks {
            task.await.expect("a worker's task ends in order");
        }
        self.launcher.stop();
    }
}

/// A CALL of a handler with these arguments.
pub(crate) fn call_frame(handler: &str, arguments: &impl serde::Serialize) -> Bytes {
    let name = u16::try_from(handler.len()).expect("a short name");
    let mut frame = Vec::with_capacity(HEADER + handler.len() + 104);
    frame.extend_from_slice(&[0, 0, 0, 0, CALL, 0]);
    frame.extend_from_slice(&name.to_le_bytes());
    frame.extend_from_slice(&1_u64.to_le_bytes());
    frame.extend_from_slice(&0_u64.to_le_bytes());
    frame.extend_from_slice(handler.as_bytes());
    serde_json::to_writer(&mut frame, arguments).expect("plain arguments");
    let length = u32::try_from(frame.len() - HEADER).expect("a small call");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame.into()
}

struct Worker {
    socket: UnixStream,
    buffer: BytesMut,
}

impl Worker {
    async fn serve(mut self, queue: async_channel::Receiver<Job>) {
        while let Ok((frame, reply)) = queue.recv().await {
            self.socket.write_all(&frame).await.expect("a worker takes calls");
            let (kind, json) = self.read().await.expect("a worker answers");
            assert_eq!(kind, RESULT, "a call fails");
            let _ = reply.send(json);
        }
    }

    /// The next frame: its kind, and its body.
    async fn read(&mut self) -> io::Result<(u8, Bytes)> {
        loop {
            if let Some(mut header) = self.buffer.get(..HEADER) {
                let length = header.get_u32_le() as usize;
                let kind = header.get_u8();
                if self.buffer.len() >= HEADER + length {
                    self.buffer.advance(HEADER);
                    return Ok((kind, self.buffer.split_to(length).freeze()));
                }
            }
            if self.buffer.capacity() - self.buffer.len() < 8 << 10 {
                self.buffer.reserve(64 << 10);
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The launcher's process. It ends, and with it its workers, when its control socket is closed.
struct Launcher {
    control: OwnedFd,
    child: Child,
}

impl Launcher {
    /// Starts it in the host's session, as Snakepen does: where the kernel groups processes by session
    /// (`kernel.sched_autogroup_enabled`), it matters for speed whether host and workers share one.
    fn start(python: &Path, package: &Path, handlers: &str) -> io::Result<Self> {
        let (control, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = Command::new(python)
            .args(["-I", "-S", "-c"])
            .arg(BOOTSTRAP)
            .arg(package)
            .arg("launcher")
            .stdin(Stdio::from(theirs))
            .process_group(0)
            .spawn()?;
        let mut launcher = Self { control, child };
        let config = json!({
            "pool": "bare", "handlers": { "file": handlers }, "expose": {}, "paths": [], "preload": [],
            "fresh": false, "max_frame": 256 << 20, "log_level": 30,
        });
        launcher.send(&json!({ "op": "configure", "version": VERSION, "config": config }), &[])?;
        launcher.expect("ready")?;
        Ok(launcher)
    }

    /// Has a worker forked; returns the host's end of its socket.
    fn spawn(&mut self, slot: usize) -> io::Result<OwnedFd> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        for end in [&ours, &theirs] {
            sockopt::set_socket_send_buffer_size(end, SOCKET_BUFFER)?;
        }
        rustix::io::ioctl_fionbio(&ours, true)?;
        let output = io::stderr().as_fd().try_clone_to_owned()?;
        let dump = File::options().write(true).open("/dev/null")?;
        let page = rustix::fs::memfd_create("bare-status", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&page, 8192)?;
        let spawn = json!({
            "op": "spawn", "token": slot, "slot": slot, "epoch": 1, "worker": format!("bare/worker/{slot}"),
        });
        // Nothing comes through it.
        let (_, lane) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let fds = [&theirs, &output, &output].map(AsFd::as_fd);
        let fds = [fds[0], fds[1], fds[2], dump.as_fd(), page.as_fd(), lane.as_fd()];
        self.send(&spawn, &fds)?;
        self.expect("spawned")?;
        Ok(ours)
    }

    fn send(&mut self, message: &Value, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(6))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(rights.push(SendAncillaryMessage::ScmRights(fds)), "room for six descriptors");
        }
        let text = message.to_string();
        let parts = [IoSlice::new(text.as_bytes())];
        rustix::net::sendmsg(&self.control, &parts, &mut rights, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for the next message; descriptors that come with it are closed by the kernel.
    fn expect(&mut self, op: &str) -> io::Result<()> {
        let mut buffer = vec![0_u8; 64 << 10];
        let (count, _) = rustix::net::recv(&self.control, &mut buffer[..], RecvFlags::empty())?;
        let message: Value = serde_json::from_slice(&buffer[..count])?;
        if message["op"] == op {
            return Ok(());
        }
        Err(io::Error::other(format!("expected {op} from the launcher, got {message}")))
    }

    fn stop(self) {
        let Self { control, mut child } = self;
        drop(control);
        child.wait().expect("the launcher is this process's child");
    }
}
