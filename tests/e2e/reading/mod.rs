mod cursors;
mod health;
mod reads;
