//! What of a response is passed on. No IO.

use http::header::{CONNECTION, HeaderName, LOCATION, PROXY_AUTHENTICATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode};
use url::Url;

/// Fields of the connection (RFC 9110, section 7.6.1), and those of older proxies.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
];

/// A redirect to somewhere else than the registry: its target, for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedirectedAway(pub String);

/// Removes what belongs to the connection, and makes a redirect within the registry relative.
pub(super) fn cleaned(status: StatusCode, fields: &mut HeaderMap, from: &Url) -> Result<(), RedirectedAway> {
    let named: Vec<HeaderName> = fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        fields.remove(name);
    }
    if !status.is_redirection() {
        return Ok(());
    }
    let Some(location) = fields.get(LOCATION) else {
        return Ok(());
    };
    let away = |text: &str| RedirectedAway(text.chars().take(200).filter(|c| !c.is_control()).collect());
    let text = location.to_str().map_err(|_| away("a location that is not text"))?;
    let target = from.join(text).map_err(|_| away(text))?;
    if target.origin() != from.origin() {
        // The query may have a signature that permits access.
        let plain = match target.query() {
            Some(_) => text.split_once('?').map_or(text, |(plain, _)| plain),
            None => text,
        };
        return Err(away(plain));
    }
    let relative = match target.query() {
        Some(query) => format!("{}?{query}", target.path()),
        None => target.path().to_owned(),
    };
    let relative = HeaderValue::try_from(relative).map_err(|_| away(text))?;
    fields.insert(LOCATION, relative);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in of {
            fields.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        fields
    }

    fn passed(status: u16, of: &[(&'static str, &str)]) -> Result<HeaderMap, RedirectedAway> {
        let mut fields = fields(of);
        let from = Url::parse("https://registry.home.svc:5001/v2/a/blobs/b").unwrap();
        cleaned(StatusCode::from_u16(status).unwrap(), &mut fields, &from).map(|()| fields)
    }

    #[test]
    fn fields_of_the_connection_are_removed() {
        let sent = [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("trailer", "x"),
            ("docker-content-digest", "sha256:ab"),
            ("content-length", "5"),
            ("link", "</v2/_catalog?n=1>; rel=\"next\""),
        ];
        assert_eq!(passed(200, &sent).unwrap(), fields(&sent[6..]));
    }

    #[test]
    fn redirects_stay_in_the_registry() {
        for (location, becomes) in [
            ("/v2/x?a=b", "/v2/x?a=b"),
            ("c", "/v2/a/blobs/c"),
            ("https://registry.home.svc:5001/v2/y", "/v2/y"),
            ("//registry.home.svc:5001/v2/z", "/v2/z"),
        ] {
            let got = passed(307, &[("location", location)]).unwrap();
            assert_eq!(got[LOCATION], becomes, "{location}");
        }
        for (location, named) in [
            (
                "https://s3.example.com/b?X-Amz-Signature=secret",
                "https://s3.example.com/b",
            ),
            (
                "http://registry.home.svc:5001/v2/y",
                "http://registry.home.svc:5001/v2/y",
            ),
            ("//evil/", "//evil/"),
            ("https://", "https://"),
        ] {
            let refused = passed(302, &[("location", location)]);
            assert_eq!(refused, Err(RedirectedAway(named.to_owned())), "{location}");
        }
        // Not a redirect.
        assert!(passed(201, &[("location", "https://evil/")]).is_ok());
    }
}
