//! [DSPy](https://dspy.ai) programs that live in sessions, and that any worker runs.
//!
//! A program is a definition and a state in the [store](crate::session): what kind of module, its signature, and what it
//! has gained: demos, instructions, what an optimizer has found. A worker builds it when it is called, and keeps it until
//! its version is another. So a worker's death loses nothing, and with a durable store neither does the host's.
//!
//! ```no_run
//! use snakepen::Pool;
//! use snakepen::contrib::dspy::{Dspy, LanguageModel, Program};
//!
//! #[derive(serde::Deserialize)]
//! struct Answer { answer: String, confidence: f64 }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), snakepen::Error> {
//! // `pip install dspy` in the pool's environment.
//! let pool = Pool::builder("demo").dspy().workers(4).start().await?;
//! let all = Dspy::new(&pool);
//! all.configure_lm(LanguageModel::new("openai/gpt-4o-mini").api_key_env("OPENAI_API_KEY")).await?;
//!
//! let dspy = all.session("user-42");
//! dspy.create_program("qa", Program::chain_of_thought("question -> answer, confidence: float")).await?;
//! let prediction = dspy.execute::<Answer>("qa", serde_json::json!({ "question": "Why?" })).await?;
//! println!("{} ({})", prediction.outputs.answer, prediction.outputs.confidence);
//! # pool.shutdown().await
//! # }
//! ```
//!
//! # Scope
//!
//! What [`Dspy::new`] makes is *global*: programs and language models that all sessions see. [`Dspy::session`] is a
//! session's: what is created there is its own, and goes before what is global; the global ones are found after it, and
//! never changed from there.
//!
//! # Errors
//!
//! Each method gives a [`Call`], with its time-out and all. What is wrong with arguments is an [`Error::Python`] whose
//! exception names the culprit: `SignatureError`, `ConfigurationError`, `FieldError`, `ProgramError`, `NoSuchProgram`; an
//! id that is taken, or a program that has changed meanwhile, is `Conflict`. Nothing falls back to something else.
//!
//! # Secrets
//!
//! They are never stored: a language model's configuration names environment variables, which the workers have of the
//! host or by [`Builder::env`]. What looks like a literal secret is refused.

mod language_model;
mod program;
mod results;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::language_model::LanguageModel;
pub use self::program::{Field, Program, Signature};
pub use self::results::{
    Created, Info, LmCall, Optimized, Prediction, Predictor, ProgramInfo, Scope, SignatureInfo,
    Written,
};
use crate::call::Call;
use crate::config::Builder;
#[cfg(doc)]
use crate::error::Error;
use crate::pool::Pool;
use crate::pool_session::PoolSession;

/// The package that has the handlers.
const MODULE: &str = "snakepen.contrib.dspy";

const HANDLERS: [&str; 8] =
    ["configure_lm", "create_program", "delete", "execute", "history", "info", "list", "optimize"];

impl Builder {
    /// Makes the pool run [DSPy programs](crate::contrib::dspy), which needs DSPy in its environment (`pip install dspy`);
    /// a missing one fails [`Builder::start`]. Exposes `dspy.execute` and so on, and
    /// [preloads](Builder::preload) DSPy, which takes about a second, once.
    pub fn dspy(mut self) -> Self {
        for name in HANDLERS {
            self = self.expose(format!("dspy.{name}"), format!("{MODULE}:{name}"));
        }
        self.preload([MODULE])
    }
}

/// DSPy programs and language models: those of a session, or the global ones. Cheap to clone.
///
/// The pool has to be built with [`Builder::dspy`].
#[derive(Clone, Debug)]
pub struct Dspy {
    pool: Pool,
    session: Option<PoolSession>,
}

impl Dspy {
    /// What is global.
    pub fn new(pool: &Pool) -> Self {
        Self { pool: pool.clone(), session: None }
    }

    /// What belongs to this session of the pool.
    pub fn session(&self, id: &str) -> Self {
        Self { session: Some(self.pool.session(id)), ..self.clone() }
    }

    fn call<R: DeserializeOwned>(&self, handler: &str, args: impl Serialize) -> Call<R> {
        match &self.session {
            Some(session) => session.call(handler, args),
            None => self.pool.call(handler, args),
        }
    }

    /// Sets the language model of this session, or of all that have none of their own. It is in force at the next call of
    /// every worker. A configuration that cannot be used, or that has a secret in it, changes nothing.
    pub fn configure_lm(&self, model: LanguageModel) -> Call<Written> {
        self.call("dspy.configure_lm", Configuration { config: Some(model) })
    }

    /// Takes the language model of this session back (or the global one).
    pub fn forget_lm(&self) -> Call<Written> {
        self.call("dspy.configure_lm", Configuration { config: None })
    }

    /// Builds a program, and stores it if that works. An id that is taken is an error (`Conflict`), unless the program
    /// [replaces](Program::replace) it.
    pub fn create_program(&self, id: &str, program: impl Into<Program>) -> Call<Created> {
        self.call("dspy.create_program", Creation { id, program: program.into() })
    }

