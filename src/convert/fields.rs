//! The fields of a definition, which are removed one by one.

use serde_json::{Map, Value};

use super::Conversion;

/// The template for the component's name, which the commands replace when they create a package.
const COMPONENT: &str = "###ZARF_COMPONENT_NAME###";
/// The template for the package's architecture.
const ARCHITECTURE: &str = "###ZARF_PKG_ARCH###";
/// The prefixes of templates for which the commands ask when they create a package.
const TEMPLATES: [&str; 4] = [
    "###ZARF_PKG_TMPL_",
    "###ZARF_PKG_VAR_",
    "###JACKAL_PKG_TMPL_",
    "###JACKAL_PKG_VAR_",
];

/// The fields of an object that are not converted yet.
pub(super) struct Fields {
    path: String,
    /// The name that replaces [`COMPONENT`].
    component: Option<String>,
    left: Map<String, Value>,
}

impl Fields {
    /// The fields of `value` at `path`.
    pub fn of(value: Value, path: &str, conversion: &mut Conversion<'_>) -> Option<Self> {
        match value {
            Value::Object(left) => Some(Self {
                path: path.to_owned(),
                component: None,
                left,
            }),
            Value::Null => None,
            _ => {
                conversion.omit(path, "it is not an object");
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

    /// Replaces an index in the path by a name: `components[web]` instead of `components[0]`.
    pub fn set_path(&mut self, path: String) {
        self.path = path;
    }

    /// Sets the component whose name replaces its template.
    pub fn set_component(&mut self, name: &str) {
        self.component = Some(name.to_owned());
    }

    /// Ignores a field that has no meaning in a JackalPackage.
    pub fn drop(&mut self, key: &str) {
        self.left.remove(key);
    }

    /// Removes and returns a text, unless it is empty or has unknown templates.
    pub fn text(&mut self, key: &str, conversion: &mut Conversion<'_>) -> Option<String> {
        let path = self.at(key);
        match self.left.remove(key)? {
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => self.fill_templates(text, &path, conversion),
            Value::Null => None,
            // `version: 1.0` without quotes, which the commands accept too.
            Value::Number(number) => Some(number.to_string()),
            _ => {
                conversion.omit(path, "it is not a text");
                None
            }
        }
    }

    /// `text` with its templates replaced, or `None` if a value is unknown.
    fn fill_templates(&self, text: String, path: &str, conversion: &mut Conversion<'_>) -> Option<String> {
        let mut text = text;
        if let Some(component) = &self.component {
            text = text.replace(COMPONENT, component);
        }
        if let Some(architecture) = &conversion.architecture {
            text = text.replace(ARCHITECTURE, architecture);
        }
        let asked = TEMPLATES.iter().find(|template| text.contains(*template));
        match asked.is_some() || text.contains(ARCHITECTURE) || text.contains(COMPONENT) {
            true => {
                conversion.omit(
                    path,
                    format!(
                        "`{text}` has a template, which is replaced only when a package is created: write its value"
                    ),
                );
                None
            }
            false => Some(text),
        }
    }

    /// Removes and returns a boolean; false if it is missing.
    pub fn flag(&mut self, key: &str, conversion: &mut Conversion<'_>) -> bool {
        let path = self.at(key);
        match self.left.remove(key) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(set)) => set,
            Some(_) => {
                conversion.omit(path, "it is neither true nor false");
                false
            }
        }
    }

    /// Removes and returns the fields of an object.
    pub fn inner(&mut self, key: &str, conversion: &mut Conversion<'_>) -> Option<Fields> {
        let path = self.at(key);
        let value = self.left.remove(key)?;
        let mut fields = Self::of(value, &path, conversion)?;
        fields.component = self.component.clone();
        Some(fields)
    }

    /// Removes and returns a list of objects.
    pub fn list(&mut self, key: &str, conversion: &mut Conversion<'_>) -> Vec<Fields> {
        let path = self.at(key);
        let component = self.component.clone();
        let items = self.items(key, conversion).into_iter().enumerate();
        items
            .filter_map(|(index, value)| {
                let mut fields = Self::of(value, &format!("{path}[{index}]"), conversion)?;
                fields.component = component.clone();
                Some(fields)
            })
            .collect()
    }

    /// Removes and returns a list of texts with their paths.
    pub fn texts(&mut self, key: &str, conversion: &mut Conversion<'_>) -> Vec<(String, String)> {
        let path = self.at(key);
        let items = self.items(key, conversion).into_iter().enumerate();
        let mut texts = Vec::new();
        for (index, value) in items {
            let path = format!("{path}[{index}]");
            match value {
                Value::String(text) => {
                    if let Some(text) = self.fill_templates(text, &path, conversion) {
                        texts.push((path, text));
                    }
                }
                _ => conversion.omit(path, "it is not a text"),
            }
        }
        texts
    }

    fn items(&mut self, key: &str, conversion: &mut Conversion<'_>) -> Vec<Value> {
        let path = self.at(key);
        match self.left.remove(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                conversion.omit(path, "it is not a list");
                Vec::new()
            }
        }
    }

    /// Reports the remaining fields that are not empty as omitted.
    pub fn omit_rest(self, conversion: &mut Conversion<'_>) {
        for (key, value) in &self.left {
            let is_empty = match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            };
            if !is_empty {
                conversion.omit(self.at(key), why(key));
            }
        }
    }
}

/// Why a field cannot be converted, and what to do instead.
fn why(key: &str) -> &'static str {
    match key {
        "actions" | "scripts" => "commands are not run: use Flux, Argo CD or a Job",
        "constants" | "variables" => "values are not replaced when the package is deployed: write them into the files",
        "values" | "templatedValuesFiles" | "template" | "stateAccess" => {
            "templates are not replaced when the package is deployed: write the values into the files"
        }
        "import" => "other definitions are not read: convert the imported one and add its components",
        "repos" => "git repositories are not packaged: transfer them by other means",
        "dataInjections" => "data is not copied into running pods: put it into an image",
        "imageArchives" => "archives of images are not read: push the images to a registry, or load them into docker",
        "kustomizations" => "kustomizations are not rendered: use the output of `kustomize build` as a manifest",
        "healthChecks" => "there are no health checks: Flux and Argo CD check what they deploy",
        "group" => "a deployment does not choose among components: name those to deploy",
        "default" => "a deployment does not ask: set required, or name the component when deploying",
        "documentation" => "documentation is not packaged: keep it separately",
        "only" | "localOS" | "distros" => "components are not restricted to machines or clusters",
        "extractPath" => "archives are not unpacked: give the url of the file itself",
        "symlinks" => "symbolic links are not created",
        "noWait" => "a deployment waits for what it applies",
        "serverSideApply" | "schemaValidation" => "a deployment uses the default",
        "gitPath" | "localPath" => "charts must be in a registry or a chart repository: push it with `helm push`",
        _ => "a JackalPackage has no equivalent",
    }
}
