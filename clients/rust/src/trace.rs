//! The trace of a message, with the feature `opentelemetry`: `enqueue` writes the current span as `traceparent` and `tracestate` into the
//! metadata, and the span of a handler continues this trace. The span is that of `tracing`, if the layer of `tracing_opentelemetry` is
//! installed, and else the current one of `opentelemetry`. Without the feature nothing happens.

use serde_json::{Map, Value};
use tracing::Span;

/// Adds the context of the current span, unless the caller has set one.
#[cfg(feature = "opentelemetry")]
pub(crate) fn inject(metadata: &mut Map<String, Value>) {
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    if metadata.contains_key("traceparent") {
        return;
    }
    let of_tracing = Span::current().context();
    let context = if of_tracing.has_active_span() { of_tracing } else { opentelemetry::Context::current() };
    let span = context.span();
    let span = span.span_context();
    if span.is_valid() {
        let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags());
        metadata.insert("traceparent".to_owned(), Value::String(format!("00-{trace}-{id}-{flags:02x}")));
        let state = span.trace_state().header();
        if !state.is_empty() {
            metadata.insert("tracestate".to_owned(), Value::String(state));
        }
    }
}

/// Makes the span of a message the parent of `span`, which has not been entered yet. A context that is malformed is ignored.
#[cfg(feature = "opentelemetry")]
pub(crate) fn continue_trace(span: &Span, metadata: Option<&Value>) {
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    if let Some(parent) = metadata.and_then(parent_of) {
        // Without the layer there is nothing to continue in.
        _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
    }
}

/// Reads version 00 of a traceparent, and what later versions have in common with it.
#[cfg(feature = "opentelemetry")]
fn parent_of(metadata: &Value) -> Option<opentelemetry::trace::SpanContext> {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

    let text = |name: &str| metadata.get(name).and_then(Value::as_str);
    let parts: Vec<&str> = text("traceparent")?.split('-').collect();
    let (trace, id, flags) = match parts[..] {
        ["00", trace, id, flags] => (trace, id, flags),
        [version, trace, id, flags, ..] if version.len() == 2 && !["00", "ff"].contains(&version) => (trace, id, flags),
        _ => return None,
    };
    let is_hex = |text: &str, length| text.len() == length && text.bytes().all(|c| c.is_ascii_hexdigit());
    if !is_hex(trace, 32) || !is_hex(id, 16) || !is_hex(flags, 2) {
        return None;
    }
    let state = text("tracestate").and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, id) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(id).ok()?);
    Some(SpanContext::new(trace, id, flags, true, state)).filter(SpanContext::is_valid)
}

#[cfg(not(feature = "opentelemetry"))]
pub(crate) fn inject(_: &mut Map<String, Value>) {}

#[cfg(not(feature = "opentelemetry"))]
pub(crate) fn continue_trace(_: &Span, _: Option<&Value>) {}

#[cfg(all(test, feature = "opentelemetry"))]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_traceparent_is_ignored() {
        let parent = |text: &str| parent_of(&serde_json::json!({"traceparent": text, "tracestate": "a=b"}));
        let (trace, id) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let known = parent(&format!("00-{trace}-{id}-01")).unwrap();
        assert_eq!((known.trace_id().to_string(), known.span_id().to_string()), (trace.to_owned(), id.to_owned()));
        assert!(known.is_remote() && known.is_sampled() && known.trace_state().get("a") == Some("b"));
        assert!(parent(&format!("01-{trace}-{id}-01-more")).is_some());
        for wrong in [
            "",
            "00",
            &format!("00-{trace}-{id}"),
            &format!("00-{trace}-{id}-01-more"),
            &format!("ff-{trace}-{id}-01"),
            &format!("00-{}-{id}-01", "0".repeat(32)),
            &format!("00-{trace}-{}-01", "+".repeat(16)),
        ] {
            assert!(parent(wrong).is_none(), "{wrong}");
        }
    }
}
