//! Input of the commands, and their output.

mod builds;
mod files;
mod flags;
mod output;

use serde_json::Value;

use super::workspace::{Workspace, package_of, stderr, stdout};

impl Workspace {
    /// Builds `shop.yaml` successfully into the layout `out`.
    fn build_shop(&self) -> Value {
        let output = self.run(&["build", "shop.yaml", "--to", "oci:out", "--output", "json"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Expects that `build` rejects `shop.yaml` with all of `words`.
    fn refuses(&self, words: &[&str]) {
        let output = self.run(&["build", "shop.yaml", "--to", "oci:out"]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        for words in words {
            assert!(stderr(&output).contains(words), "`{words}`: {}", stderr(&output));
        }
        assert!(!self.path("out").exists());
    }
}

/// A package without images, which is built without a registry.
fn empty(name: &str) -> String {
    format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: {name}}}\n\
         spec:\n  version: 1.4.0\n  components:\n  - name: web\n"
    )
}
