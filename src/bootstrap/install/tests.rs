use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::secrets::Entries;
use super::*;
use crate::oci::Reference;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;
const MANIFESTS: &str = "
---
# Source: a comment of helm
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: jackal-operator-registry
  namespace: jackal-system
  labels: {app.kubernetes.io/component: registry}
spec:
  template:
    metadata: {annotations: {checksum/tls: e3b0}}
    spec:
      containers:
      - {name: registry, image: 'jackal.invalid/registry'}
      - {name: pull, image: 'jackal.invalid/registry:latest'}
      volumes: []
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {resources: {requests: {storage: 20Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: jackal-operator-registry-nodes}
spec: {type: NodePort}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: jackal-operator, namespace: jackal-system}
spec: {template: {spec: {containers: [{image: 'jackal.invalid/operator:0.1.0'}]}}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: jackalimages.jackal.dev, annotations: {helm.sh/resource-policy: keep}}
---
apiVersion: v1
kind: Pod
metadata: {name: test, annotations: {helm.sh/hook: test}}
";

fn options() -> Options {
    let image = |name: &str| {
        let name: Reference = name.parse().unwrap();
        InstalledImage::new(&name, Digest::of(b"root")).unwrap()
    };
    Options {
        operator: image("ghcr.io/jackal-dev/jackal-operator:0.1.0"),
        registry: image("registry:3.1.2"),
        storage: Storage::Claim {
            class: None,
            size: None,
        },
    }
}

fn made(manifests: &str, options: &Options) -> Vec<Object> {
    objects(
        manifests.as_bytes(),
        options,
        &Secrets::new(&Existing::default(), NOW).unwrap(),
    )
    .unwrap()
}

fn refused(manifests: &str) -> String {
    let secrets = Secrets::new(&Existing::default(), NOW).unwrap();
    objects(manifests.as_bytes(), &options(), &secrets).unwrap_err().message
}

fn named<'o>(objects: &'o [Object], name: &str) -> &'o Object {
    objects.iter().find(|object| object.to_string() == name).unwrap()
}

#[test]
fn objects_are_completed_and_ordered() {
    let objects = made(MANIFESTS, &options());
    let shown: Vec<String> = objects.iter().map(Object::to_string).collect();
    assert_eq!(
        shown,
        [
            "Namespace jackal-system",
            "CustomResourceDefinition jackalimages.jackal.dev",
            "Secret jackal-system/jackal-operator-registry",
            "Secret jackal-system/jackal-operator-registry-login",
            "Secret jackal-system/jackal-operator-registry-pull",
            "Secret jackal-system/jackal-operator-registry-ca",
            "Secret jackal-system/jackal-operator-registry-tls",
            "StatefulSet jackal-system/jackal-operator-registry",
            "Deployment jackal-system/jackal-operator",
            "Service jackal-system/jackal-operator-registry-nodes",
        ]
    );
    let digest = Digest::of(b"root");
    let operator = &named(&objects, "Deployment jackal-system/jackal-operator").content;
    assert_eq!(
        operator["spec"]["template"]["spec"]["containers"][0]["image"],
        format!("127.0.0.1:31999/jackal-dev/jackal-operator@{digest}")
    );
    let registry = &named(&objects, "StatefulSet jackal-system/jackal-operator-registry").content;
    for container in registry["spec"]["template"]["spec"]["containers"].as_array().unwrap() {
        assert_eq!(container["image"], format!("127.0.0.1:31999/library/registry@{digest}"));
    }
    assert_ne!(
        registry["spec"]["template"]["metadata"]["annotations"]["checksum/tls"],
        "e3b0"
    );
    for object in &objects {
        let metadata = &object.content["metadata"];
        assert_eq!(metadata["labels"][LABEL], "true", "{object}");
        let is_namespace = object.kind.kind == "Namespace";
        assert_eq!(
            metadata["annotations"]["meta.helm.sh/release-name"] == RELEASE,
            !is_namespace,
            "{object}"
        );
    }
    assert_eq!(
        named(&objects, "Secret jackal-system/jackal-operator-registry-ca").content["metadata"]["labels"]["app.kubernetes.io/component"],
        "registry"
    );
}

#[test]
fn only_pods_with_the_network_of_the_node_need_a_privileged_namespace() {
    let namespace = |manifests: &str| made(manifests, &options())[0].content["metadata"]["labels"].clone();
    assert_eq!(namespace(MANIFESTS), serde_json::json!({LABEL: "true"}));
    let proxy = format!(
        "{MANIFESTS}---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: proxy}}\nspec: {{template: {{spec: {{hostNetwork: true}}}}}}\n"
    );
    assert_eq!(namespace(&proxy)["pod-security.kubernetes.io/enforce"], "privileged");
}

