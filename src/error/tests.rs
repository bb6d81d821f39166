use super::*;

fn exception() -> PythonException {
    PythonException {
        type_name: "ValueError".to_owned(),
        module: "builtins".to_owned(),
        message: "no".to_owned(),
        traceback: "Traceback (most recent call last):\n  File \"h.py\", line 1\nValueError: no\n"
            .to_owned(),
        cause: None,
    }
}

fn death(started: bool) -> WorkerDeath {
    WorkerDeath {
        worker: "demo/worker/3".to_owned(),
        pid: 42,
        handler: "add".to_owned(),
        exit: Exit::Signal(11),
        ended: Ended::Itself,
        started,
        stderr: String::new(),
        python_stack: String::new(),
    }
}

fn timeout(stage: Stage) -> Error {
    Error::Timeout {
        handler: "add".to_owned(),
        stage,
        elapsed: Duration::from_millis(1500),
        timeout: Duration::from_secs(1),
        python_stack: String::new(),
    }
}

fn cancelled(stage: Stage) -> Error {
    Error::Cancelled {
        handler: "add".to_owned(),
        stage,
        elapsed: Duration::from_millis(1500),
        python_stack: "Current thread (most recent call first):\n  File \"h.py\", line 1\n"
            .to_owned(),
    }
}

/// Every variant, in every form that the contracts tell apart: `(error, may_have_run, is_retryable)`.
fn table() -> Vec<(Error, bool, bool)> {
    let text = str::to_owned;
    let table = vec![
        (Error::Config { option: "workers", message: text("no") }, false, false),
        (Error::NameTaken { name: text("demo") }, false, false),
        (Error::from(StartError::UnsupportedPython(text("2.7"))), false, false),
        (Error::Encode { handler: text("add"), message: text("NaN at $") }, false, false),
        (Error::TooLarge { handler: text("add"), size: 2, limit: 1 }, false, false),
        (Error::Saturated { limit: 1 }, false, true),
        (
            Error::UnknownHandler { name: text("ad"), known: vec![text("add"), text("sub")] },
            false,
            false,
        ),
        (Error::Python { handler: text("add"), exception: Arc::new(exception()) }, true, false),
        (
            Error::BadResult {
                handler: text("add"),
                type_name: text("set"),
                path: text("$.a[3]"),
                message: text("return a list"),
            },
            true,
            false,
        ),
        (Error::Decode { handler: text("add"), message: text("line 1 column 2") }, true, false),
        (timeout(Stage::Queue), false, true),
        (timeout(Stage::Run), true, false),
        (timeout(Stage::Item), true, false),
        (Error::WorkerDied(Arc::new(death(true))), true, false),
        (Error::WorkerDied(Arc::new(death(false))), false, true),
        (cancelled(Stage::Queue), false, false),
        (cancelled(Stage::Run), true, false),
        (
            Error::CpuTime {
                handler: text("add"),
                used: Duration::from_millis(2100),
                limit: Duration::from_secs(2),
                python_stack: String::new(),
            },
            true,
            false,
        ),
        (
            Error::CircuitOpen {
                handler: text("add"),
                failures: 20,
                retry_in: Duration::from_millis(4500),
            },
            false,
            true,
        ),
        (Error::WorkerBusy { worker: text("demo/worker/3") }, false, true),
        (Error::Restarted { pool: text("demo") }, false, true),
        (Error::Closed { pool: text("demo") }, false, false),
        (Error::NoSuchWorker { name: text("demo/worker/9"), workers: Some(8) }, false, false),
        (Error::Session(SessionError::Full { limit: "max_sessions", value: 7 }), false, true),
        (
            Error::WouldDeadlock {
                handler: text("inner"),
                waits_for: text("worker demo/worker/0"),
                chain: vec![text("outer"), text("middle")],
            },
            false,
            false,
        ),
        (Error::Array(ArrayError::Dimensions { found: 65 }), true, false),
    ];
    // A new variant does not compile here: give it its line above.
    let number = |error: &Error| match error {
        Error::Config { .. } => 0,
        Error::NameTaken { .. } => 1,
        Error::Start(_) => 2,
        Error::Encode { .. } => 3,
        Error::TooLarge { .. } => 4,
        Error::Saturated { .. } => 5,
        Error::UnknownHandler { .. } => 6,
        Error::Python { .. } => 7,
        Error::BadResult { .. } => 8,
        Error::Decode { .. } => 9,
        Error::Timeout { .. } => 10,
        Error::WorkerDied(_) => 11,
        Error::Restarted { .. } => 12,
        Error::Closed { .. } => 13,
        Error::NoSuchWorker { .. } => 14,
        Error::Cancelled { .. } => 15,
        Error::CpuTime { .. } => 16,
        Error::WorkerBusy { .. } => 17,
        Error::CircuitOpen { .. } => 18,
        Error::Session(_) => 19,
        Error::WouldDeadlock { .. } => 20,
        Error::Array(_) => 21,
    };
    let numbers: std::collections::BTreeSet<_> = table.iter().map(|row| number(&row.0)).collect();
    assert!(numbers.into_iter().eq(0..22), "a variant is missing");
    table
}

