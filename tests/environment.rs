//! What surrounds a worker: interpreter, virtual environment, variables, working directory, search path, preload.
//!
//! A naive pool resolves a virtual environment's interpreter to the one behind it, obeys whatever PYTHON* variables
//! it was started with, or lets every worker import the same modules again.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{finish, handler_file, launcher_pid, pids, pool, pool_over, python};
use serde_json::{Value, json};
use snakepen::{Builder, Error, Pool};

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Where the common handlers are.
fn handlers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers")
}

async fn one(builder: Builder) -> Pool {
    builder.workers(1).start().await.unwrap()
}

async fn variable(pool: &Pool, name: &str) -> Option<String> {
    pool.call("variable", name).await.unwrap()
}

fn module(directory: &Path, name: &str, source: &str) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join(format!("{name}.py")), source).unwrap();
}

/// What the tests' interpreter says about itself.
fn ask(expression: &str) -> String {
    let program = format!("import sys, sysconfig; print({expression})");
    let asked = Command::new(python()).args(["-c", &program]).output().unwrap();
    String::from_utf8(asked.stdout).unwrap().trim().to_owned()
}

/// A virtual environment at `directory`; returns its interpreter and its packages' directory.
fn virtual_environment(directory: &Path) -> (PathBuf, PathBuf) {
    let made = Command::new(python()).args(["-m", "venv", "--without-pip"]).arg(directory).status();
    assert!(made.unwrap().success());
    let version = ask("'python%d.%d' % sys.version_info[:2]");
    (directory.join("bin/python"), directory.join("lib").join(version).join("site-packages"))
}

// === Variables and directories ===

#[tokio::test]
async fn variables_are_the_hosts_and_the_builders() {
    for fresh in [false, true] {
        let pool = pool("surroundings.py")
            .env("SET_HERE", "väl ue")
            .env("PATH", "/only")
            .fresh_interpreter(fresh);
        let pool = one(pool).await;
        assert_eq!(variable(&pool, "SET_HERE").await.as_deref(), Some("väl ue"));
        assert_eq!(variable(&pool, "PATH").await.as_deref(), Some("/only"));
        assert_eq!(variable(&pool, "HOME").await, std::env::var("HOME").ok());
        assert_eq!(variable(&pool, "SET_NOWHERE").await, None);
        finish(pool).await;
    }
}

#[tokio::test]
async fn numeric_libraries_get_one_thread_unless_told_otherwise() {
    let pool = one(pool("surroundings.py").env("MKL_NUM_THREADS", "4")).await;
    for name in
        ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"]
    {
        let expected = std::env::var(name).unwrap_or_else(|_| "1".to_owned());
        assert_eq!(variable(&pool, name).await, Some(expected), "{name}");
    }
    assert_eq!(variable(&pool, "MKL_NUM_THREADS").await.as_deref(), Some("4"));
    finish(pool).await;
}

#[tokio::test]
async fn the_working_directory_is_the_hosts_or_the_builders() {
    let host = one(pool("surroundings.py")).await;
    let here = std::env::current_dir().unwrap();
    assert_eq!(host.call::<PathBuf>("working_dir", ()).await.unwrap(), here);
    finish(host).await;
    for fresh in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let other =
            one(pool("surroundings.py").working_dir(directory.path()).fresh_interpreter(fresh))
                .await;
        let expected = directory.path().canonicalize().unwrap();
        assert_eq!(other.call::<PathBuf>("working_dir", ()).await.unwrap(), expected);
        finish(other).await;
    }
}

#[tokio::test]
async fn a_relative_handler_file_counts_from_the_hosts_directory() {
    let directory = tempfile::tempdir().unwrap();
    // The tests run in the crate's directory.
    let builder = Pool::builder(common::unique("relative")).python(python());
    let pool =
        one(builder.handlers("tests/handlers/surroundings.py").working_dir(directory.path())).await;
    let path: Vec<PathBuf> = pool.call("search_path", ()).await.unwrap();
    assert_eq!(path[0], handlers());
    finish(pool).await;
}

