//! How the data of events is stored: as JSON by default, or as bytes of a [`Serializer`].
//!
//! Events are loaded by their content type, so that one stream may have events of several serializers.

use serde_json::Value;

use crate::error::Result;

/// Turns the data of events into bytes and back, for example for Protobuf.
pub trait Serializer: Send + Sync {
    /// The content type of the bytes, for example `application/x-protobuf`.
    fn content_type(&self) -> &str;

    /// Returns the bytes of the data of an event type.
    ///
    /// # Errors
    /// 22023 if the data does not have the form of its type.
    fn serialize(&self, event_type: &str, data: &Value) -> Result<Vec<u8>>;

    /// Returns the data of bytes.
    ///
    /// # Errors
    /// 22023 if the bytes are malformed.
    fn deserialize(&self, event_type: &str, bytes: &[u8]) -> Result<Value>;
}

/// [MessagePack](https://msgpack.org) with the names of fields, as `application/vnd.msgpack`. Numbers that are neither integers of
/// 64 bits nor binary floating point numbers lose digits. Values of MessagePack that JSON does not have are refused.
#[cfg(feature = "events-msgpack")]
#[derive(Clone, Copy, Debug, Default)]
pub struct MessagePack;

#[cfg(feature = "events-msgpack")]
impl Serializer for MessagePack {
    fn content_type(&self) -> &str {
        "application/vnd.msgpack"
    }

    fn serialize(&self, _: &str, data: &Value) -> Result<Vec<u8>> {
        rmp_serde::to_vec_named(&Plain(data)).map_err(malformed)
    }

    fn deserialize(&self, _: &str, bytes: &[u8]) -> Result<Value> {
        let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
        reader.set_max_depth(128);
        let value = serde::Deserialize::deserialize(&mut reader).map_err(malformed)?;
        if reader.position() == bytes.len() as u64 {
            Ok(value)
        } else {
            Err(malformed("there are bytes behind the value"))
        }
    }
}

#[cfg(feature = "events-msgpack")]
fn malformed(error: impl std::fmt::Display) -> crate::error::Error {
    crate::error::Error::invalid("malformed MessagePack").detail(error.to_string()).named("malformed_event")
}

/// JSON whose numbers are written as numbers. A number of serde_json keeps its digits as text, which only serde_json understands.
#[cfg(feature = "events-msgpack")]
struct Plain<'a>(&'a Value);

#[cfg(feature = "events-msgpack")]
impl serde::Serialize for Plain<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => to.serialize_unit(),
            Value::Bool(value) => to.serialize_bool(*value),
            Value::String(text) => to.serialize_str(text),
            Value::Array(items) => to.collect_seq(items.iter().map(Plain)),
            Value::Object(fields) => to.collect_map(fields.iter().map(|(name, value)| (name, Plain(value)))),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(n), _, _) => to.serialize_i64(n),
                (_, Some(n), _) => to.serialize_u64(n),
                (_, _, Some(n)) => to.serialize_f64(n),
                _ => Err(serde::ser::Error::custom("a number is too large")),
            },
        }
    }
}
