//! Finds the items of a step that fail by themselves.

use crate::pg::txn::{self, Failure};

/// Runs `work` on all items in a subtransaction; if that fails, on each half, and so on. Returns the items that fail by
/// themselves, by index. Inside a transaction.
///
/// # Errors
/// A failure that no item has caused: the caller has to repeat the transaction.
pub fn apart<T>(
    items: &[T],
    work: &mut dyn FnMut(&[T]) -> outbox_core::Result<()>,
) -> Result<Vec<(usize, Failure)>, Failure> {
    let mut failed = Vec::new();
    let mut parts = vec![(0, items.len())];
    while let Some((from, to)) = parts.pop() {
        let Err(failure) = txn::attempt(|| work(&items[from..to])) else { continue };
        if failure.is_transient() {
            return Err(failure);
        }
        match to - from {
            0 => {}
            1 => failed.push((from, failure)),
            n => parts.extend([(from + n / 2, to), (from, from + n / 2)]),
        }
    }
    Ok(failed)
}
