//! DSPy programs over real pools: one answer on every worker, and after each one's death. Needs DSPy in the interpreter
//! (`SNAKEPEN_PYTHON`); the model is `examples/dspy_stub.py`, on loopback.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use snakepen::contrib::dspy::{
    Dspy, Field, LanguageModel, Optimizer, Options, Prediction, Program, Scope, Signature,
};
use snakepen::{Builder, Error, Pool};

use crate::common::{
    LIMIT, eventually, finish, handler_file, kill, pids, pool, pool_over, python, whole, within,
};

/// The stub's process; it ends with its standard input.
struct Stub {
    process: Child,
    url: String,
}

impl Stub {
    fn start() -> Self {
        let mut process = Command::new(python())
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/dspy_stub.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the stub starts");
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { process, url: format!("http://127.0.0.1:{}/v1", port.trim()) }
    }

    fn model(&self) -> LanguageModel {
        LanguageModel::new("openai/stub").api_base(&self.url).api_key_env("STUB_KEY")
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().expect("the stub ends");
    }
}

/// Without DSPy there is nothing to test, as there is in `numpy_streams_of_workers_differ` without NumPy.
fn installed() -> bool {
    let found = Command::new(python()).args(["-c", "import dspy"]).output().unwrap();
    if !found.status.success() {
        println!("skipped: {} has no DSPy", python().display());
    }
    found.status.success()
}

fn dspy_pool(workers: usize) -> Builder {
    pool("dspy_handlers.py").dspy().workers(workers).env("STUB_KEY", "sk-of-the-test")
}

async fn ask(dspy: &Dspy, id: &str, question: &str) -> Value {
    let inputs = json!({ "question": question });
    dspy.execute::<Value>(id, inputs).await.expect("an answer").outputs
}

/// The answer of one very worker.
async fn ask_worker(pool: &Pool, slot: usize, id: &str) -> Prediction<Value> {
    let args = json!({ "id": id, "inputs": { "question": "who" }, "reasoning": true });
    pool.worker(slot).unwrap().call("dspy.execute", args).await.expect("an answer")
}

