//! Scenario 25: a pool that cannot start says so at once, in Python's own words, and leaves no process.
//!
//! A naive pool retries a broken handler file, reports "worker died", or leaves the workers that did start.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use snakepen::{Builder, Error, Exit, PythonException, StartError};

use crate::common::{self, Mark, finish, handler_file, pool, pool_over, python, unique};

/// Far below the start-up timeout and the shutdown grace, which are what a start that waits would take.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The error of a start that must fail; checks that it came at once, and that no process is left.
async fn failure(builder: Builder) -> Error {
    let mark = Mark::new();
    let start = Instant::now();
    let error = mark.on(builder.workers(3)).start().await.expect_err("it cannot start");
    assert!(start.elapsed() < AT_ONCE, "it took {:?} to fail with {error}", start.elapsed());
    mark.nothing_is_left().await;
    assert!(!error.may_have_run());
    error
}

async fn start_error(builder: Builder) -> Arc<StartError> {
    match failure(builder).await {
        Error::Start(error) => error,
        other => panic!("not a start error: {other:?}"),
    }
}

/// The exception with which loading the user's code failed, checked for its stage.
async fn exception(builder: Builder, expected: &str) -> PythonException {
    let error = start_error(builder).await;
    let StartError::Python { stage, exception, .. } = &*error else { panic!("{error:?}") };
    assert_eq!(stage, expected);
    let text = error.to_string();
    assert!(text.contains(&exception.type_name) && text.contains(expected), "{text}");
    assert!(text.contains(exception.traceback.trim_end()), "no traceback in {text}");
    (**exception).clone()
}

/// An executable shell script that stands in for an interpreter.
fn script(directory: &Path, body: &str) -> PathBuf {
    let file = directory.join("python");
    std::fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

// === The handler file ===

#[tokio::test]
async fn an_import_error_arrives_with_its_traceback() {
    let (_guard, file) = handler_file("import os\n\nimport no_such_module_anywhere\n");
    let exception = exception(pool_over(&file), "handlers").await;
    assert_eq!(exception.type_name, "ModuleNotFoundError");
    assert!(exception.message.contains("no_such_module_anywhere"));
    assert!(exception.traceback.starts_with("Traceback (most recent call last):"));
    assert!(exception.traceback.contains("made_handlers.py\", line 3"), "{}", exception.traceback);
    assert!(!exception.traceback.contains("snakepen/_"), "{}", exception.traceback);
}

#[tokio::test]
async fn a_syntax_error_names_file_and_line() {
    let (_guard, file) = handler_file("def broken(:\n    pass\n");
    let exception = exception(pool_over(&file), "handlers").await;
    assert_eq!(exception.type_name, "SyntaxError");
    assert!(exception.traceback.contains("made_handlers.py\", line 1"), "{}", exception.traceback);
}

#[tokio::test]
async fn the_cause_of_an_exception_arrives_too() {
    let source = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('outer') from error\n";
    let (_guard, file) = handler_file(source);
    let exception = exception(pool_over(&file), "handlers").await;
    assert_eq!(exception.message, "outer");
    assert_eq!(exception.cause.unwrap().type_name, "ZeroDivisionError");
}

#[tokio::test]
async fn exit_in_the_handler_file_is_an_error() {
    for call in ["exit(3)", "import sys; sys.exit(3)", "raise KeyboardInterrupt"] {
        let (_guard, file) = handler_file(call);
        let exception = exception(pool_over(&file), "handlers").await;
        let expected = if call.contains("exit") { "SystemExit" } else { "KeyboardInterrupt" };
        assert_eq!(exception.type_name, expected, "{call}");
    }
}

#[tokio::test]
async fn a_process_that_ends_in_the_handler_file_is_an_error() {
    let (_guard, file) = handler_file("import os\nos.write(2, b'last words\\n')\nos._exit(7)\n");
    let error = start_error(pool_over(&file)).await;
    let StartError::Exited { what, exit, stderr } = &*error else { panic!("{error:?}") };
    assert!(what.contains("/worker/"), "{what}");
    assert_eq!((*exit, stderr.trim()), (Exit::Code(7), "last words"));

    let (_guard, file) = handler_file("import os\nos.kill(os.getpid(), 11)\n");
    let error = start_error(pool_over(&file)).await;
    assert!(matches!(&*error, StartError::Exited { exit: Exit::Signal(11), .. }), "{error:?}");
    assert!(error.to_string().contains("SIGSEGV"), "{error}");
}

#[tokio::test]
async fn a_decorator_on_what_is_no_function_is_an_error() {
    let (_guard, file) = handler_file("import snakepen\n\n@snakepen.handler\nclass Wrong: pass\n");
    let exception = exception(pool_over(&file), "handlers").await;
    assert_eq!(exception.type_name, "TypeError");
    assert!(exception.message.contains("Wrong"), "{}", exception.message);
}

#[tokio::test]
async fn a_file_that_would_hide_a_module_of_the_standard_library_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("json.py");
    std::fs::write(&file, "import snakepen\n").unwrap();
    let exception = exception(pool_over(file.to_str().unwrap()), "handlers").await;
    assert!(exception.message.contains("rename the file"), "{}", exception.message);
}

