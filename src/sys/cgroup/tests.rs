use super::*;

/// A directory as cgroupfs has them, but that files in it are files.
struct Fake(tempfile::TempDir);

impl Fake {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Self(directory)
    }

    fn worker(&self) -> WorkerCgroup {
        WorkerCgroup(Cgroup { directory: self.0.path().to_owned() })
    }
}

const OVER_LIMIT: &str = "low 0\nhigh 0\nmax 91\noom 1\noom_kill 2\noom_group_kill 1\n";
const OUT_OF_MEMORY: &str = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\noom_group_kill 1\n";
const ALIVE: &str = "low 0\nhigh 0\nmax 7\noom 0\noom_kill 0\n";

#[test]
fn what_the_kernel_has_killed_tells_why() {
    let limit = ("memory.max", "268435456\n");
    let killed = |events, files: &[_]| {
        Fake::new(&[&[limit, ("memory.events", events)], files].concat()).worker().killed()
    };
    let peak = ("memory.peak", "268431360\n");
    assert_eq!(killed(OVER_LIMIT, &[peak]), Some(Killed::OverLimit { held: 268_431_360 }));
    assert_eq!(killed(OVER_LIMIT, &[]), Some(Killed::OverLimit { held: 1 << 28 }), "before 5.19");
    assert_eq!(killed(OUT_OF_MEMORY, &[peak]), Some(Killed::OutOfMemory));
    assert_eq!(killed(ALIVE, &[peak]), None);
    assert_eq!(killed("garbage", &[peak]), None);
    assert_eq!(Fake::new(&[]).worker().killed(), None, "it was never made");
}

#[test]
fn a_process_is_in_it_or_not() {
    let worker = Fake::new(&[("cgroup.procs", "123\n45\n")]);
    assert!(worker.worker().holds(45) && worker.worker().holds(123));
    assert!(!worker.worker().holds(12) && !worker.worker().holds(4));
    assert!(!Fake::new(&[]).worker().holds(1));
}

#[test]
fn any_name_of_a_pool_makes_a_directory() {
    assert_eq!(file_name("demo-2_A"), "demo-2_A");
    assert_eq!(file_name("my pool. öl/\0"), "my_pool___l__");
    assert_eq!(file_name(&"x".repeat(500)).len(), LONGEST_NAME);
}

#[tokio::test]
async fn it_is_removed_with_what_is_below_it_once_that_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let pool = PoolCgroup(Cgroup { directory: directory.path().join("pool") });
    pool.remove().await;
    drop(pool.worker(0, 1));
    fs::create_dir_all(pool.directory().join("1.7/below")).unwrap();
    drop(pool.worker(1, 7));
    assert!(pool.directory().exists() && !pool.directory().join("1.7").exists());
    // A file stands for a process that has not ended yet.
    fs::create_dir(pool.directory().join("2.1")).unwrap();
    let process = pool.directory().join("2.1/process");
    fs::write(&process, "").unwrap();
    drop(pool.worker(2, 1));
    let removed = tokio::spawn(async move { pool.remove().await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(process.exists() && !removed.is_finished());
    fs::remove_file(&process).unwrap();
    removed.await.unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
