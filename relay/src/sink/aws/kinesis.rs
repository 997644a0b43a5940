//! Kinesis. The topic of a message is the name of a stream, and its key the key of the partition.
//!
//! Each record has a request of its own, because only this request orders: it names the sequence number of the record with the
//! same key before it, and the next one is greater.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;

use super::super::file::line;
use super::{Failure, Service, Target, failed, group, shown};
use crate::record::Record;

/// The largest record of a stream, unless the configuration says another limit.
const LIMIT: usize = 1_048_576;

/// The longest key of a partition.
const LONGEST_KEY: usize = 256;

/// Keys whose last sequence number is remembered. With more, they begin again.
const REMEMBERED: usize = 100_000;

#[derive(Debug)]
pub(super) struct Kinesis {
    client: Client,
    bytes: Option<usize>,
    /// The last sequence number of each stream and key.
    last: Mutex<HashMap<(String, String), String>>,
}

impl Kinesis {
    pub(super) fn new(settings: &SdkConfig, bytes: Option<usize>) -> Kinesis {
        Kinesis { client: Client::new(settings), bytes, last: Mutex::default() }
    }

    async fn put(&self, target: &Target, record: &Record) -> Result<(), Failure> {
        let data = serde_json::to_vec(&line(record)).map_err(|error| Failure::Refused(error.to_string()))?;
        let key = key(record);
        let place = (target.address.clone(), key.clone());
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        let request = self.client.put_record().stream_name(&target.address).partition_key(key).data(Blob::new(data));
        let done = request.set_sequence_number_for_ordering(before).send().await.map_err(|error| failed(&error))?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() > REMEMBERED {
            last.clear();
        }
        last.insert(place, done.sequence_number().to_owned());
        Ok(())
    }
}

/// Returns the key of the partition.
fn key(record: &Record) -> String {
    group(record, |key| (1..=LONGEST_KEY).contains(&key.chars().count())).into_owned()
}

#[async_trait]
impl Service for Kinesis {
    fn misnamed(&self, name: &str) -> Option<String> {
        let is_name = (1..=128).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        (!is_name).then(|| format!("\"{}\" is not the name of a stream", name.escape_default()))
    }

    async fn find(&self, name: &str) -> Result<Target, String> {
        self.client.describe_stream_summary().stream_name(name).send().await.map_err(|error| shown(&error))?;
        Ok(Target { address: name.to_owned(), fifo: false, limit: self.bytes.unwrap_or(LIMIT) })
    }

    fn size(&self, record: &Record) -> usize {
        let line = serde_json::to_vec(&line(record)).map_or(usize::MAX / 2, |line| line.len());
        line + key(record).len()
    }

    fn request(&self) -> (usize, usize) {
        (1, self.bytes.unwrap_or(LIMIT))
    }

    async fn send(&self, target: &Target, records: &[&Record]) -> Vec<Result<(), Failure>> {
        let mut answers = Vec::with_capacity(records.len());
        for record in records {
            answers.push(self.put(target, record).await);
        }
        answers
    }
}