    /// Runs a program: this session's of that id, else the global one. `inputs` is a struct or a map of its input fields;
    /// its output fields are decoded into `R`.
    pub fn execute<R: DeserializeOwned>(
        &self,
        id: &str,
        inputs: impl Serialize,
    ) -> Call<Prediction<R>> {
        self.execute_with(id, inputs, Options::default())
    }

    /// [`Dspy::execute`] with options.
    pub fn execute_with<R: DeserializeOwned>(
        &self,
        id: &str,
        inputs: impl Serialize,
        options: Options,
    ) -> Call<Prediction<R>> {
        self.call("dspy.execute", Execution { id, inputs, options })
    }

    /// Runs an optimizer in one worker, and stores the compiled program as a new version. That takes long: see
    /// [`Call::timeout`].
    pub fn optimize(&self, id: &str, optimizer: Optimizer) -> Call<Optimized> {
        self.call("dspy.optimize", Optimization { id, optimizer })
    }

    /// The programs of this session, and the global ones.
    pub fn list(&self) -> Call<Vec<ProgramInfo>> {
        self.call("dspy.list", ())
    }

    /// Deletes a program of this session (or a global one); whether there was one. A session does not delete what is
    /// global: that is a `ConfigurationError`.
    pub fn delete(&self, id: &str) -> Call<bool> {
        self.call("dspy.delete", (id,))
    }

    /// All about a program but its demos.
    pub fn info(&self, id: &str) -> Call<Info> {
        self.call("dspy.info", (id,))
    }

    /// The last `count` calls of language models that programs have made in this session (or outside of any), oldest
    /// first. The store keeps the last 100, of 256 KiB together, with texts cut at 16 KiB, and no secrets. Those of
    /// [`Dspy::optimize`] are not in it.
    pub fn history(&self, count: usize) -> Call<Vec<LmCall>> {
        self.call("dspy.history", (count,))
    }
}

/// How a program is [executed](Dspy::execute_with).
#[derive(Clone, Debug, Default, Serialize)]
pub struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    lm: Option<LanguageModel>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    usage: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reasoning: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<bool>,
}

impl Options {
    /// Another language model for this call, or, made by [`LanguageModel::changes`], other settings of the configured one.
    pub fn lm(mut self, model: LanguageModel) -> Self {
        self.lm = Some(model);
        self
    }

    /// Asks for [`Prediction::usage`].
    pub fn usage(mut self) -> Self {
        self.usage = true;
        self
    }

    /// Asks for [`Prediction::reasoning`].
    pub fn reasoning(mut self) -> Self {
        self.reasoning = true;
        self
    }

    /// Keeps the call out of the [history](Dspy::history).
    pub fn without_history(mut self) -> Self {
        self.history = Some(false);
        self
    }
}

/// An optimizer of DSPy, and what it works with.
#[derive(Clone, Debug, Serialize)]
pub struct Optimizer {
    optimizer: String,
    trainset: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valset: Option<Vec<serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<String>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    params: serde_json::Map<String, serde_json::Value>,
}

impl Optimizer {
    /// One of `LabeledFewShot`, `BootstrapFewShot`, `BootstrapFewShotWithRandomSearch`, `BootstrapFewShotWithOptuna`, `MIPROv2`,
    /// `COPRO`, `SIMBA`, `InferRules`, `GEPA`. Examples are objects with the program's inputs and outputs.
    pub fn new(
        name: impl Into<String>,
        trainset: impl IntoIterator<Item = serde_json::Value>,
    ) -> Self {
        Self {
            optimizer: name.into(),
            trainset: trainset.into_iter().collect(),
            valset: None,
            metric: None,
            params: serde_json::Map::new(),
        }
    }

    /// `exact_match:FIELD`, or a Python function `module:function` of `(example, prediction, trace=None)`. Only
    /// `LabeledFewShot` and `BootstrapFewShot` do without.
    pub fn metric(mut self, metric: impl Into<String>) -> Self {
        self.metric = Some(metric.into());
        self
    }

    /// The examples on which the result is scored, which are otherwise those to train on.
    pub fn valset(mut self, examples: impl IntoIterator<Item = serde_json::Value>) -> Self {
        self.valset = Some(examples.into_iter().collect());
        self
    }

    /// A parameter of the optimizer, such as `max_bootstrapped_demos`. An unknown one is an error that names those there
    /// are.
    pub fn param(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.params.insert(name.into(), value.into());
        self
    }
}

#[derive(Serialize)]
struct Configuration {
    config: Option<LanguageModel>,
}

#[derive(Serialize)]
struct Creation<'a> {
    id: &'a str,
    #[serde(flatten)]
    program: Program,
}

#[derive(Serialize)]
struct Execution<'a, I> {
    id: &'a str,
    inputs: I,
    #[serde(flatten)]
    options: Options,
}

#[derive(Serialize)]
struct Optimization<'a> {
    id: &'a str,
    #[serde(flatten)]
    optimizer: Optimizer,
}