#[test]
fn storage_is_a_claim_or_ephemeral() {
    let of = |storage: Storage| {
        let objects = made(MANIFESTS, &Options { storage, ..options() });
        let set = named(&objects, "StatefulSet jackal-system/jackal-operator-registry");
        set.content["spec"].clone()
    };
    let size = || Some("3Gi".parse().unwrap());
    let claim = of(Storage::Claim {
        class: Some("fast".to_owned()),
        size: size(),
    });
    let claim = &claim["volumeClaimTemplates"][0]["spec"];
    assert_eq!(
        (&claim["storageClassName"], &claim["resources"]["requests"]["storage"]),
        (&"fast".into(), &"3Gi".into())
    );
    let spec = of(Storage::Ephemeral { size: size() });
    assert!(spec.get("volumeClaimTemplates").is_none());
    let volumes = &spec["template"]["spec"]["volumes"];
    assert_eq!(
        volumes[0],
        serde_json::json!({"name": "data", "emptyDir": {"sizeLimit": "3Gi"}})
    );
    let spec = of(Storage::Ephemeral { size: None });
    assert_eq!(spec["template"]["spec"]["volumes"][0]["emptyDir"]["sizeLimit"], "20Gi");
}

#[test]
fn unusable_manifests_are_refused() {
    for (text, expected) in [
        ("", "is empty"),
        ("a: [", "is not YAML"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
            "whose kind bootstrap does not install",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n",
            "Secrets are made by bootstrap",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
            "has no StatefulSet jackal-operator-registry",
        ),
    ] {
        let message = refused(text);
        assert!(message.contains(expected), "{message}");
    }
    let unknown = refused(&MANIFESTS.replace("jackal.invalid/operator:0.1.0", "jackal.invalid/other:1"));
    assert!(
        unknown.contains("Deployment jackal-system/jackal-operator has the name \"jackal.invalid/other:1\""),
        "{unknown}"
    );
    let elsewhere = refused(&MANIFESTS.replace("checksum/tls: e3b0", "a: x jackal.invalid/operator"));
    assert!(elsewhere.contains("which stands for no image"), "{elsewhere}");
    let twice = refused(&format!(
        "{MANIFESTS}---\napiVersion: v1\nkind: Service\nmetadata: {{name: jackal-operator-registry-nodes, namespace: jackal-system}}\n"
    ));
    assert!(
        twice.contains("has Service jackal-system/jackal-operator-registry-nodes twice"),
        "{twice}"
    );
    let claims = refused(&MANIFESTS.replace("volumeClaimTemplates", "claims"));
    assert!(claims.contains("has no claim for its content"), "{claims}");
    let many = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n".repeat(501);
    assert!(refused(&many).contains("has more than 500 objects"));
}

/// The Secrets of `objects` as the cluster has them.
fn existing(objects: &[Object]) -> Existing {
    let entries = |name: &str| -> Option<Entries> {
        let secret = &named(objects, &format!("Secret {NAMESPACE}/{name}")).content;
        let data = secret["data"].as_object()?.iter();
        Some(
            data.map(|(key, value)| (key.clone(), STANDARD.decode(value.as_str().unwrap()).unwrap()))
                .collect(),
        )
    };
    let [users, tls, authorities] = Existing::NAMES;
    let tls_object = &named(objects, &format!("Secret {NAMESPACE}/{tls}")).content;
    let annotations = tls_object["metadata"]["annotations"].as_object().unwrap().iter();
    Existing {
        users: entries(users),
        tls: entries(tls),
        tls_annotations: annotations
            .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
            .collect(),
        authorities: entries(authorities),
    }
}

