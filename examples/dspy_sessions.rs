//! DSPy programs of several sessions, on workers that may die, in a host that is killed: nothing changes.
//!
//!     cargo run --release --features durable --example dspy_sessions
//!
//! The first run makes a virtual environment with DSPy in `target/`, from PyPI; nothing else needs a network. The language
//! model is a stub on loopback (`dspy_stub.py`) whose answers follow from the prompt, or DSPy's `DummyLM`.
//! The program starts itself again as the host: once to be killed with `-9`, and once more to find everything as it was.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use snakepen::contrib::dspy::{Dspy, LanguageModel, Optimizer, Options, Program};
use snakepen::session::Durable;
use snakepen::{Pool, SessionStore};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
const DSPY: &str = "dspy==3.4.1";
const WORKERS: usize = 3;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<ExitCode> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => supervise(),
        ["host", part, directory, url] => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(host(part, Path::new(directory), url))?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Err("it takes no arguments".into()),
    }
}

// === The program that is run: it starts hosts, and kills one

fn supervise() -> Result<ExitCode> {
    let python = python_with_dspy()?;
    let stub = Stub::start(&python)?;
    println!("A stub of a language model answers at {}.\n", stub.url);
    let directory = tempfile::tempdir()?;
    let host = |part: &str| {
        Command::new(std::env::current_exe()?)
            .args(["host", part])
            .arg(directory.path())
            .arg(&stub.url)
            .env("SNAKEPEN_PYTHON", &python)
            .env("STUB_KEY", "not-a-secret")
            .spawn()
    };

    println!("The first host, with {WORKERS} workers and sessions in a file:");
    let mut first = host("first")?;
    let told = directory.path().join("answers.json");
    let start = Instant::now();
    while !told.exists() {
        if let Some(status) = first.try_wait()? {
            println!("The first host ended by itself: {status}");
            return Ok(ExitCode::FAILURE);
        }
        if start.elapsed() > Duration::from_secs(90) {
            first.kill()?;
            return Err("the first host doesn't come to its answers".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    first.kill()?;
    first.wait()?;
    println!("  killed with -9 while it goes on calling\n");

    println!("The second host, on the same file:");
    let status = host("second")?.wait()?;
    if !status.success() {
        println!("Something is not as it was: {status}");
        return Ok(ExitCode::FAILURE);
    }
    println!("\nAll answers are what they were.");
    Ok(ExitCode::SUCCESS)
}

/// The chosen interpreter if it has DSPy, else one in a virtual environment that is made if need be.
fn python_with_dspy() -> Result<PathBuf> {
    let has_dspy = |python: &Path| {
        Command::new(python)
            .args(["-c", "import dspy"])
            .output()
            .is_ok_and(|it| it.status.success())
    };
    let chosen = std::env::var_os("SNAKEPEN_PYTHON").filter(|path| !path.is_empty());
    let base: PathBuf = chosen.unwrap_or("python3".into()).into();
    if has_dspy(&base) {
        return Ok(base);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let venv = std::path::absolute(target.join("venv-dspy"))?;
    let python = venv.join("bin/python");
    if !has_dspy(&python) {
        println!("Once, from PyPI: installing {DSPY} into {} (about a minute).", venv.display());
        run(Command::new(&base).args(["-m", "venv", "--clear"]).arg(&venv))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", DSPY];
        run(Command::new(&python).args(pip))?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

/// The language model's process; it ends with its standard input, and so with this program, whatever becomes of it.
struct Stub {
    process: Child,
    url: String,
}

impl Stub {
    fn start(python: &Path) -> Result<Self> {
        let mut process = Command::new(python)
            .arg(format!("{EXAMPLES}/dspy_stub.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut port = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut port)?;
        Ok(Self { process, url: format!("http://127.0.0.1:{}/v1", port.trim()) })
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

// === The host

async fn host(part: &str, directory: &Path, url: &str) -> Result<()> {
    let start = Instant::now();
    let store = SessionStore::builder("sessions")
        .backend(Durable::new(directory.join("sessions.redb")))
        .open()
        .await?;
    let pool = Pool::builder("dspy")
        .handlers(format!("{EXAMPLES}/dspy_sessions.py"))
        .dspy()
        .sessions(store.clone())
        .workers(WORKERS)
        .start()
        .await?;
    println!("  ready after {:.1?}: DSPy is imported once, and forked", start.elapsed());
    let dspy = Dspy::new(&pool);
    if part == "first" {
        create(&dspy, url).await?;
        let before = answers(&dspy).await?;
        for (question, answer) in before.as_object().ok_or("an object")? {
            println!("    {question}: {answer}");
        }
        kill_a_worker(&pool).await?;
        compare(&before, &answers(&dspy).await?, "after the death of a worker")?;
        compare(&before, &at_once(&dspy).await?, "on all workers at once")?;
        // Written under another name first: who sees it sees all of it.
        fs::write(directory.join("draft"), before.to_string())?;
        fs::rename(directory.join("draft"), directory.join("answers.json"))?;
        while start.elapsed() < Duration::from_secs(120) {
            at_once(&dspy).await?;
        }
        return Err("nobody has killed this host".into());
    }
    println!("  sessions in the file: {}", store.list().await?.join(", "));
    for program in dspy.session("ann").list().await? {
        println!("    ann sees {} ({}, {:?})", program.id, program.kind, program.scope);
    }
    let info = dspy.session("ann").info("qa").await?;
    let optimized = info.optimized.ok_or("ann's program was compiled")?;
    println!(
        "  ann's qa is as {} has left it: {} demos, score {}",
        optimized["optimizer"], info.demos, optimized["score"]
    );
    let before: Value = serde_json::from_slice(&fs::read(directory.join("answers.json"))?)?;
    compare(&before, &answers(&dspy).await?, "in the new host")?;
    let calls = dspy.session("ann").history(100).await?;
    println!("  ann's history has {} calls of both hosts", calls.len());
    pool.shutdown().await?;
    Ok(store.close().await?)
}

/// Programs and language models: some for all, some of a session.
async fn create(dspy: &Dspy, url: &str) -> Result<()> {
    let model = LanguageModel::new("openai/stub").api_base(url).api_key_env("STUB_KEY");
    dspy.configure_lm(model).await?;
    dspy.create_program("triage", Program::module("dspy_sessions:Triage")).await?;

    let ann = dspy.session("ann");
    ann.create_program("qa", Program::chain_of_thought("question -> answer")).await?;
    let examples = ["why", "how", "where", "when"].map(|word| json!({ "question": word }));
    let optimizer = Optimizer::new("BootstrapFewShot", examples)
        .metric("dspy_sessions:is_loud")
        .param("max_bootstrapped_demos", 3)
        .param("max_labeled_demos", 0);
    let compiled = ann.optimize("qa", optimizer).await?;
    println!(
        "  ann's qa is compiled by {}: version {} after {}, score {:?}",
        compiled.optimizer, compiled.version, compiled.from_version, compiled.score
    );

    // Ben has a model of his own.
    let ben = dspy.session("ben");
    ben.configure_lm(LanguageModel::dummy(json!([
        { "next_thought": "I count", "next_tool_name": "stock", "next_tool_args": { "item": "pen" } },
        { "next_thought": "I know", "next_tool_name": "finish", "next_tool_args": {} },
        { "reasoning": "I counted them.", "count": 12 },
    ])))
    .await?;
    let agent = Program::react("question -> count: int", ["dspy_sessions:stock"]);
    ben.create_program("shop", agent).await?;

    let error = ben.create_program("bad", Program::predict("question -> count: itn")).await;
    println!("  a wrong signature: {}", error.err().ok_or("it must be refused")?);
    Ok(())
}

/// What each session's programs answer now.
async fn answers(dspy: &Dspy) -> Result<Value> {
    let (ann, ben) = (dspy.session("ann"), dspy.session("ben"));
    let ask = |question: &str| json!({ "question": question });
    let ticket = json!({ "ticket": "the pen is empty" });
    let detailed = Options::default().reasoning();
    let qa = ann.execute_with::<Value>("qa", ask("who is it"), detailed.clone()).await?;
    let shop = ben.execute_with::<Value>("shop", ask("how many pens?"), detailed).await?;
    Ok(json!({
        "ann, qa": { "outputs": qa.outputs, "beside": qa.reasoning, "version": qa.version },
        "ann, triage": ann.execute::<Value>("triage", &ticket).await?.outputs,
        "ben, shop": { "outputs": shop.outputs, "tool": shop.reasoning["trajectory"]["observation_0"] },
        "nobody, triage": dspy.execute::<Value>("triage", &ticket).await?.outputs,
    }))
}

/// The same, many times at once, so that every worker has part in it.
async fn at_once(dspy: &Dspy) -> Result<Value> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 * WORKERS {
        let dspy = dspy.clone();
        tasks.spawn(async move { answers(&dspy).await });
    }
    let mut all: Option<Value> = None;
    while let Some(one) = tasks.join_next().await {
        let one = one??;
        if all.as_ref().is_some_and(|all| *all != one) {
            return Err(format!("workers differ: {all:?} and {one}").into());
        }
        all = Some(one);
    }
    all.ok_or_else(|| "no answers".into())
}

fn compare(before: &Value, now: &Value, when: &str) -> Result<()> {
    if before != now {
        return Err(format!("{when} the answers are others: {before} and {now}").into());
    }
    println!("  the same answers {when}");
    Ok(())
}

async fn kill_a_worker(pool: &Pool) -> Result<()> {
    let before = pool.workers()[1].clone();
    let pid = before.pid.ok_or("a ready worker has a process")?;
    Command::new("sh").args(["-c", &format!("kill -9 {pid}")]).status()?;
    while pool.workers()[1].epoch == before.epoch || pool.stats().ready < WORKERS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("  {} (pid {pid}) is killed with -9, and replaced", before.name);
    Ok(())
}