#[tokio::test]
async fn the_search_path_is_in_order_and_without_the_working_directory() {
    let directory = tempfile::tempdir().unwrap();
    let parts = ["first", "second", "third", "fourth"].map(|name| directory.path().join(name));
    for part in &parts {
        module(part, "in_all", &format!("WHERE = {:?}\n", text(part)));
    }
    for fresh in [false, true] {
        let builder = pool("surroundings.py")
            .path(&parts[0])
            .path(&parts[1])
            .env("PYTHONPATH", std::env::join_paths([&parts[2], &parts[3]]).unwrap())
            .fresh_interpreter(fresh);
        let pool = one(builder).await;
        let path: Vec<PathBuf> = pool.call("search_path", ()).await.unwrap();
        assert_eq!(path[0], handlers());
        assert_eq!(path[1..5], parts);
        assert!(path.iter().all(|entry| entry.is_absolute()), "{path:?}");
        assert!(!path.contains(&std::env::current_dir().unwrap()), "{path:?}");
        let found: PathBuf = pool.call("attribute", ("in_all", "WHERE")).await.unwrap();
        assert_eq!(found, parts[0]);
        finish(pool).await;
    }
}

#[tokio::test]
async fn handlers_may_be_a_module_on_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let package = directory.path().join("somewhere");
    module(&package, "__init__", "");
    module(
        &package,
        "inside",
        "import snakepen\n\n@snakepen.handler\ndef name(): return __name__\n",
    );
    let builder =
        || Pool::builder(common::unique("module")).python(python()).path(directory.path());
    let pool = one(builder().handlers("somewhere.inside")).await;
    assert_eq!(pool.call::<String>("name", ()).await.unwrap(), "somewhere.inside");
    finish(pool).await;
    let pool = one(builder().expose("exposed", "somewhere.inside:name")).await;
    assert_eq!(pool.call::<String>("exposed", ()).await.unwrap(), "somewhere.inside");
    finish(pool).await;
}

// === Preload ===

#[tokio::test]
async fn preloaded_modules_are_imported_once() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let source = format!("import os\nPID = os.getpid()\nopen({:?}, 'a').write('x')\n", text(&log));
    module(directory.path(), "costly", &source);
    let builder = || pool("surroundings.py").path(directory.path()).workers(3);

    let shared = builder().preload(["json", "costly"]).start().await.unwrap();
    let launcher = launcher_pid(&shared);
    common::kill(pids(&shared)[1], 9);
    common::eventually("a replacement came", || shared.workers()[1].epoch == 2).await;
    for slot in 0..3 {
        let worker = shared.worker(slot).unwrap();
        assert_eq!(worker.call::<i32>("attribute", ("costly", "PID")).await.unwrap(), launcher);
    }
    finish(shared).await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "x");

    let fresh = builder().preload(["costly"]).fresh_interpreter(true).start().await.unwrap();
    for (slot, pid) in pids(&fresh).into_iter().enumerate() {
        let worker = fresh.worker(slot).unwrap();
        assert_eq!(worker.call::<i32>("attribute", ("costly", "PID")).await.unwrap(), pid);
    }
    assert_eq!(fs::read_to_string(&log).unwrap(), "xxxx");
    finish(fresh).await;
}

#[tokio::test]
async fn a_handler_module_may_be_preloaded_itself() {
    let directory = tempfile::tempdir().unwrap();
    let source = "import os, snakepen\nPID = os.getpid()\n\n@snakepen.handler\ndef imported_in(): return PID\n";
    module(directory.path(), "preloaded_handlers", source);
    let file = directory.path().join("preloaded_handlers.py");
    for handlers in [text(&file), "preloaded_handlers"] {
        let pool = pool_over(handlers).path(directory.path()).preload(["preloaded_handlers"]);
        let pool = pool.workers(2).start().await.unwrap();
        assert_eq!(pool.call::<i32>("imported_in", ()).await.unwrap(), launcher_pid(&pool));
        finish(pool).await;
    }
}

