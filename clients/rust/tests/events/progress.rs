//! The lines that show a rebuild are those of `tests/conformance/toolkit/progress.json`.

use std::time::Duration;

use pg_outbox::events::progress::{progress_bar, progress_line};
use pg_outbox::events::project::Progress;

use crate::suite::{files, text};

#[test]
fn lines_are_those_of_the_other_clients() {
    let (_, cases) = files("toolkit").into_iter().find(|(name, _)| name == "progress").unwrap();
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 5);
    for case in cases {
        let progress = Progress {
            done: case["done"].as_i64().unwrap(),
            total: case["total"].as_i64().unwrap(),
            rate: case["rate"].as_f64().unwrap(),
            remaining: case["seconds_left"].as_f64().map(Duration::from_secs_f64),
        };
        let (name, width) = (text(case, "projection").unwrap(), case["width"].as_u64().unwrap().try_into().unwrap());
        assert_eq!(progress_bar(name, progress, width), text(case, "bar").unwrap());
        assert_eq!(progress_line(name, progress, width), text(case, "plain").unwrap());
    }
}
