//! What the benchmarks share: the command line, the machine, quantiles, tables and JSON rows.
#![allow(dead_code, unreachable_pub)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

/// What stands after `--` on the command line.
#[derive(Debug, Default)]
pub struct Options {
    /// Fewer and shorter rounds.
    pub quick: bool,
    /// Where the rows go.
    pub json: Option<PathBuf>,
}

impl Options {
    pub fn parse() -> Self {
        let mut options = Self::default();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--json" => match args.next() {
                    Some(file) => options.json = Some(file.into()),
                    None => usage("--json needs a file"),
                },
                // Cargo adds these.
                "--bench" | "--test" => {}
                other => usage(&format!("unknown argument {other}")),
            }
        }
        options
    }

    /// Writes the rows, as one JSON array, if asked to.
    pub fn write<R: Serialize>(&self, rows: &[R]) {
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(rows).expect("rows are plain numbers and text");
            std::fs::write(file, text + "\n")
                .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
            println!("\n{} rows written to {}", rows.len(), file.display());
        }
    }
}

fn usage(problem: &str) -> ! {
    eprintln!("{problem}; usage: cargo bench --bench NAME [-- [--quick] [--json FILE]]");
    std::process::exit(2)
}

/// The interpreter: `SNAKEPEN_PYTHON`, else the one that `python3` is in the end. A shim that finds out at each
/// start which Python it stands for, such as pyenv's, takes 100 ms to do so; that is not what is measured here.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| match std::env::var_os("SNAKEPEN_PYTHON") {
        Some(path) => path.into(),
        None => ask("python3".as_ref(), "import sys; print(sys.executable)").into(),
    })
}

/// What a line of Python prints; empty if it fails.
pub fn ask(python: &Path, program: &str) -> String {
    let asked = Command::new(python)
        .args(["-c", program])
        .stderr(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", python.display()));
    String::from_utf8_lossy(&asked.stdout).trim().to_owned()
}

pub fn manifest() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The benchmarks' handler file.
pub fn handlers() -> String {
    manifest().join("benches/handlers.py").to_str().expect("a UTF-8 path").to_owned()
}

/// 87 bytes of JSON: what an echo is of.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Message {
    id: u64,
    name: String,
    amount: f64,
    tags: Vec<String>,
    done: bool,
}

impl Message {
    pub fn example() -> Self {
        Self {
            id: 20_260_117,
            name: "small calls".to_owned(),
            amount: 42.5,
            tags: vec!["echo".to_owned(), "bench".to_owned()],
            done: false,
        }
    }
}

/// Processor time of this process so far.
pub fn cpu_us() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own");
    (usage.user_time() + usage.system_time()).num_microseconds() as f64
}

/// Says where the figures come from.
pub fn print_machine() {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let version = ask(python(), "import platform; print(platform.python_version())");
    println!(
        "{cores} cores, {model}, Linux {}, CPython {version}",
        read("/proc/sys/kernel/osrelease").trim()
    );
    println!("interpreter {} (resolved once, before anything is measured)", python().display());
    let load = read("/proc/loadavg");
    println!(
        "load average of the last minute at the start: {}\n",
        load.split(' ').next().unwrap_or("?")
    );
}

/// The middle of some figures, and how far they reach.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        assert!(!sorted.is_empty(), "nothing was measured");
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self { low: sorted[0], median, high: sorted[sorted.len() - 1] }
    }

    /// As in `12.3 (11.0 to 15.1)`.
    pub fn text(&self, decimals: usize) -> String {
        let Self { low, median, high } = self;
        format!("{median:.decimals$} ({low:.decimals$} to {high:.decimals$})")
    }
}

/// A table of text: the columns are as wide as what is in them, all flush right.
#[derive(Debug)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|&text| text.to_owned()).collect()])
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.0[0].len(), "a cell per column");
        self.0.push(cells);
    }

    pub fn print(&self) {
        let widths: Vec<usize> = (0..self.0[0].len())
            .map(|column| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for (number, row) in self.0.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "  {cell:>width$}");
            }
            println!("{line}");
            if number == 0 {
                println!("  {}", "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
            }
        }
    }
}

/// 12345.6 as `12 346`.
pub fn thousands(figure: f64) -> String {
    let digits = format!("{:.0}", figure.max(0.0));
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