#[test]
fn secrets_are_kept_until_the_certificate_ends_soon() {
    let first = made(MANIFESTS, &options());
    let known = existing(&first);
    let again = |existing: &Existing, now: u64| {
        objects(MANIFESTS.as_bytes(), &options(), &Secrets::new(existing, now).unwrap()).unwrap()
    };
    assert_eq!(again(&known, NOW + 244 * DAY), first);
    let renewed = again(&known, NOW + 246 * DAY);
    let after = existing(&renewed);
    assert_eq!(after.users, known.users);
    assert_ne!(after.tls, known.tls);
    let text =
        |existing: &Existing| String::from_utf8(existing.authorities.as_ref().unwrap()["ca.crt"].clone()).unwrap();
    assert_eq!(text(&after).matches("BEGIN CERTIFICATE").count(), 2);
    assert!(
        text(&after).ends_with(&text(&known)),
        "the previous authority stays trusted"
    );
    // Another set of names makes another certificate, as in the chart.
    let mut other = known.clone();
    other
        .tls_annotations
        .insert("jackal.dev/names".to_owned(), "[]".to_owned());
    assert_ne!(existing(&again(&other, NOW)).tls, known.tls);
    // A missing entry is made; the others stay.
    let mut part = known.clone();
    part.users.as_mut().unwrap().remove("pull-htpasswd");
    let repaired = existing(&again(&part, NOW)).users.unwrap();
    assert_eq!(
        repaired["pull-password"],
        known.users.as_ref().unwrap()["pull-password"]
    );
    assert!(repaired.contains_key("pull-htpasswd"));
}

#[test]
fn credentials_and_certificate_fit_together() {
    let secrets = Secrets::new(&Existing::default(), NOW).unwrap();
    let objects = objects(MANIFESTS.as_bytes(), &options(), &secrets).unwrap();
    let known = existing(&objects);
    let users: BTreeMap<String, String> = known
        .users
        .unwrap()
        .into_iter()
        .map(|(key, value)| (key, String::from_utf8(value).unwrap()))
        .collect();
    assert_ne!(users["password"], users["pull-password"]);
    for (name, password, line) in [
        ("username", "password", "htpasswd"),
        ("pull-username", "pull-password", "pull-htpasswd"),
    ] {
        let (user, hash) = users[line].split_once(':').unwrap();
        assert_eq!(user, users[name]);
        assert!(bcrypt::verify(&users[password], hash).unwrap());
        assert_eq!(users[password].len(), 32);
    }
    let pull = &named(&objects, "Secret jackal-system/jackal-operator-registry-pull").content;
    let config = STANDARD
        .decode(pull["data"][".dockerconfigjson"].as_str().unwrap())
        .unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["auths"][ADDRESS]["username"], "jackal");
    assert_eq!(config["auths"][ADDRESS]["password"], users["pull-password"].as_str());
    assert!(!format!("{secrets:?}").contains(&users["password"]));
}

#[test]
fn the_certificate_verifies_for_the_names_of_the_registry() {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    let secrets = Secrets::new(&Existing::default(), NOW).unwrap();
    let certificate = secrets.certificate();
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (authority, leaf) = (der(&certificate.authority), der(&certificate.certificate));
    let anchor = webpki::anchor_from_trusted_cert(&authority).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
    let verify = |seconds: u64| {
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let usage = webpki::KeyUsage::server_auth();
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            std::slice::from_ref(&anchor),
            &[],
            time,
            usage,
            None,
            None,
        )
        .is_ok()
    };
    assert!(verify(NOW) && verify(NOW + 364 * DAY) && verify(NOW - 3600));
    assert!(!verify(NOW + 366 * DAY) && !verify(NOW - 2 * DAY));
    for name in [
        "127.0.0.1",
        "::1",
        "localhost",
        "jackal-operator-registry.jackal-system.svc",
    ] {
        let name = ServerName::try_from(name).unwrap();
        assert!(leaf.verify_is_valid_for_subject_name(&name).is_ok(), "{name:?}");
    }
    assert!(
        leaf.verify_is_valid_for_subject_name(&ServerName::try_from("example.com").unwrap())
            .is_err()
    );
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let signing = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    rustls::sign::CertifiedKey::new(vec![der(&certificate.certificate)], signing)
        .keys_match()
        .unwrap();
}

#[test]
fn helm_values_name_what_was_installed() {
    let values = helm_values(&options(), Expose::NodePort);
    assert_eq!(
        values["image"]["repository"],
        "127.0.0.1:31999/jackal-dev/jackal-operator"
    );
    assert_eq!(
        values["registry"]["deploy"]["persistence"],
        serde_json::json!({"enabled": true})
    );
    assert!(values["registry"].get("expose").is_none());
    let storage = Storage::Ephemeral {
        size: Some("1Gi".parse().unwrap()),
    };
    let values = helm_values(&Options { storage, ..options() }, Expose::NodeProxy);
    assert_eq!(
        values["registry"]["deploy"]["persistence"],
        serde_json::json!({"enabled": false, "size": "1Gi"})
    );
    assert_eq!(values["registry"]["expose"], "NodeProxy");
}
