//! The parts of the core crate that the events of Python use: encryption of fields, wrapped keys, and chains of upcasters.
//!
//! The fields of one event are one call, with JSON text in and out, so that numbers stay as they were written.

use std::collections::HashSet;

use outbox_core::encrypt::{self, Cipher, NONCE_LENGTH, Place};
use outbox_core::upcast::Chains as CoreChains;
use pg_outbox::Outbox;
use pg_outbox::tokio_postgres::types::Type;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::Value;

use crate::exception;

fn failed<E: Into<pg_outbox::Error>>(py: Python<'_>, error: E) -> PyErr {
    exception(py, &error.into())
}

fn parsed(py: Python<'_>, data: &str) -> PyResult<Value> {
    // The error of the parser could repeat a part of the data.
    serde_json::from_str(data).map_err(|_| failed(py, outbox_core::Error::invalid("the data is not JSON")))
}

fn nonce(py: Python<'_>, bytes: Option<&[u8]>) -> PyResult<encrypt::Entropy> {
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        failed(
            py,
            outbox_core::Error::invalid(format!("there are not {NONCE_LENGTH} bytes of randomness for each field")),
        )
    })
}

/// Returns the data with these fields encrypted, and the paths of those that are there. entropy: 12 random bytes per path.
#[pyfunction]
fn encrypt_fields(
    py: Python<'_>,
    key: &[u8],
    stream: &str,
    event_type: &str,
    data: &str,
    paths: Vec<String>,
    entropy: &[u8],
) -> PyResult<(String, Vec<String>)> {
    let mut nonces = Vec::with_capacity(paths.len());
    for i in 0..paths.len() {
        nonces.push(nonce(py, entropy.get(i * NONCE_LENGTH..(i + 1) * NONCE_LENGTH))?);
    }
    let mut data = parsed(py, data)?;
    let cipher = Cipher::new(key).map_err(|e| failed(py, e))?;
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let mut drawn = nonces.into_iter();
    // There is a nonce for each path, and no path is encrypted twice.
    let next = || drawn.next().unwrap_or_default();
    let done = cipher
        .encrypt_fields(&mut data, Place { stream, event_type }, &paths, next)
        .map_err(|e| failed(py, e))?
        .into_iter()
        .map(str::to_owned)
        .collect();
    Ok((data.to_string(), done))
}

/// Returns the data with these fields decrypted.
#[pyfunction]
fn decrypt_fields(
    py: Python<'_>,
    key: &[u8],
    stream: &str,
    event_type: &str,
    data: &str,
    paths: Vec<String>,
) -> PyResult<String> {
    let mut data = parsed(py, data)?;
    let cipher = Cipher::new(key).map_err(|e| failed(py, e))?;
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    cipher.decrypt_fields(&mut data, Place { stream, event_type }, &paths).map_err(|e| failed(py, e))?;
    Ok(data.to_string())
}

#[pyfunction]
fn check_paths(py: Python<'_>, paths: Vec<String>) -> PyResult<()> {
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    encrypt::check_paths(&paths).map_err(|e| failed(py, e))
}

#[pyfunction]
fn wrap_key<'py>(
    py: Python<'py>,
    master: &[u8],
    data_key: &[u8],
    name: &str,
    entropy: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let nonce = nonce(py, Some(entropy))?;
    let wrapped = Cipher::new(master).and_then(|cipher| cipher.wrap(data_key, name, nonce));
    Ok(PyBytes::new(py, &wrapped.map_err(|e| failed(py, e))?))
}

#[pyfunction]
fn unwrap_key<'py>(py: Python<'py>, master: &[u8], wrapped: &[u8], name: &str) -> PyResult<Bound<'py, PyBytes>> {
    let key = Cipher::new(master).and_then(|cipher| cipher.unwrap(wrapped, name));
    Ok(PyBytes::new(py, &key.map_err(|e| failed(py, e))?))
}

/// Returns rows of events with their data as JSON text in a text. The data of an event that was erased is null.
pub(crate) async fn with_text(outbox: &Outbox, mut rows: Vec<Value>) -> Result<Vec<Value>, pg_outbox::Error> {
    // As JSON, a row has null both for the null of JSON and for data that is gone. Few events have either of them.
    let unclear: Vec<(&str, i64)> = rows
        .iter()
        .filter(|row| row["data"].is_null() && row["body"].is_null())
        .filter_map(|row| Some((row["stream"].as_str()?, row["version"].as_i64()?)))
        .collect();
    let null = if unclear.is_empty() { HashSet::new() } else { json_nulls(outbox, &unclear).await? };
    for row in &mut rows {
        let is_null = row["message_id"].as_i64().is_some_and(|id| null.contains(&id));
        if let Some(data) = row.get_mut("data").filter(|data| is_null || !data.is_null()) {
            *data = Value::String(data.to_string());
        }
    }
    Ok(rows)
}

/// Returns the message ids of those of the events, named by stream and version, whose data is the null of JSON.
async fn json_nulls(outbox: &Outbox, events: &[(&str, i64)]) -> Result<HashSet<i64>, pg_outbox::Error> {
    let sql = "select e.message_id from unnest($1, $2) as k(stream, version)
        cross join lateral outbox.load(k.stream, k.version, 1) e where e.version = k.version and e.data is not null";
    let (streams, versions): (Vec<&str>, Vec<i64>) = events.iter().copied().unzip();
    let session = outbox.session().await?;
    let found = session.query_typed(sql, &[(&streams, Type::TEXT_ARRAY), (&versions, Type::INT8_ARRAY)]).await?;
    found.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The versions of event types that have upcasters.
#[pyclass]
struct Chains {
    chains: CoreChains,
}

#[pymethods]
impl Chains {
    #[new]
    fn new() -> Chains {
        Chains { chains: CoreChains::default() }
    }

    fn add(&mut self, py: Python<'_>, event_type: &str, from_version: u32) -> PyResult<()> {
        self.chains.add(event_type, from_version).map_err(|e| failed(py, e))
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.chains.check().map_err(|e| failed(py, e))
    }

    fn latest(&self, event_type: &str) -> u32 {
        self.chains.latest(event_type)
    }

    /// The versions from which upcasters run: from the first one, up to and without the second one.
    fn steps(&self, py: Python<'_>, event_type: &str, version: u32) -> PyResult<(u32, u32)> {
        let steps = self.chains.steps(event_type, version).map_err(|e| failed(py, e))?;
        Ok((steps.start, steps.end))
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Chains>()?;
    module.add_function(wrap_pyfunction!(encrypt_fields, module)?)?;
    module.add_function(wrap_pyfunction!(decrypt_fields, module)?)?;
    module.add_function(wrap_pyfunction!(check_paths, module)?)?;
    module.add_function(wrap_pyfunction!(wrap_key, module)?)?;
    module.add_function(wrap_pyfunction!(unwrap_key, module)?)
}
