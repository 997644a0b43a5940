//! Rows of events, and the parts of the core crate that the events of Python use: encryption of fields, wrapped keys, and chains of
//! upcasters.
//!
//! The fields of one event are one call, with JSON text in and out, so that numbers stay as they were written.

use outbox_core::encrypt::{self, Cipher, NONCE_LENGTH, Place};
use outbox_core::upcast::Chains as CoreChains;
use pg_outbox::Outbox;
use pg_outbox::call::call_columns;
use pg_outbox::chrono::{DateTime, Utc};
use pg_outbox::tokio_postgres::Row;
use pg_outbox::tokio_postgres::types::FromSql;
use pyo3::IntoPyObjectExt as _;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
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

/// The columns of events that Python reads. JSON is text: the parser of Python does not round the numbers of the data, and the null of
/// JSON is not the null of an event that was erased.
const COLUMNS: &str =
    "r.position, r.epoch, r.message_id, r.version, r.stream, r.type, r.event_id::text, nullif(r.metadata, '{}')::text,
    r.tenant, r.occurred_at, r.recorded_at, r.content_type, r.data::text, r.body";

/// Calls a function that returns events.
pub(crate) async fn rows(outbox: &Outbox, function: &str, args: &str) -> Result<Vec<Row>, pg_outbox::Error> {
    let args: Value = serde_json::from_str(args)?;
    call_columns(&**outbox.session().await?, function, args, COLUMNS).await
}

fn column<'a, 'py, T: FromSql<'a> + IntoPyObject<'py>>(
    py: Python<'py>,
    row: &'a Row,
    i: usize,
) -> PyResult<Bound<'py, PyAny>> {
    row.try_get::<_, Option<T>>(i).map_err(|error| failed(py, error))?.into_bound_py_any(py)
}

/// Returns a time in microseconds since 1970.
fn time<'py>(py: Python<'py>, row: &Row, i: usize) -> PyResult<Bound<'py, PyAny>> {
    let at: Option<DateTime<Utc>> = row.try_get(i).map_err(|error| failed(py, error))?;
    at.map(|at| at.timestamp_micros()).into_bound_py_any(py)
}

/// Returns events as tuples of their columns. The last one is the content: text of JSON, bytes, or none.
pub(crate) fn tuples(py: Python<'_>, rows: Vec<Row>) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for row in &rows {
        let body: Option<&[u8]> = row.try_get(13).map_err(|error| failed(py, error))?;
        let content = match body {
            Some(body) => PyBytes::new(py, body).into_any(),
            None => column::<&str>(py, row, 12)?,
        };
        let columns = [
            column::<i64>(py, row, 0)?,
            column::<i32>(py, row, 1)?,
            column::<i64>(py, row, 2)?,
            column::<i64>(py, row, 3)?,
            column::<&str>(py, row, 4)?,
            column::<&str>(py, row, 5)?,
            column::<&str>(py, row, 6)?,
            column::<&str>(py, row, 7)?,
            column::<&str>(py, row, 8)?,
            time(py, row, 9)?,
            time(py, row, 10)?,
            column::<&str>(py, row, 11)?,
            content,
        ];
        list.append(PyTuple::new(py, columns)?)?;
    }
    Ok(list.into_any().unbind())
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
