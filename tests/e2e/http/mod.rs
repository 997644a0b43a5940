mod access;
mod endpoints;
mod formats;
mod hostile;
mod misbehaving;
mod tls;
