use serde_json::json;

use super::*;

fn chain(config: &Value) -> Keychain {
    Keychain::parse(config.to_string().as_bytes()).unwrap()
}

fn auths(auths: &Value) -> Keychain {
    chain(&json!({ "auths": auths }))
}

fn named(username: &str) -> Value {
    json!({ "username": username, "password": "p" })
}

fn users(keychain: &Keychain, host: &str, repository: &str) -> Vec<String> {
    let candidates = keychain.candidates(host, repository);
    candidates.into_iter().map(|found| found.username).collect()
}

fn pair(entry: &Value) -> Option<(String, String)> {
    let found = auths(&json!({ "r": entry })).find("r", "x")?;
    Some((found.username.clone(), found.password.expose_secret().to_owned()))
}

#[test]
fn keys_match_in_all_notations() {
    for (key, host, repository, expected) in [
        ("r.example.com", "r.example.com", "a", true),
        ("https://r.example.com", "r.example.com", "a", true),
        ("HTTPS://r.example.com/", "r.example.com", "a", true),
        ("http://r.example.com:5000/v1/", "r.example.com:5000", "a", true),
        ("r.example.com/v2/", "r.example.com", "a", true),
        ("r.example.com/v2", "r.example.com", "a", true),
        ("https://r.example.com/v2/team/", "r.example.com", "team/a", true),
        ("https://r.example.com/v2/team/", "r.example.com", "b", false),
        (" R.Example.COM ", "r.example.com", "a", true),
        ("r.example.com", "R.EXAMPLE.com", "a", true),
        ("r.example.com", "r.example.com:5000", "a", false),
        ("r.example.com:443", "r.example.com", "a", false),
        ("r.example.com:5000", "r.example.com:500", "a", false),
        ("[::1]:5000", "[::1]:5000", "a", true),
        ("[::1]:5000", "[::1]", "a", false),
        ("https://index.docker.io/v1/", "docker.io", "library/a", true),
        ("docker.io", "docker.io", "library/a", true),
        ("registry-1.docker.io", "docker.io", "library/a", true),
        ("docker.io", "registry-1.docker.io", "library/a", true),
        ("r.example.com/team", "r.example.com", "team/a", true),
        ("r.example.com/team", "r.example.com", "team", true),
        ("r.example.com/team/", "r.example.com", "team/a", true),
        ("r.example.com/team", "r.example.com", "teams/a", false),
        ("v2.example.com", "v2.example.com", "a", true),
        // `*` matches within one label.
        ("*.example.com", "r.example.com", "a", true),
        ("https://*.example.com/v1/", "r.example.com", "a", true),
        ("*.example.com", "example.com", "a", false),
        ("*.example.com", "a.r.example.com", "a", false),
        ("*.example.com", "r.example.com:5000", "a", false),
        ("*.example.com:5000", "r.example.com:5000", "a", true),
        ("pre*.example.com", "prefix.example.com", "a", true),
        ("pre*.example.com", "other.example.com", "a", false),
        (
            "*.dkr.ecr.*.amazonaws.com",
            "1234.dkr.ecr.eu-west-1.amazonaws.com",
            "a",
            true,
        ),
        ("*.dkr.ecr.*.amazonaws.com", "1234.dkr.ecr.amazonaws.com", "a", false),
        ("*.example.com/team", "r.example.com", "team/a", true),
        ("*.example.com/team", "r.example.com", "a", false),
        ("*", "localhost", "a", true),
        ("*", "r.example.com", "a", false),
        ("", "r", "a", false),
        ("https://", "r", "a", false),
    ] {
        let found = users(&auths(&json!({ key: named("u") })), host, repository);
        assert_eq!(!found.is_empty(), expected, "{key} for {host}/{repository}");
    }
}

#[test]
fn candidates_have_the_order_of_the_kubelet() {
    let mut keychain = auths(&json!({
        "*.example.com": named("any"),
        "r.example.com": named("host"),
        "r.example.com/team": named("team"),
        "r.example.com/team/app": named("app"),
        "other.example.com": named("other"),
    }));
    assert_eq!(
        users(&keychain, "r.example.com", "team/app"),
        ["app", "team", "host", "any"]
    );
    assert_eq!(users(&keychain, "r.example.com", "x"), ["host", "any"]);
    assert_eq!(users(&keychain, "new.example.com", "x"), ["any"]);
    // Credentials of one key keep their order, without duplicates.
    keychain.extend(auths(&json!({ "r.example.com": named("second") })));
    keychain.extend(auths(&json!({ "r.example.com": named("host") })));
    assert_eq!(users(&keychain, "r.example.com", "x"), ["host", "second", "any"]);
    for number in 0..100 {
        keychain.extend(auths(&json!({ "r.example.com": named(&number.to_string()) })));
    }
    assert_eq!(users(&keychain, "r.example.com", "x").len(), MAX_CANDIDATES);
    let twice = auths(&json!({ "https://r": named("decorated"), "r": named("plain") }));
    assert_eq!(users(&twice, "r", "x"), ["plain", "decorated"]);
}

