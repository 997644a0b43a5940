mod access;
mod endpoints;
mod formats;
mod hostile;
mod nasty;
mod tls;
