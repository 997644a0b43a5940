//! SQS. The topic of a message is the name of a queue, or its URL.

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry};

use super::{
    Failure, Service, Target, answers, attributes, failed, failure, group, is_group, is_name, shown, size, text,
};
use crate::record::Record;

/// The largest request, and the largest message of a queue that does not say another limit.
const LIMIT: usize = 262_144;

#[derive(Debug)]
pub(super) struct Sqs {
    client: Client,
    bytes: Option<usize>,
}

impl Sqs {
    pub(super) fn new(settings: &SdkConfig, bytes: Option<usize>) -> Sqs {
        Sqs { client: Client::new(settings), bytes }
    }
}

#[async_trait]
impl Service for Sqs {
    fn misnamed(&self, name: &str) -> Option<String> {
        let is_url = name.starts_with("https://") || name.starts_with("http://");
        (!is_url && !is_name(name, 80)).then(|| format!("\"{}\" is not the name of a queue", name.escape_default()))
    }

    async fn find(&self, name: &str) -> Result<Target, String> {
        let address = if name.contains("://") {
            name.to_owned()
        } else {
            let found = self.client.get_queue_url().queue_name(name).send().await.map_err(|error| shown(&error))?;
            found.queue_url().unwrap_or_default().to_owned()
        };
        let limit = match self.bytes {
            Some(bytes) => bytes,
            None => {
                let name = QueueAttributeName::MaximumMessageSize;
                let asked = self.client.get_queue_attributes().queue_url(&address).attribute_names(name.clone());
                let found = asked.send().await.map_err(|error| shown(&error))?;
                let limit = found.attributes().and_then(|all| all.get(&name)).and_then(|value| value.parse().ok());
                limit.unwrap_or(LIMIT)
            }
        };
        Ok(Target { fifo: address.ends_with(".fifo"), address, limit })
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
        let asked = self.client.send_message_batch().queue_url(&target.address).set_entries(Some(entries));
        let done = match asked.send().await {
            Ok(done) => done,
            Err(error) => return vec![Err(failed(&error)); records.len()],
        };
        let stored = done.successful().iter().map(|one| (one.id(), Ok(())));
        let not_stored = done.failed().iter().map(|one| (one.id(), Err(failure(one.code(), one.message()))));
        answers(records.len(), stored.chain(not_stored))
    }
}

fn entry(target: &Target, index: usize, record: &Record) -> Result<SendMessageBatchRequestEntry, String> {
    let mut entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(text(&record.body).0);
    if target.fifo {
        entry = entry.message_group_id(group(record, is_group)).message_deduplication_id(&record.webhook_id);
    }
    for (name, value) in attributes(record) {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
        entry = entry.message_attributes(name, value.map_err(|error| error.to_string())?);
    }
    entry.build().map_err(|error| error.to_string())
}
