//! Computes how large the text of a jsonb is at most, from the stored form and without making the text.
//!
//! A jsonb is stored in about as many bytes as its text has, except for numbers: 1e131071 is stored in a few bytes. The
//! layout is that of `utils/jsonb.h` and `numeric.c` of PostgreSQL, and is the same from 15 to 18.

/// Bytes by which the text of a jsonb's numbers can exceed their stored form. `root` is the value without its length word.
pub fn expansion(root: &[u8]) -> usize {
    let mut extra = 0usize;
    // Not recursive, because documents may be thousands of levels deep.
    let mut containers = vec![root];
    while let Some(container) = containers.pop() {
        let Some(header) = word(container, 0) else { continue };
        let count = (header & COUNT) as usize * if header & IS_OBJECT != 0 { 2 } else { 1 };
        let Some(data) = container.get(4 * (count + 1)..) else { continue };
        let mut end = 0usize;
        for i in 0..count {
            let Some(entry) = word(container, 4 * (i + 1)) else { break };
            let start = end;
            let length = (entry & OFFSET_OR_LENGTH) as usize;
            end = if entry & HAS_OFFSET != 0 { length } else { start + length };
            let value = data.get(start.next_multiple_of(4)..end);
            match (entry & TYPE, value) {
                (IS_NUMERIC, Some(value)) => extra += digits(value).unwrap_or(0).saturating_sub(value.len()),
                (IS_CONTAINER, Some(value)) => containers.push(value),
                _ => {}
            }
        }
    }
    extra
}

/// JsonbContainer's header.
const COUNT: u32 = 0x0fff_ffff;
const IS_OBJECT: u32 = 0x2000_0000;
/// JEntry.
const OFFSET_OR_LENGTH: u32 = 0x0fff_ffff;
const HAS_OFFSET: u32 = 0x8000_0000;
const TYPE: u32 = 0x7000_0000;
const IS_NUMERIC: u32 = 0x1000_0000;
const IS_CONTAINER: u32 = 0x5000_0000;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Most characters that the text of a stored numeric can have.
fn digits(value: &[u8]) -> Option<usize> {
    // The length word has one byte or four.
    let short_length =
        if cfg!(target_endian = "little") { value.first()? & 1 == 1 } else { value.first()? & 0x80 != 0 };
    let body = value.get(if short_length { 1 } else { 4 }..)?;
    let half = |at: usize| Some(u16::from_ne_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let header = half(0)?;
    let (weight, scale) = match header & 0xc000 {
        // NaN and infinities, which JSON does not have.
        0xc000 => return None,
        0x8000 => {
            let weight = (header & 0x3f) as i32 - if header & 0x40 != 0 { 0x40 } else { 0 };
            (weight, (header & 0x1f80) >> 7)
        }
        _ => (i32::from(half(2)?.cast_signed()), header & 0x3fff),
    };
    // Four digits per weight, a sign, a point.
    Some(4 * usize::try_from(weight + 1).unwrap_or(0).max(1) + usize::from(scale) + 2)
}
