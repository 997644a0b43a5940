//! How the data of events is stored: as JSON by default, or as bytes of a [`Serializer`]. MessagePack needs the feature
//! `events-msgpack`, and Protobuf `events-protobuf`.
//!
//! Events are loaded by their content type, so that one stream may have events of several serializers.

use serde_json::Value;

#[cfg(any(feature = "events-msgpack", feature = "events-protobuf"))]
use crate::error::Error;
use crate::error::Result;

/// Turns the data of events into bytes and back: MessagePack, Protobuf, or a form of your own.
pub trait Serializer: Send + Sync {
    /// The content type of the bytes, which each event has.
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
const PACK: &str = "malformed MessagePack";

#[cfg(feature = "events-msgpack")]
impl Serializer for MessagePack {
    fn content_type(&self) -> &str {
        "application/vnd.msgpack"
    }

    fn serialize(&self, _: &str, data: &Value) -> Result<Vec<u8>> {
        rmp_serde::to_vec_named(&Plain(data)).map_err(|error| malformed(PACK, error))
    }

    fn deserialize(&self, _: &str, bytes: &[u8]) -> Result<Value> {
        let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
        reader.set_max_depth(128);
        let value = serde::Deserialize::deserialize(&mut reader).map_err(|error| malformed(PACK, error))?;
        if reader.position() == bytes.len() as u64 {
            Ok(value)
        } else {
            Err(malformed(PACK, "there are bytes behind the value"))
        }
    }
}

/// [Protobuf](https://protobuf.dev) by messages of prost, as `application/x-protobuf`. An event type has one message type. Its data is
/// that of the message, which also implements the traits of serde:
///
/// ```
/// use pg_outbox::events::serialize::Protobuf;
/// use serde::{Deserialize, Serialize};
///
/// // prost_build makes this from order.proto, with `type_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")`.
/// #[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
/// struct OrderPlaced {
///     #[prost(int64, tag = "1")]
///     total: i64,
/// }
///
/// let serializer = Protobuf::new().message::<OrderPlaced>("order.placed")?;
/// # Ok::<(), pg_outbox::Error>(())
/// ```
///
/// Upcasters get the data as JSON, and so does an encryption, whose fields are of the type `string` then. Events of other types are not
/// appended, and are loaded as their bytes.
#[cfg(feature = "events-protobuf")]
#[derive(Clone, Default)]
pub struct Protobuf(std::collections::HashMap<String, Message>);

#[cfg(feature = "events-protobuf")]
#[derive(Clone, Copy)]
struct Message {
    encode: fn(&Value) -> Result<Vec<u8>>,
    decode: fn(&[u8]) -> Result<Value>,
}

#[cfg(feature = "events-protobuf")]
impl std::fmt::Debug for Protobuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(feature = "events-protobuf")]
impl Protobuf {
    /// Creates a serializer without messages.
    pub fn new() -> Protobuf {
        Protobuf::default()
    }

    /// Adds the message of an event type.
    ///
    /// # Errors
    /// 22023 if the event type has a message already.
    pub fn message<M>(mut self, event_type: &str) -> Result<Protobuf>
    where
        M: prost::Message + Default + serde::Serialize + serde::de::DeserializeOwned + 'static,
    {
        let message = Message {
            encode: |data| {
                // By its text, which keeps all digits of numbers.
                let message: M = serde_json::from_str(&data.to_string()).map_err(|error| {
                    malformed("the data has not the form of its message", crate::error::place_in_json(&error))
                })?;
                Ok(message.encode_to_vec())
            },
            decode: |bytes| {
                let message = M::decode(bytes).map_err(|error| malformed("malformed Protobuf", error))?;
                Ok(serde_json::to_value(message)?)
            },
        };
        match self.0.insert(event_type.to_owned(), message) {
            None => Ok(self),
            Some(_) => Err(Error::invalid(format!("event type \"{event_type}\" has two messages"))),
        }
    }
}

#[cfg(feature = "events-protobuf")]
impl Serializer for Protobuf {
    fn content_type(&self) -> &str {
        "application/x-protobuf"
    }

    fn serialize(&self, event_type: &str, data: &Value) -> Result<Vec<u8>> {
        match self.0.get(event_type) {
            Some(message) => (message.encode)(data),
            None => Err(super::registry::unregistered(event_type).hint("Protobuf::message() makes it known.")),
        }
    }

    fn deserialize(&self, event_type: &str, bytes: &[u8]) -> Result<Value> {
        self.0.get(event_type).map_or(Ok(Value::Null), |message| (message.decode)(bytes))
    }
}

#[cfg(any(feature = "events-msgpack", feature = "events-protobuf"))]
fn malformed(message: &str, error: impl std::fmt::Display) -> Error {
    Error::invalid(message).detail(error.to_string()).named("malformed_event")
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
