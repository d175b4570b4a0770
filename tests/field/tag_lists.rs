//! Paginated tag listings, and the headers that lead from one page to the next.

use axum::body::Body;
use axum::response::Response;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};

use super::workspace::{Workspace, all_output, package};
use super::{Case, check};
use crate::support::scripted::{RecordedRequest, ScriptedServer, reply};

/// The newest tag, on the last page.
const NEWEST: &str = "1.299.0";
/// A tag on the previous pages.
const OLDER: &str = "1.188.0";

/// A page of a listing with these `Link` headers.
fn page(tags: &[&str], links: &[&str]) -> Response<Body> {
    let tags: Vec<String> = tags.iter().map(|tag| format!("{tag:?}")).collect();
    raw(&format!(r#"{{"name":"team/app","tags":[{}]}}"#, tags.join(",")), links)
}

fn raw(body: &str, links: &[&str]) -> Response<Body> {
    let links: Vec<(&str, &str)> = links.iter().map(|link| ("link", *link)).collect();
    reply(
        200,
        &[&[("content-type", "application/json")], &links[..]].concat(),
        body.to_owned(),
    )
}

/// The value of `key` in the query of a request.
fn query_value<'s>(request: &'s RecordedRequest, key: &str) -> &'s str {
    let query = request.path.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .into_iter()
        .find(|(known, _)| *known == key)
        .map_or("", |(_, value)| value)
}

/// A registry whose repository `team/app` lists its tags by `pages`, and has one image under all of them.
async fn registry(pages: fn(&RecordedRequest) -> Response<Body>) -> ScriptedServer {
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let described = |kind: &str, content: &[u8]| Descriptor::new(kind, Digest::of(content), content.len() as u64);
    let manifest = Manifest::new(
        described(media_type::OCI_CONFIG, config),
        vec![described(media_type::OCI_LAYER, b"layer")],
    );
    let document = Document::of_manifest(manifest).unwrap();
    ScriptedServer::start(move |request| {
        let (path, _) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if path == "/v2/team/app/tags/list" {
            return pages(request);
        }
        let digest = document.digest().as_str();
        match path.rsplit_once("/manifests/") {
            Some((_, tag)) if tag.starts_with("1.") || tag == digest => reply(
                200,
                &[
                    ("content-type", media_type::OCI_MANIFEST),
                    ("docker-content-digest", digest),
                ],
                document.raw.clone(),
            ),
            _ => reply(404, &[], ""),
        }
    })
    .await
}

fn following(host: &str) -> String {
    let policy = r"{pattern: '^1\.(\d+)\.0$', order: Numerical}";
    package(
        "",
        &[&format!("images: [{{image: '{host}/team/app', policy: {policy}}}]")],
    )
}

/// The newest of all tags is selected, on any page.
fn newest_is_selected(pages: fn(&RecordedRequest) -> Response<Body>) -> BoxFuture<'static, ()> {
    async move {
        let registry = registry(pages).await;
        let report =
            Workspace::new().text_report(&following(&registry.host), "oci:out", &[&registry.host], &["--dry-run"]);
        assert_eq!(
            report["images"][0]["image"],
            format!("{}/team/app:{NEWEST}", registry.host)
        );
    }
    .boxed()
}

/// No tag is selected, and `build` says why.
fn selection_fails(
    pages: fn(&RecordedRequest) -> Response<Body>,
    why: &'static [&'static str],
) -> BoxFuture<'static, ()> {
    async move {
        let registry = registry(pages).await;
        let output =
            Workspace::new().build_text(&following(&registry.host), "oci:out", &[&registry.host], &["--dry-run"]);
        assert!(!output.status.success());
        for part in why {
            assert!(all_output(&output).contains(part), "{}", all_output(&output));
        }
    }
    .boxed()
}

/// Two pages, the first with these headers.
macro_rules! first_page {
    ($($link:expr),*) => {
        || newest_is_selected(|request| match query_value(request, "last") {
            "" => page(&["1.0.0", OLDER], &[$($link),*]),
            "p2" => page(&[NEWEST], &[]),
            other => panic!("the page {other} is asked for"),
        })
    };
}

/// 4,000 tags, 50 a page: the tag `1.0.N` is the Nth, and [`NEWEST`] the last.
fn fifty_at_once(request: &RecordedRequest) -> Response<Body> {
    let begin: usize = query_value(request, "next_page").parse().unwrap_or_default();
    let tags: Vec<String> = (begin..begin + 50)
        .map(|number| match number {
            3_999 => NEWEST.to_owned(),
            number => format!("1.0.{number}"),
        })
        .collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let next = format!("/v2/team/app/tags/list?next_page={}&n=50; rel=\"next\"", begin + 50);
    let links = [next.as_str()];
    page(&tags, if begin + 50 < 4_000 { &links } else { &[] })
}

