//! Programs: definitions that a session, or the store, keeps for its workers.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Expected, Session, SessionError, Space, Value};

/// A program: something that workers build and run, described by JSON, such as a DSPy program.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Names it within its session: 1 to 1024 bytes.
    pub id: String,
    /// What it is, for those who build it.
    pub kind: String,
    /// What it is built from.
    pub definition: Json,
    /// What it has learned: demonstrations, weights, … `null` if nothing.
    pub state: Json,
    /// Whatever else is to be known of it; `null` if nothing.
    pub metadata: Json,
    /// Its version in the store; 0 for one that was not stored.
    pub version: u64,
}

/// As it is stored: one JSON object with these keys.
#[derive(Deserialize, Serialize)]
struct Stored {
    kind: String,
    definition: Json,
    #[serde(default)]
    state: Json,
    #[serde(default)]
    metadata: Json,
}

impl Program {
    /// A program to be stored, without state and metadata.
    pub fn new(id: impl Into<String>, kind: impl Into<String>, definition: Json) -> Self {
        let (state, metadata) = (Json::Null, Json::Null);
        Self { id: id.into(), kind: kind.into(), definition, state, metadata, version: 0 }
    }

    /// With this state.
    #[must_use]
    pub fn with_state(mut self, state: Json) -> Self {
        self.state = state;
        self
    }

    /// With this metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Json) -> Self {
        self.metadata = metadata;
        self
    }

    fn encode(&self) -> Result<Value, SessionError> {
        let Self { kind, definition, state, metadata, .. } = self.clone();
        Value::json(&Stored { kind, definition, state, metadata })
    }

    fn decode(id: &str, value: &Value, version: u64) -> Result<Self, SessionError> {
        let Stored { kind, definition, state, metadata } = value.decode()?;
        Ok(Self { id: id.to_owned(), kind, definition, state, metadata, version })
    }
}

/// The programs of a session, or of the global one; from [`Session::programs`].
///
/// They are stored beside its values, in a key space of their own, count for the same bounds and end with the session.
///
/// ```
/// use serde_json::json;
/// use snakepen::session::Program;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), snakepen::SessionError> {
/// # let store = snakepen::SessionStore::builder("programs").open().await?;
/// let programs = store.global().programs();
/// let qa = Program::new("qa", "dspy.Predict", json!({"signature": "question -> answer"}));
/// let first = programs.create(qa).await?;
/// let second = programs.update("qa", |program| program.state = json!({"demos": [1, 2]})).await?;
/// assert!(second.version > first.version);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Programs {
    session: Session,
}

impl Programs {
    pub(crate) fn new(session: Session) -> Self {
        Self { session }
    }

    /// Stores a new program; gives it with its version.
    ///
    /// # Errors
    ///
    /// [`SessionError::Conflict`] if there is one of its id; else as [`Session::put`].
    pub async fn create(&self, program: Program) -> Result<Program, SessionError> {
        self.write(program, Expected::Absent).await
    }

    /// Stores a program in the place of the one that has the version of `program`; gives it with its new version.
    ///
    /// # Errors
    ///
    /// [`SessionError::Conflict`] if that is not the present version; else as [`Session::put`].
    pub async fn replace(&self, program: Program) -> Result<Program, SessionError> {
        let expected = Expected::Version(program.version);
        self.write(program, expected).await
    }

    async fn write(
        &self,
        mut program: Program,
        expected: Expected,
    ) -> Result<Program, SessionError> {
        let value = program.encode()?;
        program.version = self.session.write(Space::Program, &program.id, value, expected).await?;
        Ok(program)
    }

    /// Reads a program.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if something else was stored in its place.
    pub async fn get(&self, id: &str) -> Result<Option<Program>, SessionError> {
        let found = self.session.read(Space::Program, id).await?;
        found.map(|(value, version)| Program::decode(id, &value, version)).transpose()
    }

    /// Reads a program, has it changed, and stores it; gives it with its new version. The closure is called again where
    /// another writer came in between, as by [`Session::update`]. Its id and version cannot be changed.
    ///
    /// # Errors
    ///
    /// [`SessionError::NoProgram`] if there is none; else as [`Session::update`].
    pub async fn update(
        &self,
        id: &str,
        mut change: impl FnMut(&mut Program),
    ) -> Result<Program, SessionError> {
        let changed = self.session.change(Space::Program, id, |old| {
            let Some((value, version)) = old else {
                return Err(SessionError::NoProgram { id: id.to_owned() });
            };
            let mut program = Program::decode(id, &value, version)?;
            change(&mut program);
            program.id = id.to_owned();
            Ok((program.encode()?, program))
        });
        let (mut program, version) = changed.await?;
        program.version = version;
        Ok(program)
    }

    /// The ids of the programs, sorted.
    ///
    /// # Errors
    ///
    /// See [`Session`].
    pub async fn list(&self) -> Result<Vec<String>, SessionError> {
        self.session.names(Space::Program).await
    }

    /// Deletes a program; whether there was one.
    ///
    /// # Errors
    ///
    /// See [`Session`].
    pub async fn delete(&self, id: &str) -> Result<bool, SessionError> {
        self.session.remove(Space::Program, id).await
    }
}
