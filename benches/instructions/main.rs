//! How many instructions the host's side of a call takes, against a committed baseline.
//!
//! `cargo bench --bench instructions [-- --bless]`
//!
//! Times depend on what else a machine does; the instructions that a program executes hardly do. Each job runs in a process
//! of its own, which is taken through it step by step ([`steps`]). A job that takes over 5 % more than
//! `benches/instructions/baseline.json` says fails the run; `--bless` writes that file anew. Another compiler makes other
//! instructions: then the figures are shown, not judged.

#[path = "../common/mod.rs"]
mod common;
mod jobs;
#[path = "../scheduler_load/mod.rs"]
mod scheduler_load;
mod steps;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use common::{Table, thousands};
use serde::{Deserialize, Serialize};

/// So much more than the baseline fails.
const THRESHOLD: f64 = 0.05;

/// The C library chooses how to copy by what the processor can, which differs between machines: what each can is left.
const SAME_EVERYWHERE: &str = "glibc.cpu.hwcaps=-AVX512VL,-AVX512BW,-AVX512F,-AVX2,-AVX,-BMI2,-ERMS,-FSRM,-RTM,-SSSE3,\
    -SSE4_2,-SSE4_1,-AVX_Fast_Unaligned_Load,-Fast_Copy_Backward,-Fast_Unaligned_Load,-Fast_Unaligned_Copy,\
    -Prefer_No_VZEROUPPER,-Prefer_ERMS,-Prefer_FSRM";

/// What was counted when.
#[derive(Deserialize, Serialize)]
struct Baseline {
    rustc: String,
    /// Instructions per operation, by job.
    instructions: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["job", name, operations] => {
            jobs::run(name, operations.parse().expect("a number of operations"));
            ExitCode::SUCCESS
        }
        // Cargo adds the last one.
        ["--bless", ..] => bless(),
        ["--bench"] | [] => compare(),
        // `cargo test --benches`
        ["--test"] => ExitCode::SUCCESS,
        _ => {
            eprintln!("usage: cargo bench --bench instructions [-- --bless]");
            ExitCode::from(2)
        }
    }
}

fn bless() -> ExitCode {
    let instructions = jobs::JOBS.iter().map(|job| (job.name.to_owned(), count(job))).collect();
    let baseline = Baseline { rustc: rustc(), instructions };
    let text = serde_json::to_string_pretty(&baseline).expect("plain data") + "\n";
    std::fs::write(file(), text).expect("the baseline can be written");
    println!("written to {}", file().display());
    ExitCode::SUCCESS
}

fn compare() -> ExitCode {
    let text = std::fs::read_to_string(file()).expect("the baseline is there");
    let baseline: Baseline = serde_json::from_str(&text).expect("the baseline is as written");
    let rustc = rustc();
    let mut table = Table::new(&["job", "instructions", "baseline", "change"]);
    let mut worse = Vec::new();
    let mut stale = Vec::new();
    for job in jobs::JOBS {
        let now = count(job);
        let Some(&before) = baseline.instructions.get(job.name) else {
            stale.push(format!("{} is not in it", job.name));
            continue;
        };
        let change = now as f64 / before as f64 - 1.0;
        let percent = format!("{:+.1} %", change * 100.0);
        table.row(vec![
            job.name.to_owned(),
            thousands(now as f64),
            thousands(before as f64),
            percent.clone(),
        ]);
        let line = format!("{}: {before} instructions before, {now} now, {percent}", job.name);
        if change > THRESHOLD {
            worse.push(line);
        } else if change < -THRESHOLD {
            stale.push(line);
        }
    }
    table.print();
    if rustc != baseline.rustc {
        println!("\nNot judged: the baseline was made with {}, this is {rustc}.", baseline.rustc);
        return ExitCode::SUCCESS;
    }
    for line in &stale {
        println!("\nRenew the baseline (`cargo bench --bench instructions -- --bless`): {line}");
    }
    for line in &worse {
        println!("\nFAILED, over {:.0} % more: {line}", THRESHOLD * 100.0);
    }
    if worse.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "\nIf that is what it has to cost, say why in the commit that renews the baseline: \
         cargo bench --bench instructions -- --bless"
    );
    ExitCode::FAILURE
}

fn file() -> PathBuf {
    common::manifest().join("benches/instructions/baseline.json")
}

fn rustc() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The instructions of one operation.
fn count(job: &jobs::Job) -> u64 {
    let program = std::env::current_exe().expect("this program's path");
    let mut command = Command::new(program);
    command.args(["job", job.name, &job.operations.to_string()]);
    command.env("SNAKEPEN_PYTHON", common::python()).env("GLIBC_TUNABLES", SAME_EVERYWHERE);
    steps::count(&mut command) / job.operations
}
