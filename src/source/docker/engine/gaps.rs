//! What bollard cannot do, so that we make the request or complete it. A test that fails shows that a newer bollard can.

use std::sync::{Arc, Mutex};

use bollard::models::PushImageInfo;
use bollard::query_parameters::PushImageOptionsBuilder;
use bollard::{BollardRequest, Docker};
use futures::StreamExt;
use serde_json::json;

/// bollard, and the requests that it makes, which all fail.
fn recording() -> (Docker, Arc<Mutex<Vec<BollardRequest>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let docker = Docker::connect_with_custom_transport(
        {
            let requests = requests.clone();
            move |request| {
                requests.lock().unwrap().push(request);
                async { Err(bollard::errors::Error::RequestTimeoutError) }
            }
        },
        Some("http://docker"),
        1,
        bollard::API_DEFAULT_VERSION,
    );
    (docker.unwrap(), requests)
}

fn last(requests: &Mutex<Vec<BollardRequest>>) -> BollardRequest {
    requests.lock().unwrap().pop().unwrap()
}

#[tokio::test]
async fn bollard_sends_no_api_version() {
    let (docker, requests) = recording();
    docker.info().await.unwrap_err();
    assert_eq!(last(&requests).uri(), "http://docker/info");
}

#[tokio::test]
async fn bollard_does_not_ask_for_manifests_or_a_platform() {
    let (docker, requests) = recording();
    docker.inspect_image("app:dev").await.unwrap_err();
    assert_eq!(last(&requests).uri().query(), None);
    docker.export_image("app:dev").next().await.unwrap().unwrap_err();
    assert_eq!(last(&requests).uri().query(), None);
}

#[tokio::test]
async fn bollard_pushes_without_the_digest_and_with_another_base64() {
    let line = json!({ "aux": { "Tag": "1", "Digest": format!("sha256:{:064}", 0), "Size": 1 } });
    let line: PushImageInfo = serde_json::from_value(line).unwrap();
    assert_eq!(serde_json::to_value(line).unwrap(), json!({}));

    let (docker, requests) = recording();
    let credentials = bollard::auth::DockerCredentials {
        password: Some("?????????".to_owned()),
        ..Default::default()
    };
    let options = PushImageOptionsBuilder::default().tag("1").build();
    let mut pushing = docker.push_image("r/app", Some(options), Some(credentials));
    pushing.next().await.unwrap().unwrap_err();
    let request = last(&requests);
    let sent = request.headers()["X-Registry-Auth"].to_str().unwrap();
    assert!(sent.contains(['+', '/']), "{sent}");
}
