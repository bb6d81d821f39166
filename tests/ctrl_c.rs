//! Scenario 15c: Ctrl-C sends SIGINT to the whole foreground group. The workers live on until the host has shut
//! down in order: what runs is answered, and their exit handlers run.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::host::{self, Host};
use common::{eventually, handler_file, is_alive, pids, pool, pool_over};
use rustix::process::Signal;
use snakepen::Builder;
use tokio::signal::unix::{SignalKind, signal};

const WORKERS: usize = 3;

#[tokio::test]
#[ignore = "the host that the other tests start"]
async fn host() {
    let Some(part) = host::part() else { return };
    let interrupt = signal(SignalKind::interrupt()).unwrap();
    match part.as_str() {
        "forked" => serve(pool("holding.py"), interrupt).await,
        "fresh" => serve(pool("holding.py").fresh_interpreter(true), interrupt).await,
        "on a terminal" => on_a_terminal(interrupt).await,
        "slow start" => {
            let source = format!(
                "import os, time, snakepen\n\
                 open({:?}, 'a').close()\n\
                 while not os.path.exists({:?}): time.sleep(0.001)\n\
                 @snakepen.handler\n\
                 def pid(): return os.getpid()\n",
                host::shared_file("loading"),
                host::shared_file("load"),
            );
            let (directory, path) = handler_file(&source);
            let builder = pool_over(&path).path(directory.path()).preload(["made_handlers"]);
            let pool = builder.workers(WORKERS).start().await.unwrap();
            let pid = pool.call::<i32>("pid", ()).await.unwrap();
            assert!(pids(&pool).contains(&pid));
            assert_eq!(pool.stats().restarts, 0);
            pool.shutdown().await.unwrap();
        }
        part => panic!("no part {part}"),
    }
}

/// Serves until the user presses Ctrl-C, then shuts down in order.
async fn serve(builder: Builder, mut interrupt: tokio::signal::unix::Signal) {
    let pool = builder.workers(WORKERS).start().await.unwrap();
    for slot in 0..WORKERS {
        let directory = host::shared_file("");
        let pid = pool.worker(slot).unwrap().call::<i32>("tell_at_exit", directory).await.unwrap();
        assert_eq!(pid, pids(&pool)[slot]);
    }
    let files = (host::shared_file("started"), host::shared_file("release"));
    let running = tokio::spawn(pool.call::<i32>("hold", files).into_future());
    common::told(host::shared_file("started").as_ref()).await;
    host::tell("ready", &pids(&pool).iter().map(i32::to_string).collect::<Vec<_>>().join(" "));
    interrupt.recv().await;
    host::tell("interrupted", "");
    pool.shutdown().await.unwrap();
    let answer = running.await.unwrap();
    let stats = pool.stats();
    host::tell(
        "shut down",
        &format!("{answer:?}, {} died, {} restarts", stats.failed.total(), stats.restarts),
    );
}

/// What a worker finds if it looks for the terminal, its session and its launcher's, their groups, and their pids.
type Place = (String, [i32; 2], [i32; 2], [i32; 2]);

/// Tells where its launcher and a worker are.
async fn on_a_terminal(mut interrupt: tokio::signal::unix::Signal) {
    let source = "import os, snakepen
@snakepen.handler
def place():
    try:
        terminal = os.ttyname(os.open('/dev/tty', os.O_RDWR))
    except OSError as error:
        terminal = error.strerror
    launcher = os.getppid()
    both = (os.getpid(), launcher)
    return terminal, [os.getsid(pid) for pid in both], [os.getpgid(pid) for pid in both], both
";
    let (_directory, path) = handler_file(source);
    let pool = pool_over(&path).workers(1).start().await.unwrap();
    let place = pool.call::<Place>("place", ()).await.unwrap();
    let pids = place.3;
    assert_eq!(place, ("No such device or address".to_owned(), [common::session(); 2], pids, pids));
    assert!(std::fs::File::open("/dev/tty").is_ok(), "the host has a terminal");
    host::tell("ready", "");
    interrupt.recv().await;
    assert_eq!(pool.call::<Place>("place", ()).await.unwrap(), place);
    pool.shutdown().await.unwrap();
    host::tell("shut down", &format!("{} restarts", pool.stats().restarts));
}

async fn interrupt_in_order(part: &str) {
    let mut host = Host::start(part);
    let workers: Vec<i32> =
        host.tells("ready").await.split(' ').map(|pid| pid.parse().unwrap()).collect();
    let all: BTreeSet<i32> = host.processes().into_iter().collect();
    assert_eq!((workers.len(), all.len()), (WORKERS, WORKERS + 1));
    host.signal_group(Signal::INT);
    host.tells("interrupted").await;
    // An impatient user; the host takes its time, since a call still runs.
    for _ in 0..3 {
        host.signal_group(Signal::INT);
        assert_eq!(host.processes().into_iter().collect::<BTreeSet<_>>(), all);
    }
    let runs: i32 = host.tells("started").await.parse().unwrap();
    assert!(is_alive(runs));
    std::fs::write(host.file("release"), "").unwrap();
    assert_eq!(host.tells("shut down").await, format!("Ok({runs}), 0 died, 0 restarts"));
    for pid in workers {
        assert!(host.file(&format!("left-{pid}")).exists(), "worker {pid} did not leave in order");
    }
    assert!(host.ends().await.success());
    assert!(host.processes().is_empty());
}

#[tokio::test]
async fn workers_live_until_the_host_has_shut_down() {
    interrupt_in_order("forked").await;
}

#[tokio::test]
async fn fresh_interpreters_live_until_the_host_has_shut_down() {
    interrupt_in_order("fresh").await;
}

/// The launcher is deaf from its first instant, and while it runs user code.
#[tokio::test]
async fn a_start_is_not_disturbed() {
    let mut host = Host::start("slow start");
    // No earlier: until then the host itself may not listen yet.
    eventually("the launcher is there", || !host.processes().is_empty()).await;
    let mut beat = tokio::time::interval(Duration::from_millis(1));
    loop {
        host.signal_group(Signal::INT);
        tokio::select! {
            biased;
            _ = host.tells("loading") => break,
            _ = beat.tick() => {}
        }
    }
    for _ in 0..10 {
        host.signal_group(Signal::INT);
        beat.tick().await;
    }
    std::fs::write(host.file("load"), "").unwrap();
    assert!(host.ends().await.success(), "the start was disturbed");
    assert!(host.processes().is_empty());
}

/// A real one: the worker is in the host's session, where the terminal is, and knows nothing of either.
#[tokio::test]
async fn a_terminal_is_the_hosts_alone() {
    let mut host = Host::start_on_a_terminal("on a terminal");
    host.tells("ready").await;
    host.types("\x03");
    assert_eq!(host.tells("shut down").await, "0 restarts");
    assert!(host.ends().await.success());
    assert!(host.processes().is_empty());
}