#[tokio::test]
async fn a_process_started_by_a_failing_handler_file_is_not_left() {
    let source =
        "import subprocess\nsubprocess.Popen(['sleep', '300'])\nraise ValueError('too late')\n";
    let (_guard, file) = handler_file(source);
    exception(pool_over(&file), "handlers").await;
}

#[tokio::test]
async fn a_fresh_interpreter_fails_with_the_same_words() {
    let (_guard, file) = handler_file("import no_such_module_anywhere\n");
    let exception = exception(pool_over(&file).fresh_interpreter(true), "handlers").await;
    assert_eq!(exception.type_name, "ModuleNotFoundError");
    assert!(exception.traceback.contains("made_handlers.py"), "{}", exception.traceback);
}

// === What is not there ===

#[tokio::test]
async fn a_missing_handler_file_is_named() {
    let error = failure(pool_over("/no/such/directory/handlers.py")).await;
    let Error::Config { option: "handlers", message } = &error else { panic!("{error:?}") };
    assert!(message.contains("/no/such/directory/handlers.py"), "{message}");
}

#[tokio::test]
async fn a_missing_handler_module_is_named() {
    let exception = exception(pool_over("no_such_handler_module"), "handlers").await;
    assert_eq!(exception.type_name, "ModuleNotFoundError");
    assert!(exception.message.contains("no_such_handler_module"));
}

#[tokio::test]
async fn exposing_what_is_not_there_is_an_error() {
    let missing = exception(
        pool("basic.py").expose("a", "math:no_such_function"),
        "expose of `math:no_such_function` as `a`",
    )
    .await;
    assert_eq!(missing.type_name, "AttributeError");
    assert!(missing.message.contains("no_such_function"));
    let missing = exception(
        pool("basic.py").expose("a", "no_such_module:a"),
        "expose of `no_such_module:a` as `a`",
    )
    .await;
    assert_eq!(missing.type_name, "ModuleNotFoundError");
    let value =
        exception(pool("basic.py").expose("a", "math:pi"), "expose of `math:pi` as `a`").await;
    assert_eq!(value.type_name, "TypeError");
    let taken =
        exception(pool("basic.py").expose("add", "math:sqrt"), "expose of `math:sqrt` as `add`")
            .await;
    assert!(taken.message.contains("add"), "{}", taken.message);
}

#[tokio::test]
async fn a_missing_working_directory_is_an_option_error() {
    let error = failure(pool("basic.py").working_dir("/no/such/directory")).await;
    assert!(matches!(&error, Error::Config { option: "working_dir", .. }), "{error:?}");
}

// === The interpreter ===

#[tokio::test]
async fn a_missing_interpreter_is_named() {
    let error = start_error(pool("basic.py").python("/no/such/python")).await;
    let StartError::Interpreter { path, .. } = &*error else { panic!("{error:?}") };
    assert_eq!(path, Path::new("/no/such/python"));
    let error = start_error(pool("basic.py").python("no-such-python-on-path")).await;
    assert!(error.to_string().contains("PATH"), "{error}");
}

#[tokio::test]
async fn what_is_no_program_is_no_interpreter() {
    let directory = tempfile::tempdir().unwrap();
    let file = script(directory.path(), "");
    std::fs::write(&file, "#!/no/such/program\n").unwrap();
    let error = start_error(pool("basic.py").python(&file)).await;
    assert!(matches!(&*error, StartError::Interpreter { .. }), "{error:?}");
}

#[tokio::test]
async fn an_interpreter_that_is_too_old_says_which_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let said = "snakepen needs CPython 3.10 or later, /opt/python is cpython 3.6.1";
    let old = script(directory.path(), &format!("echo '{said}' >&2\nexit 96"));
    let error = start_error(pool("basic.py").python(old)).await;
    let StartError::UnsupportedPython(message) = &*error else { panic!("{error:?}") };
    assert_eq!(message, said);
}

#[tokio::test]
async fn real_old_interpreters_are_refused() {
    let versions = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pyenv/versions"));
    let installed = versions.and_then(|versions| std::fs::read_dir(versions).ok());
    for entry in installed.into_iter().flatten().flatten() {
        let version = entry.file_name().into_string().unwrap();
        let python = entry.path().join("bin/python");
        let old = ["3.6.", "3.7.", "3.8.", "3.9."].iter().any(|prefix| version.starts_with(prefix));
        if old && python.exists() {
            let error = start_error(pool("basic.py").python(python)).await;
            let StartError::UnsupportedPython(message) = &*error else {
                panic!("{version}: {error:?}")
            };
            assert!(message.contains("3.10 or later") && message.contains(&version), "{message}");
        }
    }
}

