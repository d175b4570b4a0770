//! Quantities of bytes as Kubernetes writes them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The suffixes and what they multiply by (`resource.Quantity` of apimachinery).
const SUFFIXES: [(&str, f64); 13] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("m", 1e-3),
];

/// The bytes that `text` says, rounded down; `None` where it is no quantity.
pub(super) fn parse(text: &str) -> Option<u64> {
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
        .unwrap_or((text, 1.0));
    let is_number = !number.is_empty()
        && number
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let value = number.parse::<f64>().ok().filter(|_| is_number)? * factor;
    // A float becomes the nearest integer of its range.
    (value >= 0.0).then_some(value as u64)
}

/// The bytes of a quantity of an object.
pub(super) fn bytes(quantity: &Quantity) -> Option<u64> {
    parse(&quantity.0)
}

/// Bytes for people, in binary units.
pub(super) fn shown(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_binary_decimal_and_no_units() {
        for (text, bytes) in [
            ("20Gi", Some(20 << 30)),
            ("61255492Ki", Some(61_255_492 << 10)),
            ("50G", Some(50_000_000_000)),
            ("1.5Gi", Some(3 << 29)),
            ("56453061334", Some(56_453_061_334)),
            ("100e6", Some(100_000_000)),
            ("1500m", Some(1)),
            ("0", Some(0)),
            ("-1", None),
            ("", None),
            ("Gi", None),
            ("NaN", None),
            ("inf", None),
            ("20GiB", None),
            ("1e400", Some(u64::MAX)),
        ] {
            assert_eq!(parse(text), bytes, "{text}");
        }
    }
}