#[test]
fn entries_are_parsed_as_by_docker_and_the_kubelet() {
    let both = |username: &str, password: &str| Some((username.to_owned(), password.to_owned()));
    for (entry, expected) in [
        (json!({ "auth": "dTpw" }), both("u", "p")),
        (json!({ "auth": "dTpw\n" }), both("u", "p")),
        (json!({ "auth": "dT\r\npw \t" }), both("u", "p")),
        (json!({ "auth": "dTpwdw==" }), both("u", "pw")),
        (json!({ "auth": "dTpwdw" }), both("u", "pw")),
        // `u:???>` in both alphabets.
        (json!({ "auth": "dTo/Pz8+" }), both("u", "???>")),
        (json!({ "auth": "dTo_Pz8-" }), both("u", "???>")),
        (json!({ "auth": "dTpwOnE6cg==" }), both("u", "p:q:r")),
        // `u:p` with a line break after it, and with zeros.
        (json!({ "auth": "dTpwCg==" }), both("u", "p")),
        (json!({ "auth": "dTpwAAA=" }), both("u", "p")),
        (
            json!({ "auth": "dTpw", "username": "", "password": "" }),
            both("u", "p"),
        ),
        (
            json!({ "auth": "dTpw", "username": "other", "password": "x" }),
            both("u", "p"),
        ),
        (json!({ "auth": "", "username": "v", "password": "q" }), both("v", "q")),
        (
            json!({ "auth": null, "username": "v", "password": "q" }),
            both("v", "q"),
        ),
        (json!({ "Auth": "dTpw", "email": 5 }), both("u", "p")),
        (json!({ "username": "v" }), both("v", "")),
        (json!({ "username": null, "password": null }), None),
        (json!({ "email": "a@b" }), None),
        (json!({}), None),
        (json!(null), None),
    ] {
        assert_eq!(pair(&entry), expected, "{entry}");
    }
}

#[test]
fn tokens_are_distinguished_from_passwords() {
    let found = |entry: Value| auths(&json!({ "r": entry })).find("r", "x").unwrap();
    let token = |found: &Credentials| {
        found
            .identity_token
            .as_ref()
            .map(|token| token.expose_secret().to_owned())
    };
    let beside = found(json!({ "auth": "PHRva2VuPjo=", "identitytoken": "refresh" }));
    assert_eq!(
        (beside.username.as_str(), token(&beside).as_deref()),
        ("", Some("refresh"))
    );
    let beside = found(json!({ "auth": "dTpw", "identitytoken": "refresh" }));
    assert_eq!(
        (beside.username.as_str(), token(&beside).as_deref()),
        ("u", Some("refresh"))
    );
    let named = found(json!({ "username": "<token>", "password": "refresh" }));
    assert_eq!(token(&named).as_deref(), Some("refresh"));
    assert_eq!(named.password.expose_secret(), "");
    let given = found(json!({ "registrytoken": "access" }));
    assert_eq!(given.registry_token.unwrap().expose_secret(), "access");
    assert_eq!(token(&found(json!({ "auth": "dTpw", "identitytoken": "" }))), None);
}