#[test]
fn what_may_have_run_and_what_can_be_tried_again() {
    for (error, may_have_run, is_retryable) in table() {
        assert_eq!(error.may_have_run(), may_have_run, "may_have_run of {error:?}");
        assert_eq!(error.is_retryable(), is_retryable, "is_retryable of {error:?}");
        assert!(
            !(error.may_have_run() && error.is_retryable()),
            "a handler could run twice: {error:?}"
        );
    }
}

#[test]
fn each_says_where_it_failed_and_what_it_was_about() {
    let expected = [
        &["`workers`", "no"][..],
        &["`demo`", "taken"],
        &["start", "2.7"],
        &["arguments", "`add`", "NaN at $"],
        &["arguments", "`add`", "2 bytes", "limit is 1", "`max_frame`"],
        &["queue", "saturated", "1 calls", "`queue_limit`"],
        &["run", "`ad`", "add, sub"],
        &["run", "`add`", "ValueError: no"],
        &["run", "`add`", "$.a[3]", "set", "return a list"],
        &["decode", "`add`", "line 1 column 2"],
        &["timeout in the queue", "1.5s", "`add`", "had 1s", "no worker was free"],
        &["timeout while running", "1.5s", "`add`", "had 1s", "could not be had"],
        &["timeout between items", "1.5s", "`add`", "had 1s"],
        &["run", "demo/worker/3", "pid 42", "SIGSEGV", "while running `add`"],
        &["run", "demo/worker/3", "pid 42", "SIGSEGV", "before it had started `add`"],
        &["cancelled in the queue", "1.5s", "`add`"],
        &["cancelled while running", "1.5s", "`add`", "Python was here", "h.py"],
        &["run", "`add`", "2.1s", "limit is 2s"],
        &["circuit", "`add`", "20 times", "again in 4.5s"],
        &["queue", "demo/worker/3", "not free", "`pinned`"],
        &["queue", "`demo`", "restarted", "call again"],
        &["`demo`", "shut down"],
        &["`demo/worker/9`"],
        &["session", "full", "`max_sessions` is 7", "raise"],
        &["queue", "`inner`", "needs worker demo/worker/0", "outer > middle", "outside of them"],
        &["65 dimensions", "at most"],
    ];
    let table = table();
    assert_eq!(table.len(), expected.len());
    for ((error, ..), parts) in table.iter().zip(expected) {
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
}

#[test]
fn an_exception_is_named_as_python_names_it() {
    let mut exception = exception();
    assert_eq!(exception.to_string(), "ValueError: no");
    exception.module = "app.errors".to_owned();
    assert_eq!(exception.to_string(), "app.errors.ValueError: no");
}

#[test]
fn an_exception_is_read_from_what_python_sends() {
    let json = r#"{"type":"KeyError","module":"builtins","message":"'a'","traceback":"T",
        "cause":{"type":"OSError","module":"builtins","message":"","traceback":"U","cause":null,"relation":null},
        "relation":"cause"}"#;
    let found: PythonException = serde_json::from_str(json).unwrap();
    assert_eq!((&*found.type_name, &*found.message, &*found.traceback), ("KeyError", "'a'", "T"));
    assert_eq!(found.cause.map(|cause| cause.type_name).as_deref(), Some("OSError"));
}

