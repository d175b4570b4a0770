//! The operator's processes stop soon after the signal, in any state.

use std::net::TcpListener;
use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::operator::Operator;
use crate::support::wait::{SOON, eventually};

/// How long a process may take to stop: less than the thirty seconds of a pod.
const END: Duration = Duration::from_secs(15);

async fn wait_for_log(operator: &Operator, text: &str) {
    eventually(SOON, &format!("the operator says `{text}`"), async || {
        let log = operator.log();
        if log.contains(text) { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn a_leader_stops_repeatedly_within_the_limit() {
    let cluster = Cluster::new().await;
    for _ in 0..5 {
        let mut controller = cluster.controller(&[]);
        wait_for_log(&controller, "leading").await;
        controller.signal("TERM");
        let status = controller.ends(END).await;
        assert!(status.success(), "{status}: {}", controller.log());
    }
}

#[tokio::test]
async fn processes_stop_while_the_api_server_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    // Connections are accepted and nothing responds.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let server = format!("http://{}", silent.local_addr().unwrap());
    let config = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, users: [], \
         clusters: [{{name: c, cluster: {{server: '{server}'}}}}], contexts: [{{name: c, context: {{cluster: c}}}}]}}"
    );
    std::fs::write(&kubeconfig, config).unwrap();
    for role in [&["controller"][..], &["agent", "--docker-host", "unix:///nowhere"]] {
        let log = folder.path().join(role[0]);
        let variables = [("KUBECONFIG", kubeconfig.to_str().unwrap()), ("JACKAL_LOG", "debug")];
        let mut process = Operator::start(role, &variables, log);
        // By then it waits for the first list.
        wait_for_log(&process, "applier runner held until store is ready").await;
        process.signal("TERM");
        let status = process.ends(END).await;
        assert!(status.success(), "{status}: {}", process.log());
    }
}
