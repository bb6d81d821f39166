//! Which Python runs the workers.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, StartError};

/// An interpreter, and which setting named it.
#[derive(Clone, Debug)]
pub(crate) struct Interpreter {
    pub(crate) path: PathBuf,
    pub(crate) origin: &'static str,
}

/// The builder's choice, else `SNAKEPEN_PYTHON`, the active virtual environment, `.venv`, `python3`.
///
/// The path is executed as it is found, symbolic links unresolved: a virtual environment is recognised by it.
pub(crate) fn resolve(
    chosen: Option<PathBuf>,
    directory: Option<&Path>,
) -> Result<Interpreter, Error> {
    if let Some(path) = chosen {
        return find(&path, "builder");
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = variable("SNAKEPEN_PYTHON") {
        return find(path.as_ref(), "SNAKEPEN_PYTHON");
    }
    if let Some(environment) = variable("VIRTUAL_ENV") {
        return find(&Path::new(&environment).join("bin/python"), "VIRTUAL_ENV");
    }
    let local = directory.unwrap_or(Path::new(".")).join(".venv/bin/python");
    if local.exists() {
        return find(&local, ".venv");
    }
    find(Path::new("python3"), "PATH")
}

fn find(path: &Path, origin: &'static str) -> Result<Interpreter, Error> {
    let failed = |message: &str| {
        Error::from(StartError::Interpreter {
            path: path.to_owned(),
            origin,
            message: message.to_owned(),
        })
    };
    if path.components().count() == 1 && path.is_relative() {
        let search = std::env::var_os("PATH").unwrap_or_default();
        let found = search_path(path.as_os_str(), &search)
            .ok_or_else(|| failed("not found on PATH; install Python 3.10 or later, or name one with `Builder::python`"))?;
        return Ok(Interpreter { path: found, origin });
    }
    if !path.exists() {
        return Err(failed("there is no such file"));
    }
    if path.is_dir() {
        return Err(failed(
            "it is a directory: name the interpreter in it, as in `<venv>/bin/python`",
        ));
    }
    if !is_executable(path) {
        return Err(failed("it is not an executable file"));
    }
    let path = std::path::absolute(path).map_err(|error| failed(&error.to_string()))?;
    Ok(Interpreter { path, origin })
}

fn search_path(name: &OsStr, search: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search)
        .map(|directory| directory.join(name))
        .find(|path| is_executable(path))
        .and_then(|path| std::path::absolute(path).ok())
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interpreter_is_named_with_its_origin() {
        let error = resolve(Some("/nowhere/python".into()), None).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nowhere/python") && text.contains("builder"), "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_refused() {
        let error = resolve(Some("Cargo.toml".into()), None);
        // Relative to the crate, one component: looked up on PATH, where it is not.
        assert!(error.unwrap_err().to_string().contains("PATH"));
        let error = resolve(Some("./Cargo.toml".into()), None).unwrap_err();
        assert!(error.to_string().contains("not an executable"));
    }

    #[test]
    fn a_bare_name_is_looked_up_on_path() {
        let found = resolve(Some("sh".into()), None).unwrap();
        assert!(found.path.is_absolute());
    }
}
