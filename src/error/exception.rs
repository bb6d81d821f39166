//! What Python raised.

use std::fmt;

use serde::Deserialize;

/// A Python exception.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct PythonException {
    /// The class name, such as `ValueError`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The module of the class, such as `builtins`.
    pub module: String,
    /// `str(exception)`, at most 64 KiB.
    pub message: String,
    /// The traceback as Python prints it, at most 256 KiB, without the frames of Snakepen's own loop.
    pub traceback: String,
    /// The exception that led to it (`__cause__`, or `__context__` where that is not suppressed).
    pub cause: Option<Box<PythonException>>,
}

impl fmt::Display for PythonException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.module != "builtins" {
            write!(f, "{}.", self.module)?;
        }
        write!(f, "{}: {}", self.type_name, self.message)
    }
}