#[tokio::test]
async fn fresh_interpreters_are_children_of_the_launcher_too() {
    let pool = pool("surroundings.py").workers(2).fresh_interpreter(true).start().await.unwrap();
    let launcher = launcher_pid(&pool);
    for (slot, pid) in pids(&pool).into_iter().enumerate() {
        let found: (i32, i32) = pool.worker(slot).unwrap().call("pids", ()).await.unwrap();
        assert_eq!(found, (pid, launcher));
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(command.ends_with("\0worker\0"), "it was forked: {command:?}");
    }
    finish(pool).await;
}

// === Python's own variables ===

#[tokio::test]
async fn bytecode_is_written_unless_told_otherwise() {
    for (value, written) in [("", true), ("1", false)] {
        let (guard, file) =
            handler_file("import snakepen\n\n@snakepen.handler\ndef one(): return 1\n");
        let pool = one(pool_over(&file).env("PYTHONDONTWRITEBYTECODE", value)).await;
        assert_eq!(guard.path().join("__pycache__").exists(), written);
        finish(pool).await;
    }
}

#[tokio::test]
async fn other_variables_of_python_change_nothing_and_stay_for_child_processes() {
    for fresh in [false, true] {
        let builder = pool("surroundings.py")
            .env("PYTHONHOME", "/no/such/home")
            .env("PYTHONOPTIMIZE", "2")
            .env("PYTHONIOENCODING", "ascii")
            .fresh_interpreter(fresh);
        let pool = one(builder).await;
        let found: Value = pool.call("interpreter", ()).await.unwrap();
        assert_eq!(found["optimize"], json!(0));
        assert_eq!(variable(&pool, "PYTHONHOME").await.as_deref(), Some("/no/such/home"));
        assert_eq!(variable(&pool, "PYTHONOPTIMIZE").await.as_deref(), Some("2"));
        finish(pool).await;
    }
}

#[tokio::test]
async fn the_users_packages_are_found_unless_told_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let packages = directory.path().join("lib").join(ask("'python%d.%d' % sys.version_info[:2]"));
    module(&packages.join("site-packages"), "of_the_user", "VALUE = 7\n");
    let builder = || {
        // A virtual environment has no user's packages.
        pool("surroundings.py")
            .python(ask("sys._base_executable"))
            .env("PYTHONUSERBASE", directory.path())
    };
    let with = one(builder().env("PYTHONNOUSERSITE", "")).await;
    assert_eq!(with.call::<i64>("attribute", ("of_the_user", "VALUE")).await.unwrap(), 7);
    finish(with).await;
    let without = one(builder().env("PYTHONNOUSERSITE", "1")).await;
    let error = without.call::<i64>("attribute", ("of_the_user", "VALUE")).await.unwrap_err();
    assert!(matches!(&error, Error::Python { .. }), "{error:?}");
    finish(without).await;
}

// === Virtual environments, and which interpreter it is ===

#[tokio::test]
async fn a_virtual_environment_brings_its_packages() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let (interpreter, packages) = virtual_environment(&root.join("env"));
    module(&packages, "only_here", "VALUE = 42\n");
    // Path files are honoured, also one that puts itself before everything.
    module(&root.join("elsewhere"), "by_path_file", "VALUE = 43\n");
    module(&root.join("pushy"), "surroundings", "raise ImportError('the wrong one')\n");
    fs::write(packages.join("a.pth"), format!("{}\n", text(&root.join("elsewhere")))).unwrap();
    let push = format!("import sys; sys.path.insert(0, {:?})\n", text(&root.join("pushy")));
    fs::write(packages.join("b.pth"), push).unwrap();
    for fresh in [false, true] {
        let pool = one(pool("surroundings.py").python(&interpreter).fresh_interpreter(fresh)).await;
        let found: Value = pool.call("interpreter", ()).await.unwrap();
        assert_eq!(found["prefix"], json!(root.join("env")), "{found}");
        assert_ne!(found["prefix"], found["base"]);
        assert_eq!(pool.call::<i64>("attribute", ("only_here", "VALUE")).await.unwrap(), 42);
        assert_eq!(pool.call::<i64>("attribute", ("by_path_file", "VALUE")).await.unwrap(), 43);
        let path: Vec<PathBuf> = pool.call("search_path", ()).await.unwrap();
        assert_eq!(path[0], handlers(), "{path:?}");
        finish(pool).await;
    }
}

