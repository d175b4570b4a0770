//! Entry points of the fuzz targets to private parsers. Compiled only for fuzzing.

/// Parses `WWW-Authenticate` values. Returns the token request, if one is required.
pub fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<String> {
    let url = url::Url::parse("https://registry.example.com/v2/").ok()?;
    match super::challenge::parse_challenges(headers, &url).into_iter().next()? {
        super::challenge::Challenge::Bearer { realm, service, scope } => Some(format!("{realm} {service:?} {scope:?}")),
        super::challenge::Challenge::Basic => None,
    }
}

/// Parses the start offset of `Content-Range`, in bytes.
pub fn content_range(value: &str) -> Option<u64> {
    super::download::range_start(value)
}

/// Parses the `Range` of an upload: the number of bytes that the registry has.
pub fn range(value: &str) -> Option<u64> {
    super::upload::parse_range(value)
}
