//! Tests of all parsers of untrusted text with generated input. No parser panics, accepted text means what an independent
//! definition says, and written text is read back unchanged.
//!
//! A short run is part of `make test`. `make fuzz CASES=1000000` is the long run. The generators mix noise with pieces of
//! the real grammar, so that most inputs get past the first check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outbox_core::egress::{Egress, Network, is_public};
use outbox_core::filter::{Filter, Glob};
use outbox_core::pattern::Pattern;
use outbox_core::sign::{Secret, signature_header};
use outbox_core::url::Url;
use outbox_core::webhook_id::WebhookId;
use outbox_core::{headers, retry_after, topic};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Generates text from pieces of a grammar and from noise.
fn mixed(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    let piece =
        prop_oneof![6 => prop::sample::select(pieces).prop_map(str::to_owned), 1 => ".{0,3}", 1 => "[!-~]{1,4}"];
    prop::collection::vec(piece, 0..10).prop_map(|parts| parts.concat())
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map("[a-z_-]{0,14}", inner, 0..5).prop_map(Value::from_iter),
        ]
    })
}

/// The definition of topic patterns, which tries all ways to split the topic.
fn pattern_by_definition(pattern: &[&str], topic: &[&str]) -> bool {
    let mut reach = vec![false; topic.len() + 1];
    reach[0] = true;
    for word in pattern {
        let mut next = vec![false; topic.len() + 1];
        for (i, reached) in reach.iter().enumerate().filter(|(_, r)| **r) {
            debug_assert!(*reached);
            match *word {
                "#" => next[i..].fill(true),
                w if i < topic.len() && (w == "*" || w == topic[i]) => next[i + 1] = true,
                _ => {}
            }
        }
        reach = next;
    }
    reach[topic.len()]
}

fn glob_by_definition(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|skip| glob_by_definition(rest, &text[skip..])),
        Some((c, rest)) => {
            text.split_first().is_some_and(|(t, more)| (*c == '?' || c == t) && glob_by_definition(rest, more))
        }
    }
}

