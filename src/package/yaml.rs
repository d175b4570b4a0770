//! Writes YAML.

use serde::Serialize;

/// `value` as YAML. All strings are quoted, because YAML readers disagree on what an unquoted `yes`, `1e3` or `0o7` is. The
/// error says why it cannot be written.
pub fn yaml(value: &impl Serialize) -> Result<String, String> {
    let options = serde_saphyr::ser_options! { quote_all: true };
    let mut text = String::new();
    serde_saphyr::to_fmt_writer_with_options(&mut text, value, options).map_err(|error| error.to_string())?;
    Ok(text)
}
