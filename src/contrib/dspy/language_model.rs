//! A language model's configuration.

use serde::Serialize;
use serde_json::{Map, Value};

/// What `dspy.LM` takes, with secrets by the name of an environment variable of the workers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct LanguageModel {
    settings: Map<String, Value>,
}

impl LanguageModel {
    /// A model by its provider and name, such as `openai/gpt-4o-mini`.
    pub fn new(model: impl Into<String>) -> Self {
        Self::changes().set("model", model.into())
    }

    /// Settings that change those of the configured model for one call: see [`Options::lm`](super::Options::lm).
    pub fn changes() -> Self {
        Self { settings: Map::new() }
    }

    /// DSPy's `DummyLM`, for tests: it gives these answers, objects by output field, one for each of a program's questions;
    /// each call starts with the first. Or, if `answers` is an object, the one whose key is in the prompt.
    pub fn dummy(answers: impl Into<Value>) -> Self {
        Self::new("dummy").set("answers", answers)
    }

    /// Where the provider is, such as `http://127.0.0.1:8000/v1`.
    pub fn api_base(self, url: impl Into<String>) -> Self {
        self.set("api_base", url.into())
    }

    /// The environment variable with the provider's key, which has to be set when this is configured.
    pub fn api_key_env(self, variable: impl Into<String>) -> Self {
        self.set("api_key_env", variable.into())
    }

    /// Any other setting, such as `temperature` or `max_tokens`. With the ending `_env`, its value is that of an environment
    /// variable.
    pub fn set(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }
}
