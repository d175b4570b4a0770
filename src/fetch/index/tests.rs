use super::*;

const INDEX: &str = "
apiVersion: v1
generated: 2026-01-01T00:00:00Z
entries:
  podinfo:
  - {version: 6.5.0, urls: ['podinfo-6.5.0.tgz'], digest: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}
  - {version: v6.4.0, urls: ['https://h/podinfo-6.4.0.tgz', 'x'], digest: 'sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb'}
  - {version: 6.3.0, urls: ['a.tgz'], digest: ''}
  - {version: 6.2.0, urls: []}
  - {version: 6.1.0, urls: [x], digest: zz}
";

#[test]
fn a_version_is_found_with_its_digest() {
    let found = find(INDEX, "podinfo", "6.5.0").unwrap();
    assert_eq!(found.url, "podinfo-6.5.0.tgz");
    assert_eq!(found.digest.unwrap().hex(), "a".repeat(64));
    let found = find(INDEX, "podinfo", "6.4.0").unwrap();
    assert_eq!(
        (found.url.as_str(), found.digest.unwrap().hex()),
        ("https://h/podinfo-6.4.0.tgz", "b".repeat(64).as_str())
    );
    assert_eq!(find(INDEX, "podinfo", "6.3.0").unwrap().digest, None);
}

#[test]
fn a_missing_chart_or_version_is_reported() {
    assert_eq!(find(INDEX, "other", "6.5.0"), Err(Missing::Chart));
    assert_eq!(find(INDEX, "podinfo", "6.2.0"), Err(Missing::Address));
    let Err(Missing::Version(known)) = find(INDEX, "podinfo", "7.0.0") else {
        panic!("7.0.0 was found")
    };
    assert_eq!(known, ["6.5.0", "v6.4.0", "6.3.0", "6.2.0", "6.1.0"]);
    assert!(matches!(find(INDEX, "podinfo", "6.1.0"), Err(Missing::Index(why)) if why.contains("digest")));
    for text in ["<html>nothing here</html>", "a: [", "[]"] {
        assert!(matches!(find(text, "podinfo", "1"), Err(Missing::Index(_))), "{text}");
    }
    assert_eq!(find("{}", "podinfo", "1"), Err(Missing::Chart));
}

#[test]
fn broken_entries_do_not_hide_good_ones() {
    let index = "entries:\n  a:\n  - {version: ~, urls: [x]}\n  - {version: 1.0.0, urls: ~}\n  - {version: 1.0.0, urls: [good.tgz], digest: ~}\n  - urls: [y]\n";
    assert_eq!(find(index, "a", "1.0.0").unwrap().url, "good.tgz");
    assert_eq!(
        find(index, "a", "2.0.0"),
        Err(Missing::Version(vec!["1.0.0".to_owned(); 2]))
    );
    // As `helm repo index --json` writes it, and a program that indents with tabs.
    let json = "{\n\t\"apiVersion\": \"v1\",\n\t\"entries\": {\"a\": [null, {\"version\": \"1.0.0+b\", \"urls\": [\"a-1.0.0+b.tgz\"]}], \"b\": null}\n}";
    assert_eq!(find(json, "a", "1.0.0+b").unwrap().url, "a-1.0.0+b.tgz");
}

#[test]
fn an_index_of_many_charts_is_read() {
    let mut text = String::from("apiVersion: v1\nentries:\n");
    for chart in 0..2_000 {
        text.push_str(&format!("  c{chart}:\n"));
        for version in 0..50 {
            text.push_str(&format!(
                "  - {{version: {version}.0.0, urls: [c{chart}-{version}.tgz], name: c{chart}}}\n"
            ));
        }
    }
    assert_eq!(find(&text, "c1999", "49.0.0").unwrap().url, "c1999-49.tgz");
}

#[test]
fn a_very_long_address_is_refused() {
    let index = |length: usize| {
        let url = "x".repeat(length);
        find(
            &format!("entries: {{a: [{{version: 1.0.0, urls: [{url}]}}]}}"),
            "a",
            "1.0.0",
        )
    };
    assert!(index(ADDRESS).is_ok());
    assert!(matches!(index(ADDRESS + 1), Err(Missing::Index(why)) if why.contains("4096")));
}
