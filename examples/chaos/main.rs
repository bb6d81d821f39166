//! A chaos run: many tasks call two pools, in one of which calls overlap, and some named Python objects, while others
//! kill, stop and corrupt whatever these are made of. Meanwhile, and afterwards, it is checked that they keep what they
//! promise.
//!
//!     cargo run --release --example chaos -- --seconds 30 --seed 1
//!
//! Without arguments it runs for 10 s. The seed fixes what each task does, and in which order; how the tasks
//! interleave is up to the machine. For hunting: `--only TEXT` injects only the faults with this in their names,
//! `--cut` shuts the pools down while they are called and harmed, and `--log` shows what they say about it.
//!
//! What is checked (a violation is counted, the first few are shown, and the run fails):
//!
//! - Every call ends, at its deadline plus [`TOLERANCE`] at the latest, and none times out early.
//! - The right answer reaches the right caller, from the worker that was asked.
//! - A call ends as it should, or fails by what is injected ([`judge::collateral`]), and in no other way.
//! - No call runs twice; none runs of which `may_have_run()` is false; the work of one that timed out, was
//!   cancelled, or lost its caller, stops. Only an idempotent one may run again.
//! - Items come in their order, all of them before what ends their stream, and none twice; a generator whose consumer has
//!   left stops; an input is dropped with its call, and so is what a handler waits for in Rust.
//! - Buffers hold what was sent, also those that handlers keep; a cast that was accepted runs once, to its end.
//! - What could only wait for itself is refused: calls within calls.
//! - A call suffers by another one only if that one was given up, or ends their worker.
//! - No number that an actor has told is told again: it has lost nothing that it has acknowledged.
//! - The sums of `Pool::stats` agree at every look, and in the end with what the callers have seen.
//! - Memory stays bounded, the pools become whole again, and nothing is left of them.

mod actors;
mod call;
mod caller;
mod exchange;
mod exposed;
mod faults;
mod judge;
mod kinds;
mod ledger;
mod life;
mod system;
mod values;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use actors::Actors;
use life::{Chaos, OVERLAPPING, PLAIN, Setting};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

/// A resize adds so many at most.
const MORE: usize = 2;

const MAX_FRAME: usize = 8 << 20;
/// After this a worker that is stopped while it starts is given up.
const STARTUP: Duration = Duration::from_secs(5);
const HEALTH_INTERVAL: Duration = Duration::from_millis(300);
const HEALTH_TIMEOUT: Duration = Duration::from_millis(700);
const GRACE: Duration = Duration::from_secs(5);
const CANCEL_GRACE: Duration = Duration::from_millis(500);

/// A call ends at its deadline; a busy machine needs this to notice.
const TOLERANCE: Duration = Duration::from_secs(3);

/// How long the pools are called before anything is measured: what the first ones leave in the runtime and the
/// allocator is no leak.
const WARM_UP: Duration = Duration::from_secs(1);

/// Faults come in storms. A calm ends the series of deaths that the pool's backoffs count (20 deaths of what lived for
/// less than 10 s are free); a long run would spend its time in delays otherwise.
const STORM: Duration = Duration::from_secs(20);
const CALM: Duration = Duration::from_secs(12);

/// The longest delay of a restart is 30 s; the rest is for a slow machine.
const RECOVERY: Duration = Duration::from_secs(45);
/// Nothing else that is waited for takes so long.
const LIMIT: Duration = Duration::from_secs(30);

/// Calls and faults go on for so long after a shutdown has begun.
const AFTER_CUT: Duration = Duration::from_millis(500);

/// So much may the host's memory grow in between, in bytes,
const GROWTH: usize = 400 << 20;
/// and so much from before to after: the allocator keeps some for later.
const KEPT: usize = 96 << 20;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.log {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let violations = runtime.block_on(run(&options))?;
    Ok(if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Options {
    time: Duration,
    seed: u64,
    /// Which faults are injected: those with this in their names.
    only: String,
    cut: bool,
    log: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            time: Duration::from_secs(10),
            seed: 1,
            only: String::new(),
            cut: false,
            log: false,
        };
        let (mut seconds, mut any) = (30, false);
        while let Some(argument) = arguments.next() {
            any = true;
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
            match argument.as_str() {
                "--seconds" => seconds = value()?.parse()?,
                "--seed" => options.seed = value()?.parse()?,
                "--only" => options.only = value()?,
                "--cut" => options.cut = true,
                "--log" => options.log = true,
                _ => {
                    let usage = "[--seconds N] [--seed N] [--only TEXT] [--cut] [--log]";
                    return Err(format!("{argument}? usage: chaos {usage}").into());
                }
            }
        }
        if any {
            options.time = Duration::from_secs(seconds);
        }
        Ok(options)
    }
}

/// What a run comes to.
#[derive(Default)]
struct Sums {
    calls: u64,
    faults: u64,
    violations: u64,
}

async fn run(options: &Options) -> Result<u64, Box<dyn Error>> {
    println!(
        "Two pools and some actors are called for {:?}, with seed {}.",
        options.time, options.seed
    );
    let calm = Options { time: WARM_UP, only: String::new(), cut: false, ..*options };
    let warm_up = round(&calm, false).await?;
    let (descriptors, memory) = (system::descriptors(), system::memory());
    let mut sums = round(options, true).await?;
    sums.violations += warm_up.violations;
    let mut violation = |what: String| {
        println!("VIOLATION: {what}");
        sums.violations += 1;
    };
    if !system::eventually(LIMIT, || system::descriptors() <= descriptors).await {
        let now = system::descriptors();
        violation(format!("descriptors are left: {descriptors} before, {now} after"));
    }
    let mib = |bytes: usize| bytes >> 20;
    let now = system::memory();
    if now > memory + KEPT {
        violation(format!("memory grew from {} to {} MiB", mib(memory), mib(now)));
    }
    println!(
        "Afterwards: {} descriptors ({descriptors} before); the host has {} MiB ({} before).\n",
        system::descriptors(),
        mib(now),
        mib(memory),
    );
    let Sums { calls, faults, violations } = sums;
    println!("calls {calls}, faults injected {faults}, violations {violations}");
    Ok(violations)
}

/// The life of the pools, and of the actors: they are called for a while, under some faults perhaps; become whole, unless
/// they are cut short; and are shut down.
async fn round(options: &Options, faults: bool) -> Result<Sums, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let setting = Setting::new(options, faults, directory.path())?;
    let start = Instant::now();
    let plain = Chaos::start(&PLAIN, &setting, start).await?;
    let overlapping = Chaos::start(&OVERLAPPING, &setting, start).await?;
    let actors = Actors::start(&setting, start).await?;
    tokio::join!(plain.live(&setting), overlapping.live(&setting), actors.live(&setting));
    let ledgers = [plain.end().await?, overlapping.end().await?, actors.end().await?];
    // Of one pool and of the other.
    if let left @ [_, ..] = &*system::children() {
        ledgers[0].violation(&format!("children {left:?} are not reaped"));
    }
    for name in ractor::registry::registered() {
        ledgers[0].violation(&format!("the name {name} is left"));
    }
    let mut sums = Sums::default();
    for ledger in &ledgers {
        sums.calls += ledger.calls();
        sums.faults += ledger.faults();
        sums.violations += ledger.violations();
    }
    Ok(sums)
}