#[tokio::test]
async fn a_program_that_is_no_python_is_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let other = script(directory.path(), "echo 'what is -I?' >&2\nexit 2");
    let error = start_error(pool("basic.py").python(other)).await;
    let StartError::Exited { exit, stderr, .. } = &*error else { panic!("{error:?}") };
    assert_eq!((*exit, stderr.trim()), (Exit::Code(2), "what is -I?"));
}

// === Preload ===

#[tokio::test]
async fn a_preloaded_module_that_fails_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let source = "import subprocess\nsubprocess.Popen(['sleep', '300'])\n1 / 0\n";
    std::fs::write(directory.path().join("falls_over.py"), source).unwrap();
    let failing = || pool("basic.py").path(directory.path());
    let missing =
        exception(failing().preload(["no_such_preload"]), "preload of `no_such_preload`").await;
    assert_eq!(missing.type_name, "ModuleNotFoundError");
    // The process that it has started must not be left either.
    let raised =
        exception(failing().preload(["json", "falls_over"]), "preload of `falls_over`").await;
    assert_eq!(raised.type_name, "ZeroDivisionError");
    assert!(raised.traceback.contains("falls_over.py\", line 3"), "{}", raised.traceback);
    let fresh = failing().preload(["falls_over"]).fresh_interpreter(true);
    let raised = exception(fresh, "preload of `falls_over`").await;
    assert!(raised.traceback.contains("falls_over.py\", line 3"), "{}", raised.traceback);
    assert!(!raised.traceback.contains("snakepen/_"), "{}", raised.traceback);
}

#[tokio::test]
async fn a_preloaded_module_that_ends_the_process_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("leaves.py"), "import sys\nsys.exit('no more')\n")
        .unwrap();
    std::fs::write(directory.path().join("vanishes.py"), "import os\nos._exit(9)\n").unwrap();
    let leaving = pool("basic.py").path(directory.path()).preload(["leaves"]);
    assert_eq!(exception(leaving, "preload of `leaves`").await.type_name, "SystemExit");
    let error = start_error(pool("basic.py").path(directory.path()).preload(["vanishes"])).await;
    let StartError::Exited { what, exit, .. } = &*error else { panic!("{error:?}") };
    assert_eq!((what.as_str(), *exit), ("the launcher", Exit::Code(9)));
}

/// It became ready, so that it is restarted from then on; but not while the pool starts.
#[tokio::test]
async fn a_launcher_that_dies_when_it_forks() {
    let directory = tempfile::tempdir().unwrap();
    let source = "import os, sys\ndef last():\n    print('no forks here', file=sys.stderr, flush=True)\n    os._exit(9)\n\
                  os.register_at_fork(before=last)\n";
    std::fs::write(directory.path().join("unforkable.py"), source).unwrap();
    let builder = pool("basic.py").workers(2).path(directory.path()).preload(["unforkable"]);
    let mark = Mark::new();
    let start = mark.on(builder).start();
    let error = common::within(AT_ONCE, "start", start).await.unwrap_err();
    assert!(matches!(error, Error::Start(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("status 9") && text.contains("no forks here"), "{text}");
    mark.nothing_is_left().await;
}

// === Afterwards ===

#[tokio::test]
async fn a_bare_failure_takes_less_than_a_second() {
    let (_guard, file) = handler_file("import no_such_module_anywhere\n");
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        pool_over(&file).workers(8).start().await.unwrap_err();
        fastest = fastest.min(start.elapsed());
    }
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}

#[tokio::test]
async fn the_name_is_free_after_a_failed_start() {
    let name = unique("again");
    let (_guard, bad) = handler_file("1 / 0\n");
    let (_guard, good) =
        handler_file("import snakepen\n\n@snakepen.handler\ndef one(): return 1\n");
    let builder =
        |file: &str| snakepen::Pool::builder(&name).python(python()).handlers(file).workers(2);
    for _ in 0..3 {
        builder(&bad).start().await.unwrap_err();
        let pool = builder(&good).start().await.unwrap();
        assert_eq!(pool.call::<i64>("one", ()).await.unwrap(), 1);
        finish(pool).await;
    }
}

#[test]
fn a_runtime_without_drivers_is_an_option_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(pool("basic.py").start()).expect_err("nothing could run on it");
    assert!(matches!(&error, Error::Config { option: "start", .. }), "{error:?}");
    assert!(error.to_string().contains("`enable_all()`"), "{error}");
}
