use std::path::Path;

use serde_json::{Value, json};

use super::checked::{Handlers, THREAD_VARIABLES};
use super::*;

/// An interpreter that is there and can be executed, though it is no Python: nothing here starts it.
const INTERPRETER: &str = "/bin/sh";

/// The least that a pool needs.
fn builder() -> Builder {
    Builder::new("demo".to_owned()).python(INTERPRETER).workers(2).expose("sqrt", "math:sqrt")
}

/// Options for tests of other modules.
pub(crate) fn config(workers: usize, queue_limit: usize) -> Config {
    builder().workers(workers).queue_limit(queue_limit).check().unwrap()
}

/// The same without handlers.
fn without_handlers() -> Builder {
    Builder::new("demo".to_owned()).python(INTERPRETER)
}

fn named(name: &str) -> Builder {
    Builder { name: name.to_owned(), ..builder() }
}

#[test]
fn each_refused_option_is_named() {
    let zero = Duration::ZERO;
    let refused = [
        ("builder", named("")),
        ("builder", named("a/b")),
        ("workers", builder().workers(0)),
        ("workers", builder().workers(4097)),
        ("workers", builder().workers(2).autoscale(3..=4)),
        ("autoscale", builder().autoscale(0..=4)),
        ("autoscale", builder().autoscale(1..=4097)),
        ("autoscale", builder().autoscale(std::ops::RangeInclusive::new(3, 2))),
        ("autoscale_after", builder().autoscale_after(Duration::ZERO, Duration::MAX)),
        ("max_frame", builder().max_frame(1023)),
        ("spin", builder().spin(Duration::from_micros(1001))),
        ("switch_interval", builder().switch_interval(Duration::ZERO)),
        ("switch_interval", builder().switch_interval(Duration::from_millis(1001))),
        ("max_frame", builder().max_frame(1 << 32)),
        ("call_timeout", builder().call_timeout(zero)),
        ("circuit_cool_down", builder().circuit_cool_down(zero)),
        ("startup_timeout", builder().startup_timeout(zero)),
        ("health_interval", builder().health_interval(zero)),
        ("health_timeout", builder().health_timeout(zero)),
        ("handlers", without_handlers()),
        ("handlers", builder().handlers("")),
        ("handlers", builder().handlers("./missing.py")),
        ("handlers", builder().handlers("missing.py")),
        ("handlers", builder().handlers("./src")),
        ("expose", builder().expose("", "math:sqrt")),
        ("expose", builder().expose("sqrt", "math.sqrt")),
        ("expose", builder().expose("sqrt", ":sqrt")),
        ("expose", builder().expose("sqrt", "math:")),
        ("preload", builder().preload(["json", ""])),
        ("env", builder().env("", "1")),
        ("env", builder().env("A=B", "1")),
        ("env", builder().env("A\0B", "1")),
        ("env", builder().env("A", "1\0")),
        ("working_dir", builder().working_dir("/nowhere/at/all")),
        ("working_dir", builder().working_dir("Cargo.toml")),
        ("working_dir", builder().working_dir("")),
        ("path", builder().path("")),
    ];
    let mut wrong = Vec::new();
    for (number, (option, builder)) in refused.into_iter().enumerate() {
        match builder.check() {
            Err(Error::Config { option: found, message }) if found == option => {
                assert!(!message.is_empty(), "no reason for {option}");
            }
            other => wrong.push(format!(
                "row {number}, {option}: {}",
                other.map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
            )),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_interpreter_that_is_missing_is_no_option_error() {
    let error = builder().python("/nowhere/python").check().unwrap_err();
    assert!(matches!(error, Error::Start(_)), "{error}");
}

#[test]
fn the_edges_are_accepted() {
    for builder in [
        builder().workers(1),
        builder().workers(4096),
        builder().max_frame(1024),
        builder().max_frame(u32::MAX as usize),
        builder().queue_limit(0),
        builder().queue_limit(usize::MAX),
        builder().shutdown_grace(Duration::ZERO),
        builder().shutdown_grace(Duration::MAX),
        builder().call_timeout(Duration::MAX),
        builder().startup_timeout(Duration::from_nanos(1)),
        builder().path("/nowhere/at/all"),
        builder().expose("sqrt", "a.b:c.d"),
        named("größe 1"),
    ] {
        builder.check().unwrap();
    }
}

#[test]
fn the_documented_defaults() {
    let config = without_handlers().expose("sqrt", "math:sqrt").check().unwrap();
    assert_eq!(config.workers, std::thread::available_parallelism().unwrap().get());
    assert!(config.autoscale.is_none());
    let seconds = Duration::from_secs;
    let limits = &config.limits;
    assert_eq!(limits.queue, 1024);
    assert_eq!(limits.call_timeout, seconds(60));
    assert_eq!(limits.retries, 2);
    assert_eq!((limits.circuit_threshold, limits.circuit_cool_down), (20, seconds(5)));
    assert_eq!(limits.startup_timeout, seconds(30));
    assert_eq!(limits.shutdown_grace, seconds(30));
    assert_eq!(limits.health_interval, seconds(30));
    assert_eq!(limits.health_timeout, seconds(5));
    assert_eq!(limits.max_frame, 256 << 20);
    assert!(config.working_dir.is_none() && !config.fresh_interpreter);
}

#[test]
fn handlers_are_a_file_or_a_module() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/python_worker/snakepen/__init__.py");
    // Tests run in the crate's directory.
    for (text, expected) in [
        (file, Some(file)),
        ("python_worker/snakepen/__init__.py", Some(file)),
        ("./python_worker/snakepen/__init__.py", Some(file)),
        ("app.handlers", None),
        ("handlers", None),
    ] {
        match (Handlers::parse(text.to_owned()).unwrap(), expected) {
            (Handlers::File(found), Some(path)) => assert_eq!(found, Path::new(path)),
            (Handlers::Module(found), None) => assert_eq!(found, text),
            (other, _) => panic!("{text} is {other:?}"),
        }
    }
}

#[test]
fn threads_are_limited_to_one_unless_said_otherwise() {
    let config = builder().env("OMP_NUM_THREADS", "3").env("MINE", "x").check().unwrap();
    let get =
        |key: &str| config.env.get(std::ffi::OsStr::new(key)).and_then(|value| value.to_str());
    assert_eq!(get("OMP_NUM_THREADS"), Some("3"), "the builder has the last word");
    assert_eq!(get("MINE"), Some("x"));
    for variable in THREAD_VARIABLES.into_iter().skip(1) {
        // What the host sets is inherited.
        let expected = if std::env::var_os(variable).is_some() { None } else { Some("1") };
        assert_eq!(get(variable), expected, "{variable}");
    }
}

#[test]
fn names_are_built_from_the_pools() {
    let config = config(2, 1);
    assert_eq!(config.worker_name(3), "demo/worker/3");
    assert_eq!(config.actor_name("launcher"), "demo/launcher");
}

#[test]
fn the_launcher_is_told_everything() {
    let config = builder()
        .handlers("app.handlers")
        .path("/first")
        .path("second")
        .preload(["json", "math"])
        .preload(["re"])
        .fresh_interpreter(true)
        .max_frame(4096)
        .memory_limit(1 << 30)
        .check()
        .unwrap();
    let second = std::env::current_dir().unwrap().join("second");
    let mut told = config.for_launcher(Some(Path::new("/cgroups/demo"))).unwrap();
    let level = told.as_object_mut().unwrap().remove("log_level").unwrap();
    assert!(level.as_u64().is_some_and(|level| level % 10 == 0), "{level}");
    let expected = json!({
        "pool": "demo",
        "handlers": {"module": "app.handlers"},
        "expose": {"sqrt": "math:sqrt"},
        "actor": null,
        "paths": ["/first", second.to_str().unwrap()],
        "preload": ["json", "math", "re"],
        "fresh": true,
        "concurrency": 1,
        "prefetch": 0,
            "reuse_after_cancel": false,
        "max_frame": 4096,
        "shared_memory": 262144,
        "switch_interval": null,
        "cgroup": {"directory": "/cgroups/demo", "memory": 1 << 30},
    });
    assert_eq!(told, expected);
    assert_eq!(config.for_launcher(None).unwrap()["cgroup"], Value::Null);
}

#[test]
fn the_pool_of_an_actor_has_one_worker_and_tells_its_class() {
    let spec = ActorSpec {
        name: "counter".to_owned(),
        module: "app.actors".to_owned(),
        class: "Outer.Counter".to_owned(),
        args: bytes::Bytes::from_static(b"[1]"),
        save_every: 1,
    };
    // Whatever name and size the options had.
    let builder = without_handlers().workers(1).of_actor("counter.pool".to_owned(), spec.clone());
    let config = builder.check().unwrap();
    assert_eq!((&*config.name, config.workers), ("counter.pool", 1));
    let told = config.for_launcher(None).unwrap();
    assert_eq!(told["actor"], "Outer.Counter");
    assert_eq!(told["handlers"], json!({"module": "app.actors"}));
    let unset = without_handlers().of_actor("counter.pool".to_owned(), spec);
    assert_eq!(unset.check().unwrap().workers, 1);
}

#[test]
fn a_path_that_json_cannot_carry_is_an_error() {
    use std::os::unix::ffi::OsStringExt;
    let odd = PathBuf::from(OsString::from_vec(b"/caf\xe9".to_vec()));
    let config = builder().path(odd).check().unwrap();
    let error = config.for_launcher(None).unwrap_err();
    assert!(error.to_string().contains("not UTF-8"), "{error}");
}