/// 2,500 tags in pages of the requested size, after the one that `last` names, without a link to the next page.
fn without_links(request: &RecordedRequest) -> Response<Body> {
    let mut tags: Vec<String> = (0..2_499).map(|number| format!("1.0.{number:04}")).collect();
    tags.push(NEWEST.to_owned());
    let count: usize = query_value(request, "n")
        .parse()
        .expect("a number of tags is asked for");
    let last = query_value(request, "last");
    let page: Vec<&str> = tags
        .iter()
        .map(String::as_str)
        .filter(|tag| *tag > last)
        .take(count)
        .collect();
    self::page(&page, &[])
}

/// The same without support of `last`: the first thousand, of which the last is [`NEWEST`], or an error.
fn without_last(request: &RecordedRequest, answer: fn(Vec<&str>) -> Response<Body>) -> Response<Body> {
    let mut tags: Vec<String> = (0..999).map(|number| format!("1.0.{number:04}")).collect();
    tags.push(NEWEST.to_owned());
    let page: Vec<&str> = tags.iter().map(String::as_str).collect();
    match query_value(request, "last") {
        "" => self::page(&page, &[]),
        _ => answer(page),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tag_of_a_paginated_listing_is_found() {
    check(&[
        Case {
            report: "RFC 8288 section 3.5",
            input: r#"Link: <...2>; rel="next", <...9>; rel="last""#,
            expected: "the next page is read, not the last",
            run: first_page!(r#"</v2/team/app/tags/list?last=p2>; rel="next", </v2/team/app/tags/list?last=p9>; rel="last""#),
        },
        Case {
            report: "RFC 9110 section 5.3",
            input: "two Link headers, the second of which leads to the next page",
            expected: "both are read",
            run: first_page!(
                r#"</v2/team/app/tags/list?last=p0>; rel="first""#,
                r#"</v2/team/app/tags/list?last=p2>; rel="next""#
            ),
        },
        Case {
            report: "RFC 8288 section 3.3",
            input: "Rel=Next",
            expected: "names and relations are case-insensitive",
            run: first_page!("</v2/team/app/tags/list?last=p2>; Rel=Next"),
        },
        Case {
            report: "RFC 8288 section 3.3",
            input: r#"rel="prev", and after it rel="next last""#,
            expected: "the link with `next` among its relations is followed",
            run: first_page!(
                r#"</v2/team/app/tags/list?last=p0>; rel="prev", </v2/team/app/tags/list?last=p2>; title="a, b; rel=c" ; rel="next last""#
            ),
        },
        Case {
            report: "RFC 8288 section 3",
            input: "white space everywhere, and other parameters first",
            expected: "the next page is read",
            run: first_page!(r#"  < /v2/team/app/tags/list?last=p2 > ; type = "application/json" ; rel = "next" ;"#),
        },
        Case {
            report: "heroku/docker-registry-client#11",
            input: "50 tags per page with 4,000 tags, and URLs without angle brackets",
            expected: "all pages are read",
            run: || newest_is_selected(fifty_at_once),
        },
        Case {
            report: "chainguard-dev/registry-redirect#9",
            input: "a Link with the path prefix that the registry has behind the proxy",
            expected: "the next page is requested from the same address as the first",
            run: first_page!(r#"</docker/api/v2/team/app/tags/list?last=p2>; rel="next""#),
        },
        Case {
            report: "RFC 8288 section 3.1",
            input: "an absolute Link with the name that the registry has behind the proxy",
            expected: "the next page is requested from the same address as the first",
            run: first_page!(r#"<http://registry.invalid:8081/v2/team/app/tags/list?last=p2>; rel="next""#),
        },
        Case {
            report: "opencontainers/distribution-spec#470",
            input: "a Link without rel, which other clients follow",
            expected: "the next page is read",
            run: first_page!("</v2/team/app/tags/list?last=p2>"),
        },
        Case {
            report: "pulp/pulp_container#220",
            input: "100 pages, most of them without tags or with null, and an empty one at the end",
            expected: "an empty page does not end the listing, and the number of pages is not limited",
            run: || {
                newest_is_selected(|request| {
                    let number: usize = query_value(request, "last").parse().unwrap_or_default();
                    let link = format!("<?last={}>; rel=next", number + 1);
                    match number {
                        50 => page(&[OLDER], &[&link]),
                        99 => page(&[NEWEST, OLDER], &[&link]),
                        100 => page(&[], &[]),
                        _ => raw(r#"{"name":"team/app","tags":null}"#, &[&link]),
                    }
                })
            },
        },
        Case {
            report: "opencontainers/distribution-spec#496",
            input: "a registry that ignores n and returns 20,000 long tags at once",
            expected: "all are read",
            run: || {
                newest_is_selected(|_| {
                    let mut tags: Vec<String> = (0..20_000).map(|each| format!("1.0.{each}-{}", "a".repeat(80))).collect();
                    tags.push(NEWEST.to_owned());
                    page(&tags.iter().map(String::as_str).collect::<Vec<_>>(), &[])
                })
            },
        },
        Case {
            report: "regclient/regclient#274",
            input: "pages of the requested number of tags, without any Link",
            expected: "the tags after the last one are requested, until there are none",
            run: || newest_is_selected(without_links),
        },
        Case {
            report: "regclient/regclient#274",
            input: "the requested number of tags, and a registry that does not support last",
            expected: "these are all tags",
            run: || {
                async {
                    newest_is_selected(|request| without_last(request, |tags| page(&tags, &[]))).await;
                    newest_is_selected(|request| without_last(request, |_| reply(400, &[], "unknown parameter"))).await;
                    newest_is_selected(|request| without_last(request, |_| reply(404, &[], ""))).await;
                    newest_is_selected(|request| without_last(request, |_| page(&[], &["<>; rel=next"]))).await;
                }
                .boxed()
            },
        },
        Case {
            report: "pulp/pulp_container#220",
            input: "a Link without a target on the last page",
            expected: "it is ignored",
            run: || {
                newest_is_selected(|request| match query_value(request, "last") {
                    "" => page(&[OLDER], &[r#"</v2/team/app/tags/list?last=2>; rel="next""#]),
                    _ => page(&[NEWEST], &[r#"<>; rel="next""#]),
                })
            },
        },
        Case {
            report: "RFC 8288 section 3.2",
            input: "an anchor without the query, and one with the name that the registry has behind the proxy",
            expected: "the next page is read",
            run: || {
                async {
                    first_page!(r#"</v2/team/app/tags/list?last=p2>; rel="next"; anchor="/v2/team/app/tags/list""#)().await;
                    first_page!(
                        r#"<?last=p2>; rel="next"; anchor="http://registry.invalid:8081/docker/v2/team/app/tags/list?n=1000""#
                    )()
                    .await;
                    first_page!(
                        r#"<?last=p9>; rel="next"; anchor="/v2/team/other/tags/list", <?last=p2>; rel="next""#
                    )()
                    .await;
                }
                .boxed()
            },
        },
        Case {
            report: "RFC 8187 section 3.2",
            input: "rel*=UTF-8''prev before rel*=UTF-8''next",
            expected: "the next page is read",
            run: first_page!("<?last=p0>; rel*=UTF-8''prev, <?last=p2>; rel*=UTF-8''next"),
        },
        Case {
            report: "distribution/distribution#3143",
            input: "a page with only null",
            expected: "it does not end the listing",
            run: || {
                newest_is_selected(|request| match query_value(request, "last") {
                    "" => raw(r#"{"name":"team/app","tags":["1.0.0", null]}"#, &["<?last=2>; rel=next"]),
                    "2" => raw(r#"{"name":"team/app","tags":[null, null]}"#, &["<?last=3>; rel=next"]),
                    _ => raw(r#"{"name":null,"tags":["1.299.0"],"next":null}"#, &[]),
                })
            },
        },
        Case {
            report: "gadievron/raptor#495",
            input: "a Link that leads back to the first page",
            expected: "an error that says so",
            run: || {
                selection_fails(
                    |request| match query_value(request, "last") {
                        "2" => page(&[OLDER], &["</v2/team/app/tags/list?n=1000>; rel=next"]),
                        _ => page(&["1.0.0"], &["</v2/team/app/tags/list?last=2>; rel=next"]),
                    },
                    &["cannot read", "/team/app", "the listing does not end"],
                )
            },
        },
        Case {
            report: "gadievron/raptor#495",
            input: "another Link on each page, and the same tags on all of them",
            expected: "an error that says so",
            run: || {
                selection_fails(
                    |request| page(&["1.0.0"], &[&format!("<?last={}>; rel=next", request.before)]),
                    &["cannot read", "/team/app", "the listing does not end"],
                )
            },
        },
        Case {
            report: "distribution/distribution#4324",
            input: "404 NAME_UNKNOWN",
            expected: "the repository is missing, or has no tags",
            run: || {
                selection_fails(
                    |_| reply(404, &[], r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#),
                    &["/team/app", "does not exist or has no tags", "NAME_UNKNOWN"],
                )
            },
        },
    ])
    .await;
}