const CHILD: &str = "SNAKEPEN_TEST_CHILD";

/// Run by the next test in processes whose environment it chooses; does nothing otherwise.
#[tokio::test]
async fn child_that_tells_its_interpreter() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let file = handlers().join("surroundings.py");
    let mut builder = Pool::builder("child").handlers(text(&file)).workers(1);
    if let Some(python) = std::env::var_os("BUILDER_PYTHON") {
        builder = builder.python(python);
    }
    if let Some(directory) = std::env::var_os("BUILDER_DIRECTORY") {
        builder = builder.working_dir(directory);
    }
    match builder.start().await {
        Err(error) => println!("\nerror {error}"),
        Ok(pool) => {
            let found: Value = pool.call("interpreter", ()).await.unwrap();
            let threads = variable(&pool, "OMP_NUM_THREADS").await.unwrap();
            println!("\nfound {} {threads}", found["prefix"].as_str().unwrap());
            finish(pool).await;
        }
    }
}

/// What the child says in a directory and an environment.
fn child(directory: &Path, variables: &[(&str, &Path)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_tells_its_interpreter", "--nocapture"]);
    for name in ["SNAKEPEN_PYTHON", "VIRTUAL_ENV", "OMP_NUM_THREADS"] {
        command.env_remove(name);
    }
    command.env(CHILD, "1").envs(variables.iter().copied()).current_dir(directory);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find(|line| line.starts_with("found ") || line.starts_with("error "));
    line.unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn the_interpreter_is_looked_for_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let [a, b, local, empty] = ["a", "b", "project/.venv", "empty"].map(|name| root.join(name));
    for environment in [&a, &b, &local] {
        virtual_environment(environment);
    }
    fs::create_dir(&empty).unwrap();
    let project = root.join("project");
    let in_a = a.join("bin/python");
    let search = std::env::join_paths([a.join("bin"), "/usr/bin".into(), "/bin".into()]).unwrap();
    let search = Path::new(&search);
    let found = |environment: &Path| format!("found {} 1", text(environment));

    let all = [
        ("BUILDER_PYTHON", &*in_a),
        ("SNAKEPEN_PYTHON", &b.join("bin/python")),
        ("VIRTUAL_ENV", &b),
    ];
    assert_eq!(child(&project, &all), found(&a), "the builder's comes first");
    let set = [("SNAKEPEN_PYTHON", &*in_a), ("VIRTUAL_ENV", &*b)];
    assert_eq!(child(&project, &set), found(&a), "then SNAKEPEN_PYTHON");
    assert_eq!(child(&project, &[("VIRTUAL_ENV", &b)]), found(&b), "then VIRTUAL_ENV");
    assert_eq!(child(&project, &[("PATH", search)]), found(&local), "then .venv");
    let elsewhere = [("BUILDER_DIRECTORY", &*project), ("PATH", search)];
    assert_eq!(child(&empty, &elsewhere), found(&local), ".venv of the workers' directory");
    assert_eq!(child(&empty, &[("PATH", search)]), found(&a), "then python3 on PATH");

    // What is named and not there is an error, not a reason to take the next.
    let missing = child(&project, &[("SNAKEPEN_PYTHON", &empty.join("python"))]);
    assert!(missing.starts_with("error ") && missing.contains("SNAKEPEN_PYTHON"), "{missing}");
    let missing = child(&project, &[("VIRTUAL_ENV", &empty)]);
    assert!(missing.starts_with("error ") && missing.contains("VIRTUAL_ENV"), "{missing}");
    let missing = child(&empty, &[("PATH", &empty)]);
    assert!(missing.starts_with("error ") && missing.contains("PATH"), "{missing}");

    let threads = [("SNAKEPEN_PYTHON", &*in_a), ("OMP_NUM_THREADS", Path::new("3"))];
    assert_eq!(child(&empty, &threads), format!("found {} 3", text(&a)), "the host's choice holds");
}