#[test]
fn empty_files_null_and_byte_order_marks_are_accepted() {
    for empty in [
        &b""[..],
        b" \n",
        b"null",
        b"{}",
        br#"{"auths":null}"#,
        br#"{"auths":{}}"#,
        br#"{"auths":{"r":null},"credHelpers":null,"credsStore":null}"#,
        br#"{"credsStore":"","HttpHeaders":{"a":1}}"#,
    ] {
        let keychain = Keychain::parse(empty).unwrap();
        assert!(keychain.find("r", "x").is_none());
        assert_eq!(keychain.helper("r", "x"), None);
    }
    let marked = "\u{feff}{\"auths\":{\"r\":{\"auth\":\"dTpw\"}}}";
    assert!(Keychain::parse(marked.as_bytes()).unwrap().find("r", "x").is_some());
    // The last of two equal keys counts, as in Go.
    let twice = br#"{"auths":{"r":{"auth":"eDp5"},"r":{"auth":"eDp5","auth":"dTpw"}}}"#;
    assert_eq!(users(&Keychain::parse(twice).unwrap(), "r", "x"), ["u"]);
    let legacy = Keychain::parse_legacy(br#"{"https://r":{"auth":"dTpw"}}"#).unwrap();
    assert_eq!(users(&legacy, "r", "x"), ["u"]);
}

#[test]
fn helpers_are_selected_by_registry() {
    let keychain = chain(&json!({
        "credsStore": "store",
        "credHelpers": { "https://index.docker.io/v1/": "hub", "gcr.io": "gcr", "none.example.com": "", "*.b.org": "any" },
    }));
    for (host, expected) in [
        ("docker.io", Some("hub")),
        ("gcr.io", Some("gcr")),
        ("eu.gcr.io", Some("store")),
        ("none.example.com", None),
        ("a.b.org", Some("any")),
    ] {
        assert_eq!(keychain.helper(host, "x"), expected, "{host}");
    }
    let answer = parse_helper_response(br#"{"ServerURL":"r","Username":"u","Secret":"p"}"#)
        .unwrap()
        .unwrap();
    assert_eq!((answer.username.as_str(), answer.password.expose_secret()), ("u", "p"));
    let answer = parse_helper_response(br#"{"Username":"<token>","Secret":"t"}"#)
        .unwrap()
        .unwrap();
    assert_eq!(answer.identity_token.unwrap().expose_secret(), "t");
    assert!(
        parse_helper_response(br#"{"Username":"","Secret":""}"#)
            .unwrap()
            .is_none()
    );
    assert!(parse_helper_response(b"").unwrap().is_none());
    // Some helpers print news after the answer, and some programs write a shorter file over a longer one.
    let answer = parse_helper_response(b"{\"Username\":\"u\",\"Secret\":\"p\"}\nAn update is available: 2.0\n");
    assert_eq!(answer.unwrap().unwrap().username, "u");
    let keychain = Keychain::parse(br#"{"auths":{"r":{"auth":"dTpw"}}}}}"#).unwrap();
    assert_eq!(keychain.find("r", "x").unwrap().username, "u");
    assert!(
        parse_helper_response(b"hunter2")
            .unwrap_err()
            .starts_with("not a docker credential")
    );
}

#[test]
fn errors_contain_no_secret() {
    for bad in [
        &br#"{"auths":{"r":{"auth":"hunter2!"}}}"#[..],
        br#"{"auths":{"r":{"auth":["hunter2"]}}}"#,
        br#"{"auths":{"r":{"auth":"aHVudGVyMg=="}}}"#,
        br#"{"auths":{"r":{"password":{"a":"hunter2"}}}}"#,
        br#"{"auths":{"r":"hunter2"}}"#,
        br#"{"auths":["hunter2"]}"#,
        br#"["hunter2"]"#,
        b"hunter2",
        br#"{"auths":{"r":{"auth":"hunter2"#,
        br#"{"credsStore":["hunter2"]}"#,
        br#"{"credHelpers":{"r":["hunter2"]}}"#,
    ] {
        let error = Keychain::parse(bad).unwrap_err();
        assert!(!error.contains("hunter2") && !error.contains("aHVudGVyMg"), "{error}");
    }
    let shown = format!(
        "{:?}",
        auths(&json!({ "r": { "username": "u", "password": "hunter2", "identitytoken": "hunter2" } }))
    );
    assert!(!shown.contains("hunter2"));
}

#[test]
fn credentials_for_pushing_are_found_by_host() {
    let pushing = |auths: &str, host: &str, prefix: &str| {
        let keychain = Keychain::parse(format!(r#"{{"auths":{{{auths}}}}}"#).as_bytes()).unwrap();
        keychain.for_pushing(host, prefix).map(|found| found.username)
    };
    let (one, other) = (
        r#""r:5000/team":{"username":"team","password":"p"}"#,
        r#""r:5000/other":{"username":"other","password":"p"}"#,
    );
    let both = format!("{one},{other}");
    assert_eq!(pushing(one, "r:5000", "").as_deref(), Some("team"));
    assert_eq!(pushing(one, "r:5001", ""), None);
    assert_eq!(pushing(&both, "r:5000", "other/x").as_deref(), Some("other"));
    assert_eq!(pushing(&both, "r:5000", ""), None, "the entries differ");
}
