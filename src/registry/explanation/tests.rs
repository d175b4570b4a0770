//! Error response bodies and the messages that are extracted from them.

use proptest::prelude::*;

use super::*;

fn text(body: &str) -> String {
    Explanation::parse(body.as_bytes()).text
}

#[test]
fn errors_of_all_known_formats_are_parsed() {
    for (body, expected) in [
        (r#"{"errors":[{"code":"DENIED","message":"no"}]}"#, "DENIED: no"),
        (r#"{"errors":[{"code":"A"},{"message":"b"}]}"#, "A, b"),
        // Artifactory.
        (
            r#"{"errors":[{"status":404,"message":"Could not find resource"}]}"#,
            "Could not find resource",
        ),
        (r#"{"errors":["quota","more"]}"#, "quota, more"),
        (r#"{"errors":{"code":"X","message":"y"}}"#, "X: y"),
        (r#"{"errors":[],"message":"said"}"#, "said"),
        (r#"{"errors":null,"message":"said"}"#, "said"),
        (r#"{"message":"said"}"#, "said"),
        (
            r#"{"Message":"said","__type":"ImageTagAlreadyExistsException"}"#,
            "ImageTagAlreadyExistsException: said",
        ),
        (r#"{"error":"said"}"#, "said"),
        (r#"{"error":{"code":"X","message":"y"}}"#, "X: y"),
        (r#"{"error":{"code":403,"message":"y"}}"#, "y"),
        (
            r#"{"error":"invalid_grant","error_description":"expired"}"#,
            "invalid_grant: expired",
        ),
        // Spring Boot.
        (
            r#"{"status":500,"error":"Internal Server Error","message":"disk"}"#,
            "Internal Server Error: disk",
        ),
        // RFC 9457.
        (
            r#"{"title":"Forbidden","status":403,"detail":"plan ended"}"#,
            "Forbidden: plan ended",
        ),
        (r#"{"detail":"said"}"#, "said"),
        (
            r#"{"details":"incorrect username or password"}"#,
            "incorrect username or password",
        ),
        (r#"[{"code":"X","message":"y"}]"#, "X: y"),
        (r#""said""#, "said"),
        ("said\nand more", "said and more"),
        (
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>",
            "AccessDenied: Access Denied",
        ),
        (
            "<html>\r\n<head><title>413 Request Entity Too Large</title></head><body>nginx</body></html>",
            "413 Request Entity Too Large",
        ),
        ("<html><h1>Not here</h1><code>x</code></html>", "Not here"),
        (
            "<html><body><h1>Bad &amp; gone</h1><p>x</p></body></html>",
            "Bad & gone",
        ),
        (
            "<!DOCTYPE html><style>b{}</style><p>The <b>disk</b> is full",
            "The disk is full",
        ),
    ] {
        assert_eq!(text(body), expected, "{body}");
    }
    for nothing in [
        "",
        "  ",
        "{}",
        "[]",
        "null",
        "7",
        r#"{"errors":[{}]}"#,
        r#"{"errors":[{"code":"#,
        r#"{"errors":[{"code":7,"message":"#,
        r#"{"request":{"id":"a","time":"b"}}"#,
        "\u{0}\u{1}",
    ] {
        assert_eq!(text(nothing), "", "{nothing}");
    }
}

#[test]
fn truncated_and_compressed_bodies_are_parsed() {
    for (body, expected) in [
        (
            r#"{"errors":[{"code":"DENIED","message":"no \"way\", by far"#,
            "DENIED: no \"way\", by far",
        ),
        (r#"{"message":"cut in an escape \u00"#, "cut in an escape"),
        (r#"{"message":"cut after a stroke \"#, "cut after a stroke"),
        ("{\"message\":\"said\"}\n{\"message\":\"more\"}", "said"),
        ("[ERROR] disk", "[ERROR] disk"),
        ("404 page not found", "404 page not found"),
        (r#"{"errors":{"tag":["is protected"]}}"#, "is protected"),
        (
            r#"{"status":"error","data":{"why":"archived"}}"#,
            "why archived, status error",
        ),
    ] {
        assert_eq!(text(body), expected, "{body}");
    }
    let latin = Explanation::parse(b"acc\xe8s refus\xe9 au projet").text;
    assert_eq!(latin, "acc\u{fffd}s refus\u{fffd} au projet");
    assert_eq!(Explanation::parse(&[0xff, 0xfe, b'a', 0x80]).text, "");
    let compressed = |content: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, content).unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(Explanation::parse(&compressed(br#"{"message":"said"}"#)).text, "said");
    let much = compressed(&vec![b' '; 1 << 22]);
    assert_eq!(decompress(&much, 1000).0.len(), 1000);
    assert!(!decompress(&much, 1000).1);
    assert!(!decompress(&compressed(b"said")[..12], 1000).1);
}

#[test]
fn storage_quotas_are_distinguished_from_rate_limits() {
    let cause = |body: &str| Explanation::parse(body.as_bytes()).cause();
    for full in [
        "XMinioStorageFull: minimum free drive threshold",
        "write: ENOSPC",
        "quota reached",
        "disk quota exceeded",
    ] {
        assert_eq!(cause(full), Some(ErrorCause::NoSpace), "{full}");
    }
    assert_eq!(
        cause("Repository does not allow updating assets: a"),
        Some(ErrorCause::Immutable)
    );
    for other in [
        "Quota exceeded for quota metric 'Requests'",
        "exceeded 100 requests per minute",
        "no way",
    ] {
        assert_eq!(cause(other), None, "{other}");
    }
}

#[test]
fn details_that_differ_per_request_are_left_out() {
    let detailed = |detail: &str| {
        text(&format!(
            r#"{{"errors":[{{"code":"C","message":"m","detail":{detail}}}]}}"#
        ))
    };
    for (detail, expected) in [
        (r#""more""#, "C: m: more"),
        (r#""m""#, "C: m"),
        ("null", "C: m"),
        ("7", "C: m"),
        (r#"{"at":1,"requestId":"a","time":"b"}"#, "C: m"),
        (
            r#"[{"Type":"repository","Class":"","Name":"a/b","Action":"push"}]"#,
            "C: m: Action push, Name a/b, Type repository",
        ),
        (
            r#"{"DriverName":"filesystem","Enclosed":{"Op":"write","Path":"/x/_uploads/5f3a9e0c-6f0b-4e0c-8a55-1a2b3c4d5e6f/data","Err":28}}"#,
            "C: m: DriverName filesystem, no space left on device, Op write, Path /x/_uploads/…/data",
        ),
    ] {
        assert_eq!(detailed(detail), expected, "{detail}");
    }
}

#[test]
fn times_and_request_ids_are_left_out() {
    for (body, expected) in [
        ("failed at 2026-11-27T17:34:31.123Z, sorry", "failed at …, sorry"),
        ("[2026-11-27 17:34:31 +0000] failed", "[…] failed"),
        ("id 5f3a9e0c-6f0b-4e0c-8a55-1a2b3c4d5e6f", "id …"),
        ("trace 4bf92f3577b34da6a3ce929d0e0e4736", "trace …"),
        ("dial tcp 10.0.0.7:54321: refused", "dial tcp 10.0.0.7: refused"),
        (
            "blob sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 is unknown",
            "blob sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 is unknown",
        ),
        ("10 GiB of 10 GiB are used", "10 GiB of 10 GiB are used"),
    ] {
        assert_eq!(text(body), expected, "{body}");
    }
}

#[test]
fn terminal_control_characters_are_removed() {
    assert_eq!(text("\u{1b}[31mred\u{1b}[0m \u{1b}]0;title\u{7}end"), "red end");
    assert_eq!(text("a\u{202e}b\u{200b}c\u{2066}d\re\u{9b}f"), "abcd e f");
    let long = text(&"é".repeat(2000));
    assert_eq!(long.chars().count(), MESSAGE_LIMIT + 1);
    let coded = text(r#"{"errors":[{"code":"\u001b[2J","message":"\u202egpj.exe"}]}"#);
    assert!(!coded.chars().any(|c| c.is_control() || c == '\u{202e}'), "{coded}");
}

proptest! {
    #[test]
    fn never_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Explanation::parse(&body);
    }

    #[test]
    fn markup_never_panics(body in "<[<>/codemsagtitleTITLEéİ&;! -]{0,80}") {
        let _ = Explanation::parse(body.as_bytes());
    }
}
