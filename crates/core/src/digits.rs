//! Writes numbers as text on hot paths, where `fmt` would take most of the time.

/// Returns the decimal digits of `n`, with a minus sign if `n` is negative.
pub fn of(n: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    let mut rest = n.unsigned_abs();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

/// Appends the decimal digits of `n`.
pub fn push(n: i64, to: &mut String) {
    to.extend(of(n, &mut [0; 20]).iter().map(|digit| char::from(*digit)));
}

/// Appends the hexadecimal digits of the bits of `n`, in lower case.
pub fn push_hex(n: i64, to: &mut String) {
    let bits = n.cast_unsigned();
    to.extend((0..hex_len(n)).rev().map(|i| char::from(b"0123456789abcdef"[(bits >> (4 * i) & 15) as usize])));
}

/// Returns the number of digits that `push_hex` appends.
pub fn hex_len(n: i64) -> usize {
    (u64::BITS - n.leading_zeros()).div_ceil(4).max(1) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(n: i64, push: fn(i64, &mut String)) -> String {
        let mut text = String::new();
        push(n, &mut text);
        text
    }

    proptest! {
        #[test]
        fn digits_are_those_of_std(n: i64, shift in 0u32..64) {
            for n in [n, n >> shift] {
                prop_assert_eq!(text(n, push), n.to_string());
                prop_assert_eq!(text(n, push_hex), format!("{n:x}"));
                prop_assert_eq!(hex_len(n), format!("{n:x}").len());
            }
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        for n in [0, 1, 15, 16, -1, i64::MIN, i64::MAX] {
            assert_eq!(text(n, push), n.to_string());
            assert_eq!(text(n, push_hex), format!("{n:x}"));
        }
    }
}
