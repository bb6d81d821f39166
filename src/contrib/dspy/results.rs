//! What the handlers answer.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Where a program or a language model belongs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// To one session.
    Session,
    /// To all.
    Global,
}

/// A configuration that was written.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Written {
    /// Where.
    pub scope: Scope,
    /// Its version in the store; none if it was taken back.
    pub version: Option<u64>,
}

/// A program that was created.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Created {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub scope: Scope,
    /// Its version, which is never used twice in a store.
    pub version: u64,
}

/// What a program has answered.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Prediction<R> {
    /// The output fields.
    pub outputs: R,
    /// The version of the program that ran.
    pub version: u64,
    /// What it gave beside its outputs: its `reasoning`, or a ReAct's `trajectory`. If it was
    /// [asked for](super::Options::reasoning).
    #[serde(default)]
    pub reasoning: Map<String, Value>,
    /// Tokens by model, as the provider counts them. If they were [asked for](super::Options::usage).
    #[serde(default)]
    pub usage: BTreeMap<String, Value>,
}

/// A program in a list.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgramInfo {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub scope: Scope,
    /// `Predict`, `ChainOfThought`, `ReAct`, `ProgramOfThought` or `Module`.
    pub kind: String,
    /// Its version.
    pub version: u64,
}

/// All about a program but its demos.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Info {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub scope: Scope,
    /// `Predict`, `ChainOfThought`, `ReAct`, `ProgramOfThought` or `Module`.
    pub kind: String,
    /// Its version.
    pub version: u64,
    /// Its signature; a `Module` has its own in its code.
    pub signature: Option<SignatureInfo>,
    /// The class of a `Module`.
    pub module: Option<String>,
    /// The tools of a `ReAct`.
    pub tools: Option<Vec<String>>,
    /// The parameters of the constructor.
    pub params: Map<String, Value>,
    /// Its parts that ask a language model.
    pub predictors: Vec<Predictor>,
    /// The number of demos of all of them.
    pub demos: usize,
    /// What has compiled it: `optimizer`, `metric`, `score`, `examples`, `from_version`.
    pub optimized: Option<Map<String, Value>>,
    /// What was given with it.
    pub metadata: Map<String, Value>,
    /// The configuration of the language model that it would run with here. It has no secrets.
    pub lm: Option<Map<String, Value>>,
    /// The version of DSPy that has stored it.
    pub dspy: String,
}

/// A signature, as it is stored.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct SignatureInfo {
    /// In DSPy's notation.
    pub text: String,
    /// Its name, if it was given one.
    pub name: Option<String>,
}

/// A part of a program that asks a language model.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Predictor {
    /// Its place in the program, such as `extract.predict`; `self` if it is the program.
    pub name: String,
    /// What the model is told to do.
    pub instructions: Option<String>,
    /// The number of its demos.
    pub demos: usize,
}

/// A compiled program that was stored.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Optimized {
    /// Its new version.
    pub version: u64,
    /// The version that was compiled.
    pub from_version: u64,
    /// The optimizer.
    pub optimizer: String,
    /// In percent, on the examples given for that; none without a metric. What is scored is the program as it was
    /// stored.
    pub score: Option<f64>,
    /// Its parts.
    pub predictors: Vec<Predictor>,
    /// Tokens by model.
    pub usage: BTreeMap<String, Value>,
}

/// A language model's call, from the history.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct LmCall {
    /// The program that made it.
    pub program: String,
    /// That program's version.
    pub version: u64,
    /// The model.
    pub model: Option<String>,
    /// When it ended, in the host's local time, as ISO 8601.
    pub timestamp: Option<String>,
    /// The prompt, as a list of messages.
    pub messages: Value,
    /// What the model gave.
    pub outputs: Value,
    /// Tokens, as the provider counts them.
    pub usage: Value,
}
