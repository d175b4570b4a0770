//! Numbers as text for the columns of `kubectl get`.

const MIB: u64 = 1 << 20;

/// `bytes` in MiB, rounded up: without decimals from 10 MiB, else with one decimal.
pub fn mebibytes(bytes: u64) -> String {
    match bytes {
        whole if whole >= 10 * MIB => format!("{} MiB", whole.div_ceil(MIB)),
        bytes => {
            let tenths = (bytes * 10).div_ceil(MIB);
            format!("{}.{} MiB", tenths / 10, tenths % 10)
        }
    }
}

/// The progress of a transfer: `done` bytes of `total`, which is 0 while unknown, at `rate` bytes per second. It is at most
/// 99 %.
pub(super) fn progress(done: u64, total: u64, rate: Option<u64>) -> String {
    let part = (total > 0).then(|| {
        let percent = u128::from(done) * 100 / u128::from(total);
        format!("{}%", percent.min(99))
    });
    let rate = rate.map(|rate| match rate >= MIB {
        true => format!("{} MiB/s", rate / MIB),
        false => format!("{}/s", mebibytes(rate)),
    });
    let parts: Vec<String> = part.into_iter().chain(rate).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_mebibytes() {
        for (bytes, text) in [
            (0, "0.0 MiB"),
            (1, "0.1 MiB"),
            (MIB, "1.0 MiB"),
            (3 * MIB + MIB / 2, "3.5 MiB"),
            (10 * MIB, "10 MiB"),
            (812 * MIB - 1, "812 MiB"),
            (12_345 * MIB, "12345 MiB"),
            (u64::MAX, "17592186044416 MiB"),
        ] {
            assert_eq!(mebibytes(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn progress_is_a_percentage_and_a_rate() {
        let gib = 1024 * MIB;
        for ((done, total, rate), text) in [
            ((0, 0, None), ""),
            ((0, gib, None), "0%"),
            ((420 * MIB, gib, Some(85 * MIB + 1)), "41% 85 MiB/s"),
            ((gib, gib, Some(0)), "99% 0.0 MiB/s"),
            ((2 * gib, gib, Some(MIB / 2)), "99% 0.5 MiB/s"),
            ((u64::MAX, u64::MAX, None), "99%"),
            ((5, 0, Some(2 * MIB)), "2 MiB/s"),
        ] {
            assert_eq!(progress(done, total, rate), text);
        }
    }
}
