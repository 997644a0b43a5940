//! DNS messages (RFC 1035), as far as a stub resolver needs them: questions for the addresses of a name, and their answers.
//!
//! Answers come from outside and may be malformed in any way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const A: u16 = 1;
const AAAA: u16 = 28;
const CNAME: u16 = 5;

/// The largest number of records of an answer that are read.
const MAX_RECORDS: u16 = 256;
/// The largest number of bytes of a name, with its dots.
const MAX_NAME: usize = 256;

/// Returns the question for the IPv4 addresses of a name, or with `v6` for its IPv6 addresses. `None` if `name` is not a
/// valid name.
pub fn question(id: u16, name: &str, v6: bool) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(name.len() + 18);
    packet.extend_from_slice(&id.to_be_bytes());
    // Recursion desired; one question.
    packet.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&(if v6 { AAAA } else { A }).to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    (packet.len() <= 12 + 255 + 4).then_some(packet)
}

/// The content of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The addresses of the name. The list is empty if the name has none or does not exist (code 3).
    Addresses(Vec<IpAddr>),
    /// The answer did not fit into the packet. The question has to be asked again over TCP.
    Truncated,
    /// The server refused to answer, with this code.
    Refused(u8),
}

/// Reads an answer to `question`. `None` if `packet` is not an answer to it.
pub fn answer(question: &[u8], packet: &[u8]) -> Option<Answer> {
    let flags = packet.get(2..4)?;
    // An answer has the same id, the same question, and the flag of an answer.
    if packet.get(..2) != question.get(..2) || flags[0] & 0x80 == 0 {
        return None;
    }
    let asked = question.get(12..)?;
    if !packet.get(12..12 + asked.len())?.eq_ignore_ascii_case(asked) {
        return None;
    }
    if flags[0] & 2 != 0 {
        return Some(Answer::Truncated);
    }
    match flags[1] & 15 {
        0 => {}
        3 => return Some(Answer::Addresses(Vec::new())),
        code => return Some(Answer::Refused(code)),
    }
    let kind = u16::from_be_bytes([asked[asked.len() - 4], asked[asked.len() - 3]]);
    let count = u16::from_be_bytes([packet[6], packet[7]]);
    let mut at = 12 + asked.len();
    let mut owner = name_at(packet, 12)?;
    let mut found = Vec::new();
    // The limit is more than a name reasonably has. Each record costs a walk along its name.
    for _ in 0..count.min(MAX_RECORDS) {
        let name = name_at(packet, at)?;
        at = skip_name(packet, at)?;
        let head = packet.get(at..at + 10)?;
        let (this, length) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[8], head[9]]) as usize);
        let start = at + 10;
        let data = packet.get(start..start + length)?;
        at = start + length;
        // The chain of aliases is in order. Records of other names are ignored.
        if name != owner {
            continue;
        }
        if this == CNAME {
            owner = name_at(packet, start)?;
        } else if this == kind {
            found.push(match this {
                A => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?)),
                _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?)),
            });
        }
    }
    Some(Answer::Addresses(found))
}

/// Reads the name at an offset, in lower case. Pointers are followed.
fn name_at(packet: &[u8], mut at: usize) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    // Bounded, because pointers can form a cycle.
    for _ in 0..128 {
        let length = *packet.get(at)? as usize;
        match length {
            0 => return Some(name),
            1..=63 => {
                name.extend(packet.get(at + 1..at + 1 + length)?.iter().map(u8::to_ascii_lowercase));
                name.push(b'.');
                if name.len() > MAX_NAME {
                    return None;
                }
                at += 1 + length;
            }
            192.. => at = (length & 63) << 8 | *packet.get(at + 1)? as usize,
            _ => return None,
        }
    }
    None
}

fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? as usize {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + length,
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(question: &[u8], records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let mut packet = question.to_vec();
        packet[2] |= 0x80;
        packet[7] = records.len() as u8;
        for (name, kind, data) in records {
            packet.extend_from_slice(name);
            packet.extend_from_slice(&kind.to_be_bytes());
            packet.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
            packet.extend_from_slice(&(data.len() as u16).to_be_bytes());
            packet.extend_from_slice(data);
        }
        packet
    }

    #[test]
    fn addresses_of_the_name_and_of_its_alias() {
        let q = question(7, "Hooks.example.com", false).unwrap();
        let direct = reply(&q, &[(&[0xc0, 12], A, &[1, 2, 3, 4])]);
        assert_eq!(answer(&q, &direct), Some(Answer::Addresses(vec!["1.2.3.4".parse().unwrap()])));
        // hooks.example.com is an alias of b.example.com. The address of a third name is ignored.
        let target = b"\x01b\xc0\x12";
        let alias = reply(
            &q,
            &[
                (&[0xc0, 12], CNAME, target),
                (b"\x01b\xc0\x12", A, &[9, 9, 9, 9]),
                (b"\x01c\xc0\x12", A, &[10, 0, 0, 1]),
            ],
        );
        assert_eq!(answer(&q, &alias), Some(Answer::Addresses(vec!["9.9.9.9".parse().unwrap()])));
        let q6 = question(7, "example.com.", true).unwrap();
        let mut one = [0; 16];
        one[15] = 1;
        let found = answer(&q6, &reply(&q6, &[(&[0xc0, 12], AAAA, &one)]));
        assert_eq!(found, Some(Answer::Addresses(vec!["::1".parse().unwrap()])));
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_ignored() {
        let q = question(7, "example.com", false).unwrap();
        let good = reply(&q, &[]);
        assert_eq!(answer(&q, &good), Some(Answer::Addresses(vec![])));
        let other = question(8, "example.com", false).unwrap();
        assert_eq!(answer(&other, &good), None);
        assert_eq!(answer(&question(7, "example.org", false).unwrap(), &good), None);
        assert_eq!(answer(&q, &q), None);
        let mut refused = good.clone();
        refused[3] |= 2;
        assert_eq!(answer(&q, &refused), Some(Answer::Refused(2)));
        refused[2] |= 2;
        assert_eq!(answer(&q, &refused), Some(Answer::Truncated));
        for name in ["", "a..b", &"x".repeat(64), &"abc.".repeat(70)] {
            assert_eq!(question(1, name, false), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(mut noise in prop::collection::vec(any::<u8>(), 0..200), keep in 0usize..60) {
            let q = question(7, "example.com", false).unwrap();
            let good = reply(&q, &[(&[0xc0, 12], A, &[1, 2, 3, 4]), (&[0xc0, 12], CNAME, b"\x01b\xc0\x10")]);
            let keep = keep.min(good.len());
            noise.splice(0..0, good[..keep].iter().copied());
            let _ = answer(&q, &noise);
        }
    }
}