proptest! {
    #[test]
    fn retry_after(text in mixed(&["0", "1", "60", "1770000060", "99999999999999999999", " ", "-", "+", ".", "Fri, ", "13 Feb 2026 ", "12:00:00 ", "GMT"])) {
        let now = UNIX_EPOCH + Duration::from_secs(1_770_000_000);
        let wait = retry_after::parse(&text, now);
        prop_assert!(wait.is_none_or(|wait| wait <= retry_after::CAP));
        let digits = text.trim();
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            let meant = match digits.parse::<u64>() {
                Ok(seconds @ ..1_000_000_000) => Some(seconds),
                // The number is a time, unless that time is more than a year away.
                Ok(time) => Some(time.saturating_sub(1_770_000_000)).filter(|wait| *wait <= 366 * 86_400),
                Err(_) => None,
            };
            prop_assert_eq!(wait.map(|w| w.as_secs()), meant.map(|seconds| seconds.min(retry_after::CAP.as_secs())));
        }
    }

    #[test]
    fn retry_after_as_a_date(begin in 0u64..4_000_000_000, ahead in -200_000i64..200_000) {
        let now = UNIX_EPOCH + Duration::from_secs(begin + 200_000);
        let date = UNIX_EPOCH + Duration::from_secs((begin + 200_000).saturating_add_signed(ahead));
        let wait = retry_after::parse(&httpdate::fmt_http_date(date), now);
        prop_assert_eq!(wait, Some(Duration::from_secs(ahead.clamp(0, 86_400) as u64)));
    }

    #[test]
    fn url(text in mixed(&["https://", "http://", "example.com", "EXAMPLE.", ".", ":443", ":0", ":65535", ":65536", "[::1]", "[", "]",
        "127.1", "0x7f.1", "10.0.0.1", "user:secret@", "@", "/", "/a/b", "?q=1", "#f", "%00", "\\", " ", "\r\n", "\t", "ü"]),
        plain in any::<bool>()) {
        match Url::parse(&text, plain) {
            Ok(url) => {
                prop_assert!(url.tls || plain);
                prop_assert!(!url.host.is_empty() && !url.host.contains(['@', '/', '[', ']', ' ', '\r', '\n']));
                prop_assert!(url.path.starts_with('/') && !url.path.contains(['#', ' ', '\r', '\n']), "{}", url.path);
                prop_assert!(!url.host_header.contains(['@', '\r', '\n', ' ']));
                prop_assert!(url.port > 0);
                // A URL that is built from the parts means the same.
                let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
                let scheme = if url.tls { "https" } else { "http" };
                let again = Url::parse(&format!("{scheme}://{host}:{}{}", url.port, url.path), plain).unwrap();
                prop_assert_eq!((again.host, again.port, again.path), (url.host, url.port, url.path));
            }
            Err(error) => prop_assert!(!format!("{:?}", error).contains("secret"), "{:?}", error),
        }
    }

    #[test]
    fn addresses(bits in any::<u32>(), v6 in any::<u128>()) {
        let v4 = Ipv4Addr::from(bits);
        let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
            || v4.is_documentation() || v4.octets()[0] == 0 || v4.octets()[0] >= 240;
        if special {
            prop_assert!(!is_public(v4.into()), "{v4}");
        }
        // An IPv6 address that contains a forbidden IPv4 address is forbidden too.
        for dressed in [v4.to_ipv6_mapped(), Ipv6Addr::from(0x0064_ff9b_u128 << 96 | u128::from(bits))] {
            prop_assert!(is_public(v4.into()) || !is_public(dressed.into()), "{dressed}");
        }
        let v6 = Ipv6Addr::from(v6);
        if v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unique_local() || v6.is_unicast_link_local() {
            prop_assert!(!is_public(v6.into()), "{v6}");
        }
    }

    #[test]
    fn local_ipv4_is_never_public(a in prop_oneof![Just(10u8), Just(127), Just(0), Just(224), Just(255)], b in any::<[u8; 3]>()) {
        prop_assert!(!is_public(IpAddr::from([a, b[0], b[1], b[2]])));
    }

    #[test]
    fn networks(text in mixed(&["10.0.0.0", "/8", "/", "/33", "/129", "fd00::", "::", ",", " ", "1", ".", ":"]), bits in any::<u32>()) {
        if let Ok(egress) = Egress::parse(&text) {
            let address = IpAddr::from(Ipv4Addr::from(bits));
            let listed = text.split(',').map(str::trim).filter(|t| !t.is_empty()).any(|t| Network::parse(t).unwrap().contains(address));
            prop_assert_eq!(egress.allows(address), listed || is_public(address));
        }
    }

    #[test]
    fn network_prefix(bits in any::<u32>(), prefix in 0u32..=32, other in any::<u32>(), flip in 0u32..32) {
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        let network = Network::parse(&format!("{}/{prefix}", Ipv4Addr::from(bits & mask))).unwrap();
        for candidate in [other, bits ^ (1 << flip), bits] {
            prop_assert_eq!(network.contains(Ipv4Addr::from(candidate).into()), candidate & mask == bits & mask);
        }
    }

    #[test]
    fn patterns(pattern in mixed(&["a", "b", "outbox", ".", ".", "*", "#", "a*", ""]), words in prop::collection::vec(prop::sample::select(vec!["a", "b", "outbox"]), 1..6)) {
        if let Ok(parsed) = Pattern::parse(&pattern) {
            let parts: Vec<&str> = pattern.split('.').collect();
            let reserved = words[0] == "outbox" && matches!(parts[0], "*" | "#");
            prop_assert_eq!(parsed.matches(&words.join(".")), !reserved && pattern_by_definition(&parts, &words));
        }
    }

    #[test]
    fn topics(text in mixed(&["a", "order", ".", "-", "_", "/", "outbox", " ", "*", "#"])) {
        if topic::validate(&text).is_ok() {
            prop_assert!(!topic::is_reserved(&text) && !text.is_empty() && text.len() <= 255);
            prop_assert!(text.split('.').all(|word| !word.is_empty() && !word.contains(['*', '#', ' '])));
            // A topic is also a pattern, which matches the topic.
            prop_assert!(Pattern::parse(&text).unwrap().matches(&text));
        }
    }

    #[test]
    fn globs(pattern in "[ab*?]{0,8}", text in "[abc]{0,10}") {
        let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
        prop_assert_eq!(Glob::new(pattern).matches(&text), glob_by_definition(&p, &t));
    }

    #[test]
    fn filters(value in json_value()) {
        let _ = Filter::parse(&value);
        let _ = Filter::parse(&json!({"headers": value.clone(), "tenants": value}));
    }

    #[test]
    fn header_objects(value in json_value(), names in prop::collection::vec(mixed(&["x-", "Host", "webhook-id", "Content-Type", "a", "-", ":", "\r\n", " "]), 0..4),
        content in mixed(&["a", " ", "\t", "\r\n", "\0", "ü", "Bearer x"])) {
        let _ = headers::parse(&value);
        let object: Value = names.iter().map(|name| (name.clone(), Value::from(content.clone()))).collect();
        if let Ok(parsed) = headers::parse(&object) {
            for (name, value) in parsed {
                prop_assert!(!headers::is_protocol(name.as_str()), "{name}");
                prop_assert!(value.as_bytes().iter().all(|b| !matches!(b, b'\r' | b'\n' | 0)));
            }
        }
        if headers::check_content_type(&content).is_ok() {
            prop_assert!(!content.contains(['\r', '\n', '\0']));
        }
    }

    #[test]
    fn webhook_ids(message_id in any::<i64>(), enqueued_at in any::<i64>(), noise in mixed(&["msg_", "_", "0", "ff", "-1", "G"])) {
        let id = WebhookId { message_id, enqueued_at };
        prop_assert_eq!(WebhookId::parse(&id.to_string()), Some(id));
        if let Some(read) = WebhookId::parse(&noise) {
            prop_assert_eq!(WebhookId::parse(&read.to_string()), Some(read));
        }
    }

    #[test]
    fn signatures(keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 24..40), 1..3), id in "[a-z0-9_]{1,20}", time in any::<i64>(),
        body in prop::collection::vec(any::<u8>(), 1..200), flip in any::<prop::sample::Index>()) {
        let secrets: Vec<Secret> = keys.iter().map(|k| Secret::from_key(k)).collect();
        let header = signature_header(&secrets, &id, time, &body);
        let mut other = body.clone();
        other[flip.index(body.len())] ^= 1;
        for secret in &secrets {
            prop_assert!(secret.verify(&id, time, &body, &header));
            prop_assert!(!secret.verify(&id, time, &other, &header));
            prop_assert!(!secret.verify(&id, time.wrapping_add(1), &body, &header));
        }
    }

    #[test]
    fn secrets_and_signature_headers_from_outside(text in mixed(&["whsec_", "v1,", "v1a,", "AAAA", "=", "+/", " ", ","])) {
        if let Ok(secret) = Secret::parse(&text) {
            let shown = format!("{secret:?}");
            prop_assert!(!shown.contains(text.trim_start_matches("whsec_")));
        }
        prop_assert!(!Secret::from_key(&[7; 32]).verify("msg_1_1", 1, b"x", &text));
    }
}

#[test]
fn the_clock_may_stand_anywhere() {
    for now in [UNIX_EPOCH, SystemTime::now(), UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 2)] {
        assert_eq!(retry_after::parse("120", now), Some(Duration::from_secs(120)));
    }
}
