mod cursors;
mod health;
mod message_store;
mod reads;