#[test]
fn a_death_tells_its_last_words() {
    let death = WorkerDeath {
        exit: Exit::Code(3),
        ended: Ended::ClosedPort,
        stderr: "one\ntwo\n".to_owned(),
        python_stack: "Fatal Python error\n".to_owned(),
        ..death(true)
    };
    let text = death.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].contains("exited with status 3 after it had closed the descriptor of its port"),
        "{text}"
    );
    assert_eq!(lines[1..], ["Fatal Python error", "last words on stderr:", "one", "two"]);
}

#[test]
fn each_end_reads_as_a_sentence() {
    let sentence = |exit: Exit, ended: Ended| format!("worker w {exit}{ended}");
    for (exit, ended, expected) in [
        (Exit::Code(0), Ended::Itself, "worker w exited with status 0"),
        (
            Exit::Signal(9),
            Ended::Unhealthy,
            "worker w was killed by SIGKILL because it did not answer a ping",
        ),
        (
            Exit::Signal(9),
            Ended::TimedOut,
            "worker w was killed by SIGKILL because its call ran out of time",
        ),
        (
            Exit::Signal(9),
            Ended::Abandoned,
            "worker w was killed by SIGKILL because its caller went away",
        ),
        (
            Exit::Signal(15),
            Ended::Shutdown,
            "worker w was killed by SIGTERM because the pool was shut down",
        ),
        (Exit::Unknown, Ended::Stopped, "worker w ended because its actor was stopped"),
        (Exit::Unknown, Ended::Launcher, "worker w ended because the launcher ended"),
        (
            Exit::Signal(9),
            Ended::Protocol("frame of unknown kind 7".to_owned()),
            "worker w was killed by SIGKILL because it broke the protocol: frame of unknown kind 7",
        ),
        (
            // The kernel kills before the limit is passed, here by one page.
            Exit::Signal(9),
            Ended::Memory { resident: (256 << 20) - 4096, limit: 256 << 20 },
            "worker w was killed by SIGKILL because it held 256 MiB of memory, the limit is 256 MiB",
        ),
    ] {
        assert_eq!(sentence(exit, ended), expected);
    }
}

#[test]
fn a_failed_start_carries_what_python_said() {
    let error = Error::from(StartError::Python {
        stage: "handlers".to_owned(),
        python: "/opt/python".into(),
        exception: Box::new(exception()),
    });
    let text = error.to_string();
    assert!(text.starts_with("start: handlers failed with ValueError: no\nTraceback"), "{text}");
    assert!(text.ends_with("ValueError: no"), "{text}");
    let missing = StartError::Python {
        stage: "preload of `numpy`".to_owned(),
        python: "/opt/python".into(),
        exception: Box::new(PythonException {
            type_name: "ModuleNotFoundError".to_owned(),
            ..exception()
        }),
    };
    assert!(missing.to_string().contains("\nThe interpreter is `/opt/python`: "), "{missing}");

    let exited = |stderr: &str| StartError::Exited {
        what: "the launcher".to_owned(),
        exit: Exit::Code(1),
        stderr: stderr.to_owned(),
    };
    assert_eq!(exited("").to_string(), "the launcher exited with status 1 before it was ready");
    let text = exited("bad\nworse\n").to_string();
    assert_eq!(text, "the launcher exited with status 1 before it was ready; stderr:\nbad\nworse");

    let error = StartError::Timeout {
        what: "worker demo/worker/0 (loading its handlers)".to_owned(),
        timeout: Duration::from_secs(30),
    };
    let text = error.to_string();
    assert!(
        text.contains("loading its handlers")
            && text.contains("30s")
            && text.contains("startup_timeout")
    );

    let error = StartError::Memory {
        what: "worker demo/worker/0".to_owned(),
        held: 64 << 20,
        limit: 64 << 20,
    };
    let text = error.to_string();
    assert!(text.starts_with("worker demo/worker/0 was killed before it was ready"), "{text}");
    assert!(
        text.ends_with("held 64 MiB of memory, the limit is 64 MiB (`memory_limit`)"),
        "{text}"
    );
}

#[test]
fn it_can_be_sent_and_passed_on_as_any_error() {
    fn check<T: std::error::Error + Clone + Send + Sync + 'static>() {}
    check::<Error>();
    check::<StartError>();
}
