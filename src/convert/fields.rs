//! The fields of a definition, taken one by one.

use serde_json::{Map, Value};

use super::Notes;

/// What the commands put in for the name of the component, while a package is created.
const COMPONENT: &str = "###ZARF_COMPONENT_NAME###";
/// What they put in for the package's architecture.
const ARCHITECTURE: &str = "###ZARF_PKG_ARCH###";
/// What they ask for while a package is created.
const TEMPLATES: [&str; 4] = [
    "###ZARF_PKG_TMPL_",
    "###ZARF_PKG_VAR_",
    "###JACKAL_PKG_TMPL_",
    "###JACKAL_PKG_VAR_",
];

/// Fields of an object that nobody took yet.
pub(super) struct Fields {
    path: String,
    /// Whose name is put in.
    component: Option<String>,
    left: Map<String, Value>,
}

impl Fields {
    /// The fields of `value`, which stands at `path`.
    pub fn of(value: Value, path: &str, notes: &mut Notes<'_>) -> Option<Self> {
        match value {
            Value::Object(left) => Some(Self {
                path: path.to_owned(),
                component: None,
                left,
            }),
            Value::Null => None,
            _ => {
                notes.leave(path, "it has no fields");
                None
            }
        }
    }

    /// The path of a field.
    pub fn at(&self, key: &str) -> String {
        match self.path.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.path),
        }
    }

    /// Names what it is the part of, once that is known: `components[web]` instead of `components[0]`.
    pub fn rename(&mut self, path: String) {
        self.path = path;
    }

    /// Says whose name is put in for the template of it.
    pub fn of_component(&mut self, name: &str) {
        self.component = Some(name.to_owned());
    }

    /// Passes over a field that means nothing here.
    pub fn drop(&mut self, key: &str) {
        self.left.remove(key);
    }

    /// Takes a text, unless it is empty or cannot be known.
    pub fn text(&mut self, key: &str, notes: &mut Notes<'_>) -> Option<String> {
        let path = self.at(key);
        match self.left.remove(key)? {
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => self.filled(text, &path, notes),
            Value::Null => None,
            // `version: 1.0` of somebody who forgot the quotes, which the commands take too.
            Value::Number(number) => Some(number.to_string()),
            _ => {
                notes.leave(path, "it is no text");
                None
            }
        }
    }

    /// `text` with what a creation puts in, or nothing when only a person could say.
    fn filled(&self, text: String, path: &str, notes: &mut Notes<'_>) -> Option<String> {
        let mut text = text;
        if let Some(component) = &self.component {
            text = text.replace(COMPONENT, component);
        }
        if let Some(architecture) = &notes.architecture {
            text = text.replace(ARCHITECTURE, architecture);
        }
        let asked = TEMPLATES.iter().find(|template| text.contains(*template));
        match asked.is_some() || text.contains(ARCHITECTURE) || text.contains(COMPONENT) {
            true => {
                notes.leave(
                    path,
                    format!("`{text}` has a template, which is filled in when a package is created: write it out"),
                );
                None
            }
            false => Some(text),
        }
    }

    /// Takes a yes or no; no where it is missing.
    pub fn flag(&mut self, key: &str, notes: &mut Notes<'_>) -> bool {
        let path = self.at(key);
        match self.left.remove(key) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(set)) => set,
            Some(_) => {
                notes.leave(path, "it is neither true nor false");
                false
            }
        }
    }

    /// Takes the fields of a field.
    pub fn inner(&mut self, key: &str, notes: &mut Notes<'_>) -> Option<Fields> {
        let path = self.at(key);
        let value = self.left.remove(key)?;
        let mut fields = Self::of(value, &path, notes)?;
        fields.component = self.component.clone();
        Some(fields)
    }

    /// Takes a list of objects.
    pub fn list(&mut self, key: &str, notes: &mut Notes<'_>) -> Vec<Fields> {
        let path = self.at(key);
        let component = self.component.clone();
        let items = self.items(key, notes).into_iter().enumerate();
        items
            .filter_map(|(index, value)| {
                let mut fields = Self::of(value, &format!("{path}[{index}]"), notes)?;
                fields.component = component.clone();
                Some(fields)
            })
            .collect()
    }

    /// Takes a list of texts with their paths.
    pub fn texts(&mut self, key: &str, notes: &mut Notes<'_>) -> Vec<(String, String)> {
        let path = self.at(key);
        let items = self.items(key, notes).into_iter().enumerate();
        let mut texts = Vec::new();
        for (index, value) in items {
            let path = format!("{path}[{index}]");
            match value {
                Value::String(text) => {
                    if let Some(text) = self.filled(text, &path, notes) {
                        texts.push((path, text));
                    }
                }
                _ => notes.leave(path, "it is no text"),
            }
        }
        texts
    }

    fn items(&mut self, key: &str, notes: &mut Notes<'_>) -> Vec<Value> {
        let path = self.at(key);
        match self.left.remove(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                notes.leave(path, "it is no list");
                Vec::new()
            }
        }
    }

    /// Leaves out what nobody took and that says something.
    pub fn leave_rest(self, notes: &mut Notes<'_>) {
        for (key, value) in &self.left {
            let says_nothing = match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            };
            if !says_nothing {
                notes.leave(self.at(key), why(key));
            }
        }
    }
}

/// Why a field cannot be carried over, and what to do instead.
fn why(key: &str) -> &'static str {
    match key {
        "actions" | "scripts" => "nothing is run: deploy by Flux, Argo CD or a Job what has to be run",
        "constants" | "variables" => "nothing is filled in when the package is deployed: write the values out",
        "values" | "templatedValuesFiles" | "template" | "stateAccess" => {
            "nothing is filled in when the package is deployed: write it out"
        }
        "import" => "other definitions are not read: convert the imported one, and put its components here",
        "repos" => "git repositories are not carried: push them there by other means",
        "dataInjections" => "nothing is copied into running pods: bring the data as an image",
        "imageArchives" => "archives of images are not read: push the images to a registry, or load them into docker",
        "kustomizations" => "nothing is rendered: write what `kustomize build` prints as a manifest",
        "healthChecks" => "nothing is waited for: Flux and Argo CD check what they deploy",
        "group" => "a deployment does not choose among components: name those that it takes",
        "default" => "a deployment does not ask: set required, or name the component when it is deployed",
        "documentation" => "documents are not carried: keep them beside the package",
        "only" | "localOS" | "distros" => "a component is not held back from any machine or cluster",
        "extractPath" => "archives are not unpacked: give the url of the file itself",
        "symlinks" => "links are not made",
        "noWait" => "a deployment waits for what it applies",
        "serverSideApply" | "schemaValidation" => "a deployment does as it does by default",
        "gitPath" | "localPath" => "charts come from a registry or a chart repository: push it by `helm push`",
        _ => "a JackalPackage has nothing like it",
    }
}
