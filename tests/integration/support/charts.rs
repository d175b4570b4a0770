//! Helm charts, packaged by Helm itself.

use std::path::{Path, PathBuf};

use super::process::run;
use super::program;

fn helm(arguments: &[&str]) -> String {
    run(program("JACKAL_BIN_HELM"), arguments)
}

/// The archive of a chart in `folder` that runs `image`; `note` distinguishes two archives of the same version.
pub fn package(folder: &Path, name: &str, version: &str, image: &str, note: &str) -> PathBuf {
    let chart = folder.join(format!("{name}-source"));
    std::fs::create_dir_all(chart.join("templates")).unwrap();
    let (repository, tag) = image.rsplit_once(':').unwrap();
    for (path, text) in [
        (
            "Chart.yaml",
            format!("apiVersion: v2\nname: {name}\nversion: {version}\ndescription: {note}\n"),
        ),
        (
            "values.yaml",
            format!("image: {{repository: '{repository}', tag: '{tag}'}}\nreplicas: 1\n"),
        ),
        (
            "templates/pod.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: {{ .Release.Name }}}\nspec:\n  containers:\n  - name: a\n    image: {{ .Values.image.repository }}:{{ .Values.image.tag }}\n".to_owned(),
        ),
    ] {
        std::fs::write(chart.join(path), text).unwrap();
    }
    let (chart, to) = (chart.to_str().unwrap(), folder.to_str().unwrap());
    helm(&["package", chart, "--destination", to]);
    folder.join(format!("{name}-{version}.tgz"))
}

/// Pushes an archive to `charts/` of the registry `host`.
pub fn push(archive: &Path, host: &str) {
    let to = format!("oci://{host}/charts");
    helm(&["push", archive.to_str().unwrap(), &to, "--plain-http"]);
}

/// The `index.yaml` of the chart repository `folder`.
pub fn index(folder: &Path) -> Vec<u8> {
    helm(&["repo", "index", folder.to_str().unwrap()]);
    std::fs::read(folder.join("index.yaml")).unwrap()
}
