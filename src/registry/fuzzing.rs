//! Doors to what is read of a registry's answers, for the fuzz targets. No other build has them.

/// Reads `WWW-Authenticate`, given in `headers`. Where a token is to be fetched, if one is asked for.
pub fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<String> {
    let url = url::Url::parse("https://registry.example.com/v2/").ok()?;
    match super::challenge::offered(headers, &url).into_iter().next()? {
        super::challenge::Challenge::Bearer { realm, service, scope } => Some(format!("{realm} {service:?} {scope:?}")),
        super::challenge::Challenge::Basic => None,
    }
}

/// Reads where the content of `Content-Range` starts, in bytes.
pub fn content_range(value: &str) -> Option<u64> {
    super::download::start_of(value)
}

/// Reads how many bytes of an upload a registry has, of its `Range`.
pub fn range(value: &str) -> Option<u64> {
    super::upload::received(value)
}
