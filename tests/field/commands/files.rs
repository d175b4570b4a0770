//! Input files of `build`.

use super::{Workspace, empty, stderr};
use crate::field::{Case, check};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_accepted_as_editors_shells_and_clusters_write_them() {
    check(&[
        Case {
            report: "kubernetes/kubernetes#39007",
            input: "a file written by PowerShell, in UTF-16 with a byte order mark",
            expected: "it is built",
            run: || {
                Box::pin(async {
                    let units = empty("shop");
                    let bytes: Vec<u8> = units.encode_utf16().flat_map(u16::to_le_bytes).collect();
                    assert_eq!(
                        Workspace::with([&[0xff, 0xfe][..], &bytes].concat()).build_shop()["package"],
                        "shop"
                    );
                })
            },
        },
        Case {
            report: "YAML 1.2.2 section 5.2",
            input: "UTF-16 with the other byte order",
            expected: "it is built",
            run: || {
                Box::pin(async {
                    let bytes: Vec<u8> = empty("shop").encode_utf16().flat_map(u16::to_be_bytes).collect();
                    assert_eq!(
                        Workspace::with([&[0xfe, 0xff][..], &bytes].concat()).build_shop()["package"],
                        "shop"
                    );
                })
            },
        },
        Case {
            report: "Kubernetes API concepts, \"Collections\"",
            input: "kind: List, as printed by kubectl get -o yaml",
            expected: "its items are built",
            run: || {
                Box::pin(async {
                    let item = empty("shop").replace('\n', "\n  ");
                    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}", item.trim_end());
                    assert_eq!(Workspace::with(list).build_shop()["package"], "shop");
                })
            },
        },
        Case {
            report: "k0sproject/k0sctl#812",
            input: "two packages in one file, with an object of another kind",
            expected: "both are built, and the other object is named",
            run: || {
                Box::pin(async {
                    let text = format!(
                        "kind: Namespace\nmetadata: {{name: web}}\n---\n{}---\n{}",
                        empty("one"),
                        empty("two")
                    );
                    let folder = Workspace::with(text);
                    let report = folder.build_shop();
                    let objects = report["objects"].as_array().unwrap();
                    let packages: Vec<_> = objects.iter().map(|object| &object["package"]).collect();
                    assert_eq!(packages, ["one", "two"]);
                    assert_eq!(report["changed"], true);
                    let output = folder.run(&["build", "shop.yaml", "--to", "oci:out"]);
                    assert!(
                        stderr(&output).contains("shop.yaml:1: Namespace web is skipped"),
                        "{}",
                        stderr(&output)
                    );
                })
            },
        },
        Case {
            report: "kubectl reference, \"kubectl apply\"",
            input: "build -f - with the package on standard input",
            expected: "it is built",
            run: || {
                Box::pin(async {
                    let output =
                        Workspace::new().run_with(&["build", "-f", "-", "--to", "oci:out"], empty("shop").as_bytes());
                    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
                })
            },
        },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misspelt_input_is_reported_with_location_and_suggestion() {
    check(&[
        Case {
            report: "zarf-dev/zarf#2034",
            input: "`chart` instead of `charts`",
            expected: "path, line and the suggested field",
            run: || {
                Box::pin(async {
                    let text = empty("shop") + "    chart:\n    - {name: a}\n";
                    Workspace::with(text)
                        .refuses(&["shop.yaml:8: spec.components[0].chart: unknown field; did you mean charts?"]);
                })
            },
        },
        Case {
            report: "zarf-dev/zarf#1809",
            input: "a list instead of a string",
            expected: "path and line, and both types",
            run: || {
                Box::pin(async {
                    let text = empty("shop").replace("version: 1.4.0", "version: [1.4.0]");
                    Workspace::with(text).refuses(&["shop.yaml:5: spec.version: ", "found a list, expected a string"]);
                })
            },
        },
        Case {
            report: "zarf-dev/zarf#1667",
            input: "a misspelt field and a misspelt value at once",
            expected: "both are named",
            run: || {
                Box::pin(async {
                    let text = empty("shop")
                        + "    images:\n    - image: a\n      platfroms: [linux/amd64]\n      source: docker\n";
                    Workspace::with(text).refuses(&[
                        "shop.yaml:10: spec.components[0].images[0].platfroms",
                        "did you mean platforms?",
                        "shop.yaml:11: spec.components[0].images[0].source: docker",
                        "did you mean Docker?",
                    ]);
                })
            },
        },
        Case {
            report: "chainguard-dev/apko#637",
            input: "misspelt fields of metadata, and fields of spec outside it",
            expected: "each with its line, and the right location",
            run: || {
                Box::pin(async {
                    let text = empty("shop").replace("{name: shop}", "{nmae: shop, lables: {tier: web}}");
                    Workspace::with(text).refuses(&[
                        "shop.yaml:3: metadata.nmae: unknown field; did you mean name?",
                        "shop.yaml:3: metadata.lables: unknown field; did you mean labels?",
                        "shop.yaml:3: metadata.name is missing",
                    ]);
                    let text = empty("shop") + "suspend: true\n";
                    Workspace::with(text).refuses(&["shop.yaml:8: suspend: unknown field; suspend is a field of spec"]);
                    let text = empty("shop").replace("apiVersion", "apiversion");
                    Workspace::with(text)
                        .refuses(&["shop.yaml:1: apiversion: unknown field; did you mean apiVersion?"]);
                })
            },
        },
        Case {
            report: "influxdata/influx-cli#171",
            input: "durations without a unit, with an unknown unit, negative, and in ISO 8601",
            expected: "path and line, and the units",
            run: || {
                Box::pin(async {
                    for written in ["90", "'90'", "1y", "-1h", "PT1H", "1 h", "1H30M"] {
                        let text = empty("shop").replace("components", &format!("interval: {written}\n  components"));
                        Workspace::with(text)
                            .refuses(&["shop.yaml:6: spec.interval: ", "the units w, d, h, m, s and ms"]);
                    }
                    let text = empty("shop").replace("components", "interval: 99999999h\n  components");
                    Workspace::with(text).refuses(&["shop.yaml:6: spec.interval: ", "longer than ten years"]);
                })
            },
        },
        Case {
            report: "kubernetes-sigs/zeitgeist#1223",
            input: "values outside the limits of their fields",
            expected: "path, line and the limit",
            run: || {
                Box::pin(async {
                    for (lines, words) in [
                        (
                            "retention: {revisions: 0}",
                            "spec.retention.revisions: found the number 0; it must be at least 1",
                        ),
                        (
                            "architecture: AMD64",
                            "spec.architecture: found the string `AMD64`; it does not match ",
                        ),
                        ("serviceAccountName: ''", "spec.serviceAccountName: it is empty"),
                        ("registry: localhost:5000", "known fields: address, "),
                        (
                            "verify: [{images: ['a b'], publicKeys: []}]",
                            "spec.verify[0].images[0]: found the string `a b`; ",
                        ),
                        (
                            "compression: false",
                            "spec.compression: false is not one of None, Gzip, Zstd",
                        ),
                    ] {
                        let text = empty("shop").replace("components", &format!("{lines}\n  components"));
                        Workspace::with(text).refuses(&["shop.yaml:6: spec.", words]);
                    }
                })
            },
        },
        Case {
            report: "kubernetes API conventions, \"Types (Kinds)\"",
            input: "kind: jackalpackage",
            expected: "the suggested kind",
            run: || {
                Box::pin(async {
                    let text = empty("shop").replace("JackalPackage", "jackalpackage");
                    Workspace::with(text).refuses(&["shop.yaml:1: ", "did you mean JackalPackage?"]);
                })
            },
        },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_is_not_a_package_is_rejected_with_advice() {
    check(&[
        Case {
            report: "Zarf package schema, \"kind\"",
            input: "a zarf.yaml",
            expected: "the command that converts it",
            run: || {
                Box::pin(async {
                    let text = "kind: ZarfPackageConfig\nmetadata: {name: a}\ncomponents: []\n";
                    Workspace::with(text).refuses(&["`jackal-operator convert shop.yaml`"]);
                })
            },
        },
        Case {
            report: "kyverno/kyverno#16416",
            input: "a file with only separators and comments",
            expected: "that it is empty, and what it should contain",
            run: || {
                Box::pin(async {
                    Workspace::with("---\n# Source: template.yaml\n---\n")
                        .refuses(&["shop.yaml is empty", "JackalPackage"]);
                    Workspace::with("").refuses(&["shop.yaml is empty", "JackalPackage"]);
                })
            },
        },
        Case {
            report: "YAML 1.2.2 section 6.1",
            input: "indentation by tabs",
            expected: "that YAML does not allow tabs",
            run: || {
                Box::pin(async {
                    let text = empty("shop").replace("  version", "\tversion");
                    Workspace::with(text).refuses(&["is not YAML", "indent with spaces"]);
                })
            },
        },
        Case {
            report: "RFC 8878 section 3.1.1",
            input: "a compressed archive instead of YAML",
            expected: "that it is not text",
            run: || {
                Box::pin(async {
                    Workspace::with([0x28, 0xb5, 0x2f, 0xfd, 0, 1, 2]).refuses(&["shop.yaml is not text"]);
                })
            },
        },
        Case {
            report: "kubectl reference, \"kubectl create -f URL\"",
            input: "a URL, and a directory",
            expected: "how to pass them",
            run: || {
                Box::pin(async {
                    let folder = Workspace::new();
                    for (file, words) in [
                        (
                            "https://a.example/shop.yaml",
                            "curl -fsSL https://a.example/shop.yaml | jackal-operator build -",
                        ),
                        (".", "is a directory"),
                    ] {
                        let output = folder.run(&["build", file, "--to", "oci:out"]);
                        assert_eq!(output.status.code(), Some(2));
                        assert!(stderr(&output).contains(words), "{}", stderr(&output));
                    }
                })
            },
        },
    ])
    .await;
}
