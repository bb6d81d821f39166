//! A worker whose processes write without end to the pipe that its Python stack goes to gets its deadline, its grace and its
//! end like any other.
//!
//! A naive port reads that pipe until it is empty, which is never.

use std::time::Duration;

use snakepen::Error;

use crate::common::{LIMIT, eventually, finish, is_alive, pids, pool, within};

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_nobody_from_the_deadline_and_the_grace() {
    let pool = pool("flooding.py").workers(1).cancel_grace(3 * SHORT).start().await.unwrap();
    for handler in ["flood_and_obey", "flood_and_stay"] {
        let before = pids(&pool)[0];
        // Its pipe is read when the stack is asked for, which is at the deadline.
        let call = pool.call::<()>(handler, ()).timeout(3 * SHORT).into_future();
        let error = within(LIMIT, handler, call).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        eventually("its worker has ended", || !is_alive(before)).await;
        let after = within(LIMIT, "the next call", pool.call::<i32>("pid", ()).into_future()).await;
        assert_ne!(after.unwrap(), before);
    }
    finish(pool).await;
}
