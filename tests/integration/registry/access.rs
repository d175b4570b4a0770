//! Access control of registries, and error messages for denied access.

use jackal_operator::fault::{Disposition, Reason};
use jackal_operator::oci::Digest;
use jackal_operator::registry::{Credentials, Endpoint, Kind, Registry, UploadError};

use crate::support::image::stream;
use crate::support::install_tls;
use crate::support::registry::{Options, TestRegistry, VERSIONS, Version};

#[tokio::test]
async fn access_depends_on_the_credentials() {
    let options = Options {
        login: Some(("jackal", "s3cret")),
        tls: false,
    };
    for version in VERSIONS {
        let registry = TestRegistry::start_with(version, options);
        let digest = Digest::of(b"x");
        let repository = registry.repository("a");
        let stored = repository.upload(Some(&digest), Some(1), stream("x")).await;
        assert_eq!(stored.unwrap(), (digest.clone(), 1));
        assert_eq!(registry.repository("a").head_blob(&digest).await.unwrap(), Some(1));
        let wrong = Credentials::new("jackal", "guessed");
        for credentials in [Some(wrong), None] {
            let client = Registry::new(Endpoint {
                credentials,
                ..registry.endpoint()
            });
            let repository = client.unwrap().repository("a");
            let error = repository.head_blob(&digest).await.unwrap_err();
            assert_eq!(error.kind(), &Kind::Unauthorized);
            let fault = error.into_read_fault("r/a:1");
            assert_eq!(
                (fault.reason, fault.disposition),
                (Reason::AuthenticationFailed, Disposition::Retryable)
            );
            assert!(fault.message.contains("imagePullSecrets"), "{fault}");
            assert!(!fault.message.contains("guessed"), "{fault}");
            let error = repository
                .upload(Some(&digest), Some(1), stream("x"))
                .await
                .unwrap_err();
            let UploadError::Registry(error) = error else {
                panic!("{error:?}");
            };
            assert_eq!(error.into_push_fault("r/a").reason, Reason::AuthenticationFailed);
        }
    }
}

#[tokio::test]
async fn tls_trusts_only_configured_authorities() {
    let options = Options {
        login: Some(("jackal", "s3cret")),
        tls: true,
    };
    for version in VERSIONS {
        let registry = TestRegistry::start_with(version, options);
        let content = crate::support::image::noise(1, 2_000_000);
        let digest = Digest::of(&content);
        let repository = registry.repository("a");
        let stored = repository.upload(Some(&digest), Some(2_000_000), stream(content));
        assert_eq!(stored.await.unwrap(), (digest.clone(), 2_000_000));
        let mut stranger = registry.endpoint();
        stranger.trust = Default::default();
        let error = Registry::new(stranger)
            .unwrap()
            .repository("a")
            .head_blob(&digest)
            .await
            .unwrap_err();
        let fault = error.into_push_fault("r/a");
        assert_eq!(fault.reason, Reason::RegistryUnavailable);
        let expected = "certificate signed by unknown authority; set the CA certificate in registry.certSecretRef";
        assert!(fault.message.contains(expected), "{fault}");
    }
}

#[tokio::test]
async fn plain_http_must_be_enabled() {
    let registry = TestRegistry::start(Version::V28);
    let strict = Registry::new(Endpoint {
        plain_http: false,
        ..registry.endpoint()
    });
    let error = strict.unwrap().repository("a").head_manifest("1").await.unwrap_err();
    let fault = error.into_read_fault("r/a:1");
    assert_eq!(
        (fault.reason, fault.disposition),
        (Reason::RegistryUnavailable, Disposition::Retryable)
    );
    assert!(fault.message.contains("set insecure: true"), "{fault}");
}

#[tokio::test]
async fn an_unreachable_registry_is_unavailable() {
    install_tls();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = socket.local_addr().unwrap().to_string();
    drop(socket);
    for (host, expected) in [
        (host.as_str(), "connection refused"),
        ("registry.invalid", "cannot be resolved"),
    ] {
        let client = Registry::new(Endpoint {
            plain_http: true,
            ..Endpoint::new(host)
        });
        let repository = client.unwrap().repository("a");
        let first = repository.manifest("1").await.unwrap_err().into_read_fault("r/a:1");
        assert_eq!(
            (first.reason, first.disposition),
            (Reason::RegistryUnavailable, Disposition::Retryable)
        );
        assert!(first.message.contains(expected), "{first}");
        let second = repository.manifest("1").await.unwrap_err().into_read_fault("r/a:1");
        assert_eq!(first, second, "a repetition is recognised");
    }
}
