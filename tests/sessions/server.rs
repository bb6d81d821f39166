//! A Redis server of a test's own, in a temporary directory, reached over a Unix socket.
#![allow(dead_code)]

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use snakepen::session::Redis;

use crate::common::eventually;

pub struct Server {
    child: Child,
    directory: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut server = Self { child: Self::spawn(&directory), directory };
        server.answers().await;
        server
    }

    fn spawn(directory: &tempfile::TempDir) -> Child {
        Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "socket", "--save", "", "--loglevel", "warning"])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--logfile", "log"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: `apt-get install redis-server`")
    }

    async fn answers(&mut self) {
        let (socket, child) = (self.socket(), &mut self.child);
        eventually("the server answers", || {
            assert!(child.try_wait().expect("a child").is_none(), "redis-server does not start");
            UnixStream::connect(&socket).is_ok()
        })
        .await;
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub fn backend(&self) -> Redis {
        Redis::new(self.url()).timeout(std::time::Duration::from_secs(20))
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let asked = Command::new("redis-cli").arg("-s").arg(self.socket()).args(arguments).output();
        String::from_utf8(asked.expect("redis-cli").stdout).expect("UTF-8")
    }

    /// Where its data is.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("a killed server");
        self.child.wait().expect("a reaped server");
    }

    pub async fn restart(&mut self) {
        // It may be left from the one that was killed.
        let _ = std::fs::remove_file(self.socket());
        self.child = Self::spawn(&self.directory);
        self.answers().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
