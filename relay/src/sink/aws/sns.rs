//! SNS. The topic of a message is the ARN of a topic.

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sns::Client;
use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};

use super::{
    Failure, Service, Target, answers, attributes, failed, failure, group, is_group, is_name, shown, size, text,
};
use crate::record::Record;

/// The largest message, and the largest request.
const LIMIT: usize = 262_144;

#[derive(Debug)]
pub(super) struct Sns {
    client: Client,
    bytes: Option<usize>,
}

impl Sns {
    pub(super) fn new(settings: &SdkConfig, bytes: Option<usize>) -> Sns {
        Sns { client: Client::new(settings), bytes }
    }
}

#[async_trait]
impl Service for Sns {
    fn misnamed(&self, name: &str) -> Option<String> {
        let is_arn = name.starts_with("arn:") && name.rsplit(':').next().is_some_and(|last| is_name(last, 256));
        (!is_arn).then(|| format!("\"{}\" is not the ARN of a topic", name.escape_default()))
    }

    async fn find(&self, name: &str) -> Result<Target, String> {
        self.client.get_topic_attributes().topic_arn(name).send().await.map_err(|error| shown(&error))?;
        Ok(Target { address: name.to_owned(), fifo: name.ends_with(".fifo"), limit: self.bytes.unwrap_or(LIMIT) })
    }

    fn size(&self, record: &Record) -> usize {
        size(record)
    }

    fn request(&self) -> (usize, usize) {
        (10, LIMIT)
    }

    async fn send(&self, target: &Target, records: &[&Record]) -> Vec<Result<(), Failure>> {
        let entries: Result<Vec<_>, _> =
            records.iter().enumerate().map(|(index, record)| entry(target, index, record)).collect();
        let entries = match entries {
            Ok(entries) => entries,
            Err(why) => return vec![Err(Failure::Refused(why)); records.len()],
        };
        let asked = self.client.publish_batch().topic_arn(&target.address);
        let done = match asked.set_publish_batch_request_entries(Some(entries)).send().await {
            Ok(done) => done,
            Err(error) => return vec![Err(failed(&error)); records.len()],
        };
        let stored = done.successful().iter().filter_map(|one| Some((one.id()?, Ok(()))));
        let not_stored = done.failed().iter().map(|one| (one.id(), Err(failure(one.code(), one.message()))));
        answers(records.len(), stored.chain(not_stored))
    }
}

fn entry(target: &Target, index: usize, record: &Record) -> Result<PublishBatchRequestEntry, String> {
    let mut entry = PublishBatchRequestEntry::builder().id(index.to_string()).message(text(&record.body).0);
    if target.fifo {
        entry = entry.message_group_id(group(record, is_group)).message_deduplication_id(&record.webhook_id);
    }
    for (name, value) in attributes(record) {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
        entry = entry.message_attributes(name, value.map_err(|error| error.to_string())?);
    }
    entry.build().map_err(|error| error.to_string())
}
