//! Sources of randomness, ids and time. Tests can fix ids and time.

use chrono::{DateTime, Utc};

use crate::error::{Error, Result};

#[cfg(feature = "testing")]
tokio::task_local! {
    static FIXED: (DateTime<Utc>, std::cell::Cell<u64>);
}

#[cfg(feature = "testing")]
pub(crate) fn fixed<F: Future>(now: DateTime<Utc>, future: F) -> impl Future<Output = F::Output> {
    FIXED.scope((now, std::cell::Cell::new(0)), future)
}

/// Returns the time.
pub(crate) fn now() -> DateTime<Utc> {
    #[cfg(feature = "testing")]
    if let Ok(now) = FIXED.try_with(|(now, _)| *now) {
        return now;
    }
    Utc::now()
}

/// Returns random bytes that nobody can predict.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new("XX000", "the system has no randomness").detail(error.to_string()))?;
    Ok(bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a new uuid of version 4.
pub(super) fn uuid() -> Result<String> {
    #[cfg(feature = "testing")]
    if let Ok(n) = FIXED.try_with(|(_, n)| n.replace(n.get() + 1)) {
        return Ok(format!("00000000-0000-4000-8000-{:012}", n + 1));
    }
    let mut bytes = random::<16>()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let digits = hex(&bytes);
    Ok(format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_uuids() {
        let (a, b) = (uuid().unwrap(), uuid().unwrap());
        assert!(a != b && a.len() == 36 && a.as_bytes()[14] == b'4', "{a}");
    }
}
