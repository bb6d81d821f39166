//! A program's definition, as it is created.

use serde::Serialize;
use serde_json::{Map, Value};

/// A program to be [created](super::Dspy::create_program).
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    kind: &'static str,
    #[serde(flatten)]
    signature: Option<Signature>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    types: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    params: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    demos: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replace: bool,
}

impl Program {
    fn of(kind: &'static str, signature: Option<Signature>) -> Self {
        Self {
            kind,
            signature,
            module: None,
            tools: None,
            instructions: None,
            types: Map::new(),
            params: Map::new(),
            demos: None,
            metadata: None,
            replace: false,
        }
    }

    /// `dspy.Predict`: from the inputs to the outputs.
    pub fn predict(signature: impl Into<Signature>) -> Self {
        Self::of("Predict", Some(signature.into()))
    }

    /// `dspy.ChainOfThought`: with a reasoning before the outputs.
    pub fn chain_of_thought(signature: impl Into<Signature>) -> Self {
        Self::of("ChainOfThought", Some(signature.into()))
    }

    /// `dspy.ReAct`, with Python functions as its tools: `module:function` each, plain and not `async`.
    pub fn react<T: Into<String>>(
        signature: impl Into<Signature>,
        tools: impl IntoIterator<Item = T>,
    ) -> Self {
        let tools = tools.into_iter().map(Into::into).collect();
        Self { tools: Some(tools), ..Self::of("ReAct", Some(signature.into())) }
    }

    /// `dspy.ProgramOfThought`, which runs code that the model writes, in Deno: `pip install "dspy[deno]"`. Deno fetches
    /// Pyodide from the network when it first runs.
    pub fn program_of_thought(signature: impl Into<Signature>) -> Self {
        Self::of("ProgramOfThought", Some(signature.into()))
    }

    /// A class of your own, derived from `dspy.Module`: `module:Class`. What its `forward` takes are its inputs, what is in the
    /// `dspy.Prediction` that it returns are its outputs.
    pub fn module(class: impl Into<String>) -> Self {
        Self { module: Some(class.into()), ..Self::of("Module", None) }
    }

    /// What the model is to do, in place of the signature's description.
    pub fn instructions(mut self, text: impl Into<String>) -> Self {
        self.instructions = Some(text.into());
        self
    }

    /// What a name in the types of fields means: a Python class `module:Class`, such as one of pydantic.
    pub fn type_name(mut self, name: impl Into<String>, class: impl Into<String>) -> Self {
        self.types.insert(name.into(), Value::String(class.into()));
        self
    }

    /// A parameter of the module's constructor, such as `max_iters` of ReAct.
    pub fn param(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.params.insert(name.into(), value.into());
        self
    }

    /// Examples to be put into the prompt, as objects of fields. For Predict and ChainOfThought.
    pub fn demos(mut self, demos: impl IntoIterator<Item = Value>) -> Self {
        self.demos = Some(demos.into_iter().collect());
        self
    }

    /// Anything of your own, to be had back from [`Dspy::info`](super::Dspy::info): an object.
    pub fn metadata(mut self, metadata: impl Into<Value>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// Replaces a program of the same id, as a new version. Default: that is a conflict.
    pub fn replace(mut self) -> Self {
        self.replace = true;
        self
    }
}

/// What goes into a program, and what comes out of it.
///
/// From text it is DSPy's own notation, `question: str, context: list[str] -> answer, score: float`; types are those of
/// Python's builtins and `typing`, and [named ones](Program::type_name). It is checked strictly when the program is created.
#[derive(Clone, Debug, Serialize)]
pub struct Signature(Kind);

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Signature(String),
    Spec {
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        inputs: Vec<Field>,
        outputs: Vec<Field>,
    },
}

impl From<&str> for Signature {
    fn from(text: &str) -> Self {
        Self(Kind::Signature(text.to_owned()))
    }
}

impl From<String> for Signature {
    fn from(text: String) -> Self {
        Self(Kind::Signature(text))
    }
}

impl Signature {
    /// Of fields, in their order.
    pub fn new(
        inputs: impl IntoIterator<Item = Field>,
        outputs: impl IntoIterator<Item = Field>,
    ) -> Self {
        Self(Kind::Spec {
            name: None,
            description: None,
            inputs: inputs.into_iter().collect(),
            outputs: outputs.into_iter().collect(),
        })
    }

    /// Its name, and a description, which become the program's instructions. Of a signature from text nothing changes.
    pub fn describe(mut self, as_name: impl Into<String>, text: impl Into<String>) -> Self {
        if let Kind::Spec { name, description, .. } = &mut self.0 {
            *name = Some(as_name.into());
            *description = Some(text.into());
        }
        self
    }
}

/// A field of a [`Signature`].
#[derive(Clone, Debug, Serialize)]
pub struct Field {
    name: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

impl Field {
    /// A field of any text.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: None, description: None }
    }

    /// Its type in Python's notation, such as `list[str]` or `Literal["a", "b"]`.
    pub fn of_type(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// What the model is told about it.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }
}