#[track_caller]
fn exception(error: Error) -> (String, String) {
    let Error::Python { exception, .. } = error else { panic!("{error}") };
    (exception.type_name.clone(), exception.message.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_runs_the_same_on_every_worker_and_after_its_death() {
    if !installed() {
        return;
    }
    let stub = Stub::start();
    let pool = dspy_pool(3).start().await.unwrap();
    let dspy = Dspy::new(&pool);
    dspy.configure_lm(stub.model()).await.unwrap();
    let program = Program::chain_of_thought("question -> answer").instructions("Answer loudly.");
    let first = dspy.create_program("qa", program).await.unwrap();
    assert_eq!(first.scope, Scope::Global);
    for slot in 0..3 {
        let prediction = ask_worker(&pool, slot, "qa").await;
        assert_eq!(prediction.outputs, json!({ "answer": "WHO" }));
        assert_eq!(prediction.version, first.version);
    }

    let examples =
        (0..6).map(|n| json!({ "question": format!("q{n}"), "answer": format!("Q{n}") }));
    let optimizer = Optimizer::new("BootstrapFewShot", examples)
        .metric("exact_match:answer")
        .param("max_bootstrapped_demos", 3)
        .param("max_labeled_demos", 0);
    let compiled = dspy.optimize("qa", optimizer).await.unwrap();
    assert!(compiled.version > first.version && compiled.from_version == first.version);
    assert!(compiled.score.is_some() && compiled.predictors[0].demos == 3, "{compiled:?}");
    for round in 0..2 {
        for slot in 0..3 {
            let prediction = ask_worker(&pool, slot, "qa").await;
            assert_eq!(prediction.outputs, json!({ "answer": "WHO (3 demos)" }), "{round}");
            assert_eq!(prediction.version, compiled.version);
        }
        let before = pids(&pool);
        for &pid in &before {
            kill(pid, libc::SIGKILL);
        }
        eventually("they are replaced", || pids(&pool).iter().all(|pid| !before.contains(pid)))
            .await;
        whole(&pool).await;
    }
    let info = dspy.info("qa").await.unwrap();
    assert_eq!((info.demos, info.kind.as_str()), (3, "ChainOfThought"));
    assert_eq!(info.predictors[0].instructions.as_deref(), Some("Answer loudly."));
    assert_eq!(info.optimized.unwrap()["optimizer"], "BootstrapFewShot");
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_language_model_reaches_every_worker_at_its_next_call() {
    if !installed() {
        return;
    }
    let pool = dspy_pool(3).start().await.unwrap();
    let dspy = Dspy::new(&pool);
    dspy.create_program("qa", Program::predict("question -> answer")).await.unwrap();
    let (kind, message) =
        exception(dspy.execute::<Value>("qa", json!({ "question": "who" })).await.unwrap_err());
    assert_eq!(kind, "ConfigurationError");
    assert!(message.contains("no language model is configured"), "{message}");
    for answer in ["one", "two", "three"] {
        dspy.configure_lm(LanguageModel::dummy(json!([{ "answer": answer }]))).await.unwrap();
        for slot in 0..3 {
            assert_eq!(ask_worker(&pool, slot, "qa").await.outputs, json!({ "answer": answer }));
        }
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_do_not_mix() {
    if !installed() {
        return;
    }
    let pool = dspy_pool(3).start().await.unwrap();
    let all = Dspy::new(&pool);
    all.create_program("qa", Program::predict("question -> answer")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let dspy = all.session(&format!("s{n}"));
        let own = format!("answer of {n}");
        tasks.spawn(async move {
            let model = LanguageModel::dummy(json!([{ "answer": own, "reply": own }]));
            assert_eq!(dspy.configure_lm(model).await.unwrap().scope, Scope::Session);
            dspy.create_program("own", Program::predict("question -> reply")).await.unwrap();
            for _ in 0..10 {
                assert_eq!(ask(&dspy, "qa", "who").await, json!({ "answer": own }));
                assert_eq!(ask(&dspy, "own", "who").await, json!({ "reply": own }));
            }
            let calls = dspy.history(100).await.unwrap();
            assert_eq!(calls.len(), 20);
            assert!(calls.iter().all(|call| call.outputs.to_string().contains(&own)));
            let listed = dspy.list().await.unwrap();
            let ids: Vec<_> = listed.iter().map(|program| program.id.as_str()).collect();
            assert_eq!(ids, ["own", "qa"]);
        });
    }
    within(LIMIT, "the sessions", async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap()
        }
    })
    .await;
    assert_eq!(all.list().await.unwrap().len(), 1);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_named_and_changes_nothing() {
    if !installed() {
        return;
    }
    let pool = dspy_pool(2).start().await.unwrap();
    let all = Dspy::new(&pool);
    let dspy = all.session("ann");
    for (program, kind, text) in [
        (
            Program::predict("question -> answer: lst[str]"),
            "SignatureError",
            "field 'answer' (lst[str])",
        ),
        (Program::predict("question"), "SignatureError", "\"->\""),
        (Program::predict("question, *, n -> answer"), "SignatureError", "no defaults"),
        (Program::module("dspy_handlers:Thrice"), "ConfigurationError", "Thrice"),
        (Program::react("a -> b", ["dspy_handlers:nothing"]), "ConfigurationError", "nothing"),
    ] {
        let found = exception(dspy.create_program("x", program).await.unwrap_err());
        assert!(found.0 == kind && found.1.contains(text), "{found:?}");
    }
    assert!(dspy.list().await.unwrap().is_empty());
    let secret = LanguageModel::new("openai/x").set("api_key", "sk-literal");
    let found = exception(dspy.configure_lm(secret).await.unwrap_err());
    assert!(found.1.contains("api_key_env"), "{found:?}");

    let first = dspy.create_program("qa", Program::predict("question -> answer")).await.unwrap();
    let again = dspy.create_program("qa", Program::predict("question -> reply")).await;
    assert_eq!(exception(again.unwrap_err()).0, "Conflict");
    dspy.configure_lm(LanguageModel::dummy(json!({ "": { "answer": "a", "reply": "r" } })))
        .await
        .unwrap();
    assert_eq!(ask(&dspy, "qa", "who").await, json!({ "answer": "a" }));
    let unfit = dspy.execute::<Value>("qa", json!({ "query": "who" })).await.unwrap_err();
    assert!(exception(unfit).1.contains("unknown ['query']"));
    let program = Program::predict("question -> reply").replace();
    assert!(dspy.create_program("qa", program).await.unwrap().version > first.version);
    assert_eq!(ask(&dspy, "qa", "who").await, json!({ "reply": "r" }));

    let () = pool.session("ann").call("tampered", ("qa",)).await.unwrap();
    let found =
        exception(dspy.execute::<Value>("qa", json!({ "question": "q" })).await.unwrap_err());
    assert!(found.0 == "ProgramError" && found.1.contains("stored by DSPy 1.2.3"), "{found:?}");

    all.create_program("shared", Program::predict("question -> answer")).await.unwrap();
    assert_eq!(exception(dspy.delete("shared").await.unwrap_err()).0, "ConfigurationError");
    assert!(dspy.delete("qa").await.unwrap());
    assert!(!dspy.delete("qa").await.unwrap());
    let gone = dspy.execute::<Value>("qa", json!({ "question": "q" })).await.unwrap_err();
    assert_eq!(exception(gone).0, "NoSuchProgram");
    assert!(all.delete("shared").await.unwrap());
    assert!(dspy.list().await.unwrap().is_empty());
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_programs() {
    if !installed() {
        return;
    }
    #[derive(serde::Deserialize)]
    struct Rating {
        grade: u32,
        tags: Vec<String>,
    }
    let stub = Stub::start();
    let pool = dspy_pool(2).start().await.unwrap();
    let dspy = Dspy::new(&pool).session("ann");
    dspy.configure_lm(stub.model()).await.unwrap();
    let signature = Signature::new(
        [Field::new("text").description("what is rated")],
        [Field::new("grade").of_type("int"), Field::new("tags").of_type("list[str]")],
    );
    dspy.create_program("rate", Program::predict(signature.describe("Rate", "Rate it.")))
        .await
        .unwrap();
    let options =
        Options::default().usage().reasoning().lm(LanguageModel::changes().set("temperature", 0.5));
    let rating =
        dspy.execute_with::<Rating>("rate", json!({ "text": "a b" }), options).await.unwrap();
    assert!(rating.outputs.grade < 100 && rating.outputs.tags == ["a", "b"]);
    assert!(rating.usage["openai/stub"]["total_tokens"].as_u64() > Some(0));

    dspy.create_program("twice", Program::module("dspy_handlers:Twice")).await.unwrap();
    assert_eq!(ask(&dspy, "twice", "who").await, json!({ "draft": "WHO", "answer": "WHO" }));

    let tools = ["dspy_handlers:population"];
    let agent = Program::react("question -> answer: int", tools).param("max_iters", 3);
    dspy.create_program("agent", agent).await.unwrap();
    dspy.configure_lm(LanguageModel::dummy(json!([
        { "next_thought": "look", "next_tool_name": "population", "next_tool_args": { "city": "Rome" } },
        { "next_thought": "done", "next_tool_name": "finish", "next_tool_args": {} },
        { "reasoning": "so it is", "answer": 2_700_000 },
    ])))
    .await
    .unwrap();
    assert_eq!(ask(&dspy, "agent", "how many?").await, json!({ "answer": 2_700_000 }));
    assert_eq!(dspy.info("agent").await.unwrap().tools.unwrap(), tools);

    dspy.create_program("endless", Program::module("dspy_handlers:Endless")).await.unwrap();
    let start = Instant::now();
    let call = dspy.execute::<Value>("endless", json!({})).timeout(Duration::from_millis(500));
    let error = call.await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3));
    finish(pool).await;
}

#[tokio::test]
async fn a_missing_dspy_fails_the_start_and_says_what_to_install() {
    let (directory, _) = handler_file("");
    let absent = "raise ModuleNotFoundError(\"No module named 'dspy'\", name='dspy')";
    std::fs::write(directory.path().join("dspy.py"), absent).unwrap();
    let (_guard, file) = handler_file("");
    let error =
        pool_over(&file).path(directory.path()).dspy().workers(1).start().await.unwrap_err();
    assert!(error.to_string().contains("-m pip install dspy"), "{error}");
}
