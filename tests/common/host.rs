//! A host in a process of its own, to be killed or interrupted: this test binary once more, in its own process
//! group, running nothing but its ignored test `host`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{LIMIT, Mark, python, within};

const PART: &str = "SNAKEPEN_TEST_PART";
const DIRECTORY: &str = "SNAKEPEN_TEST_DIRECTORY";

/// Runs a program on a terminal, which ends with the test.
const TERMINAL: &str = "
import os, pty, sys
os.dup2(2, 1)
def typed(fd):
    return os.read(fd, 1024) or sys.exit(1)
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:], stdin_read=typed)))
";

/// The host, seen from the test.
pub struct Host {
    child: Child,
    mark: Mark,
    directory: tempfile::TempDir,
}

impl Host {
    /// Starts a host that plays this part.
    pub fn start(part: &str) -> Self {
        Self::start_by(Command::new(std::env::current_exe().expect("a path")), part)
    }

    /// Likewise, on a terminal, which a Python process holds; `pid` is that one's.
    pub fn start_on_a_terminal(part: &str) -> Self {
        let mut command = Command::new(python());
        command.args(["-c", TERMINAL]).arg(std::env::current_exe().expect("a path"));
        Self::start_by(command, part)
    }

    fn start_by(mut command: Command, part: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mark = Mark::new();
        command
            .args(["--exact", "host", "--ignored", "--nocapture"])
            .env(PART, part)
            .env(DIRECTORY, directory.path())
            // Looked up here: a host starts nothing but its pools.
            .env("SNAKEPEN_PYTHON", python())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0);
        mark.set(&mut command);
        Self { child: command.spawn().expect("a host"), mark, directory }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// All processes that the host has started, directly or not.
    pub fn processes(&self) -> Vec<i32> {
        let me = self.pid();
        self.mark.processes().into_iter().filter(|&pid| pid != me).collect()
    }

    /// Where host, handlers and test leave files for each other.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits for the file that tells `what`, and returns its text.
    pub async fn tells(&mut self, what: &str) -> String {
        let start = Instant::now();
        loop {
            if let Ok(text) = fs::read_to_string(self.file(what)) {
                return text;
            }
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "the host ended before it told {what:?}: {ended:?}");
            assert!(start.elapsed() < LIMIT, "the host does not tell {what:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Types on the host's terminal.
    pub fn types(&mut self, text: &str) {
        let keyboard = self.child.stdin.as_mut().expect("a pipe");
        keyboard.write_all(text.as_bytes()).expect("a terminal");
    }

    /// Sends to every process of the host's group, as a terminal does.
    pub fn signal_group(&self, signal: rustix::process::Signal) {
        let group = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process_group(group, signal).expect("a signalled group");
    }

    /// Kills the host with -9; nothing of it is left to clean up.
    pub fn kill(&mut self) {
        self.child.kill().expect("a killed host");
        self.child.wait().expect("a reaped host");
    }

    /// Waits for the host to end by itself.
    pub async fn ends(&mut self) -> ExitStatus {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let named = WaitId::Pid(Pid::from_child(&self.child));
        // Not reaped there: a host that hangs is killed by `drop`, which ends that thread.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let ended = tokio::task::spawn_blocking(move || waitid(named, options));
        within(LIMIT, "the host", ended).await.expect("a thread").expect("a child");
        self.child.wait().expect("a child")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What should have ended with it, where a test has found that it doesn't.
        for pid in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// The part that this process is to play, if it is a host; it ends with its test.
pub fn part() -> Option<String> {
    let part = std::env::var(PART).ok()?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    Some(part)
}

/// A path in the directory that a host shares with its test.
pub fn shared_file(name: &str) -> String {
    let directory = std::env::var(DIRECTORY).expect("the part of a host");
    Path::new(&directory).join(name).to_str().expect("a UTF-8 path").to_owned()
}

/// Tells the test that waits for `what`.
pub fn tell(what: &str, text: &str) {
    let draft = shared_file(&format!("{what}.draft"));
    fs::write(&draft, text).expect("a written file");
    fs::rename(draft, shared_file(what)).expect("a renamed file");
}
