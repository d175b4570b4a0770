//! Modules use only the modules above them in the table of docs/architecture.md.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The modules of the table in `page`, lowest first.
fn table(page: &str) -> Vec<String> {
    page.lines()
        .skip_while(|line| *line != "## Modules")
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect()
}

/// The top-level modules that the code of a file uses, by `crate::` and by `super::` where that leads to the root. `depth` is the
/// number of modules that the file lies in: 1 for `src/a.rs` and `src/a/mod.rs`.
fn uses(code: TokenStream, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    collect(code, depth, &mut found);
    found
}

fn collect(code: TokenStream, depth: usize, found: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = code.into_iter().collect();
    let ident = |at: usize| match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    };
    let separated = |at: usize| {
        let colon = |at| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
        colon(at) && colon(at + 1)
    };
    let mut at = 0;
    while at < tokens.len() {
        match (&tokens[at], ident(at).as_deref()) {
            (_, Some("mod")) if matches!(tokens.get(at + 2), Some(TokenTree::Group(_))) => {
                if let Some(TokenTree::Group(group)) = tokens.get(at + 2) {
                    collect(group.stream(), depth + 1, found);
                }
                at += 2;
            }
            // `crate::`, and as many `super::` as lead to the root of the crate.
            (_, Some("crate" | "super")) if separated(at + 1) => {
                let mut supers = 0;
                while ident(at).as_deref() == Some("super") && separated(at + 1) {
                    supers += 1;
                    at += 3;
                }
                let at_root = if supers == 0 {
                    at += 3;
                    true
                } else {
                    supers == depth
                };
                if at_root {
                    first_segments(&tokens[at..], found);
                }
                continue;
            }
            (TokenTree::Group(group), _) => collect(group.stream(), depth, found),
            _ => {}
        }
        at += 1;
    }
}

/// The first segments of the path, or of the group of paths, that `tokens` begin with.
fn first_segments(tokens: &[TokenTree], found: &mut Vec<String>) {
    match tokens.first() {
        Some(TokenTree::Ident(ident)) => found.push(ident.to_string()),
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
            for path in tokens.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')) {
                first_segments(path, found);
            }
        }
        _ => {}
    }
}

/// Every Rust file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The names of the modules that a file below `src` lies in, the top-level one first.
fn module_path(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

#[test]
fn modules_use_only_modules_above_them_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let layers = table(&fs::read_to_string(root.join("docs/architecture.md")).unwrap());
    let layer = |module: &str| layers.iter().position(|other| other == module);
    let src = root.join("src");
    let mut wrong = Vec::new();
    for file in files(&src) {
        let below = file.strip_prefix(&src).unwrap();
        let path = module_path(below);
        if path == ["lib"] || path == ["main"] {
            continue;
        }
        let Some(own) = layer(&path[0]) else {
            wrong.push(format!(
                "src/{}: the table has no row for the module {}",
                below.display(),
                path[0]
            ));
            continue;
        };
        let code: TokenStream = fs::read_to_string(&file).unwrap().parse().unwrap();
        for module in uses(code, path.len()) {
            if layer(&module).is_some_and(|used| used > own) {
                wrong.push(format!(
                    "src/{}: {} uses {module}, which is below it in the table",
                    below.display(),
                    path[0]
                ));
            }
        }
    }
    for module in &layers {
        if !src.join(module).is_dir() && !src.join(format!("{module}.rs")).is_file() {
            wrong.push(format!(
                "docs/architecture.md: src has no module {module}, which the table lists"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "move the code, or change the table of docs/architecture.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_form_of_a_use_is_found() {
    let code = "
        use crate::a::{B, C};
        use crate::{b, c::D, e::{f, g}};
        use super::sibling;
        use super::super::d;
        fn f() { let x = vec![crate::h::I]; }
        mod tests { use super::super::sibling; use super::super::super::i; }
        pub(crate) fn g() {}
    ";
    assert_eq!(uses(code.parse().unwrap(), 2), ["a", "b", "c", "e", "d", "h", "i"]);
}
