//! `outbox-relay check`: whether the relays of a file can run, and what they would send next. Sends nothing.

use pg_outbox::error::Result;

use crate::config::Config;
use crate::record::Layout;
use crate::sink;
use crate::source::{Cursor, Source};

/// Messages that are shown.
const SHOWN: usize = 5;

/// Checks every relay of a file, prints what was found, and returns the exit code.
///
/// # Errors
/// Those of the database. A problem with a broker is printed.
pub(crate) async fn check(config: &Config) -> Result<u8> {
    let mut code = 0;
    for settings in &config.relays {
        let mut sink = sink::make(settings)?;
        let template = settings.template()?;
        let source = Source::new(&config.source, settings)?;
        let active = source.open().await?;
        let name = source.name(&active).await?;
        println!("relay {}: {} -> {}", settings.name, name, sink.describe());
        let cursor = active.cursor().await?;
        let head = active.head().await?;
        match cursor {
            Some(cursor) => println!("  cursor: position {} of {head}", cursor.position),
            None => println!("  cursor: none yet, begins at the {:?} of the feed; its head is {head}", settings.start),
        }
        let opened = match sink.look().await {
            Ok(opened) => opened,
            Err(why) => {
                println!("  broker: {why}");
                code = 4;
                continue;
            }
        };
        match opened.last {
            Some(last) if last.source != name => {
                println!("  broker: has messages of another source, \"{}\"", last.source);
                code = 4;
            }
            Some(last) => {
                println!("  broker: ok, ends with position {} of relay {}", last.place.position, last.relay);
            }
            None => println!("  broker: ok"),
        }
        let layout =
            Layout { format: settings.format, binding: sink.binding(), source: name, relay: settings.name.clone() };
        let read = active.read(cursor.map(Cursor::place).unwrap_or_default()).await?;
        for (message, epoch) in read.messages.iter().take(SHOWN) {
            let made = template.fill(message).and_then(|topic| layout.record(message, *epoch, topic));
            match made.and_then(|record| sink.refuses(&record).map_or(Ok(record), Err)) {
                Ok(record) => println!(
                    "  position {}: {} -> {} key {} {} bytes",
                    message.position,
                    message.topic,
                    record.topic,
                    record.key.as_deref().unwrap_or("-"),
                    record.body.len()
                ),
                Err(why) => {
                    println!("  position {}: {} -> refused: {why}", message.position, message.topic);
                    code = 4;
                }
            }
        }
        if read.messages.is_empty() {
            println!("  nothing to send");
        }
    }
    Ok(code)
}
