//! Waiting for asynchronous results.

use std::time::{Duration, Instant};

/// How long anything may take that is not blocked; the machine may be busy with other tests.
pub const SOON: Duration = Duration::from_secs(60);

/// The value of `look` as soon as it returns one. Panics after `limit` with the last error that it returned.
pub async fn eventually<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let state = match tokio::time::timeout(limit, look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(state)) => state,
            Err(_) => "no answer".to_owned(),
        };
        assert!(
            Instant::now() < deadline,
            "not within {limit:?}: {what}. The last state: {state}"
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Waits until new objects have a later creation time than existing ones: the API server's resolution is a second.
pub async fn wait_for_next_second() {
    let now = || jiff::Timestamp::now().as_second();
    let started = now();
    eventually(SOON, "a second passes", async || {
        (now() > started).then_some(()).ok_or("not yet".to_owned())
    })
    .await;
}

/// `limit` on an idle machine; on a busy one, multiplied by the number of runnable processes per core, at most by four.
pub fn scaled_by_load(limit: Duration) -> Duration {
    let load = std::fs::read_to_string("/proc/loadavg").expect("the load");
    let mut fields = load.split([' ', '/']);
    let average: f64 = fields
        .next()
        .and_then(|field| field.parse().ok())
        .expect("the load of a minute");
    let running: f64 = fields
        .nth(2)
        .and_then(|field| field.parse().ok())
        .expect("who runs now");
    let cores = std::thread::available_parallelism().expect("the cores").get() as f64;
    limit.mul_f64((average.max(running) / cores).clamp(1.0, 4.0))
}
