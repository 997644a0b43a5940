//! The server: it listens, bounds connections and headers, and ends in time.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower_service::Service as _;

use pg_outbox::connect::Target;
use pg_outbox::error::{Error, Result};

use crate::app::App;
use crate::http::{Peer, router};
use crate::options::Options;
use crate::samples;

/// The connections at the same time. Others wait to be accepted.
const CONNECTIONS: usize = 256;

/// The longest time between two requests of a connection, and from the first byte of a head to its last.
const HEAD_LIMIT: Duration = Duration::from_secs(15);

/// The longest life of a connection. A client that holds connections for ever would keep others out.
const LIFETIME: Duration = Duration::from_secs(60);

/// The time for the request in flight when the life of its connection is over.
const LAST_REQUEST: Duration = Duration::from_secs(45);

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 32 * 1024;

/// The time for requests in flight when the server ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// A server that listens and does not answer yet.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens. The database is not asked yet; it may be down, and pages say so.
    ///
    /// # Errors
    /// 22023 if the options contradict each other or would open the dashboard to others; kind retry if the address is
    /// taken.
    pub async fn bind(target: Target, options: Options) -> Result<Server> {
        Server::bind_several(vec![(String::new(), target)], options).await
    }

    /// Listens for several databases with their names. Each has its pages below `/db/NAME/`, and `/` says which one is not ok.
    ///
    /// # Errors
    /// Those of [`Server::bind`], and 22023 if a name is malformed or there twice.
    pub async fn bind_several(databases: Vec<(String, Target)>, options: Options) -> Result<Server> {
        let wanted = options.listen;
        let app = Arc::new(App::new(databases, options)?);
        let cannot = |error: std::io::Error| {
            Error::connection(format!("cannot listen on {wanted}"))
                .detail(error.to_string())
                .hint("--listen names another address.")
        };
        let listener = TcpListener::bind(wanted).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Server { app, listener, address })
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the token that the server made up, because the options had none.
    pub fn made_up_token(&self) -> Option<&str> {
        self.app.made_up_token()
    }

    /// Answers requests until `stop` ends.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let router = router(self.app.clone());
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut taking = JoinSet::new();
        for place in &self.app.places {
            let place = place.clone();
            let (app, exported) = (self.app.clone(), place.clone());
            taking.spawn(async move { samples::follow(&place).await });
            taking.spawn(async move { app.export(&exported).await });
        }
        tokio::pin!(stop);
        loop {
            let accepted = async {
                let permit = permits.clone().acquire_owned().await.ok()?;
                let (stream, peer) = self.listener.accept().await.ok()?;
                Some((permit, stream, peer))
            };
            tokio::select! {
                () = &mut stop => break,
                accepted = accepted => match accepted {
                    Some((permit, stream, peer)) => {
                        let router = router.clone();
                        connections.spawn(async move {
                            serve(router, stream, peer).await;
                            drop(permit);
                        });
                    }
                    // This process has no file descriptor left for now.
                    None => tokio::time::sleep(Duration::from_millis(50)).await,
                },
            }
            while connections.try_join_next().is_some() {}
        }
        drop(self.listener);
        let _ = tokio::time::timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
    }
}

/// Answers the requests of one connection.
async fn serve(router: Router, stream: TcpStream, peer: SocketAddr) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut router = router.clone();
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Peer(peer.ip()));
        async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // An error is one of the connection: the browser is gone.
    if tokio::time::timeout(LIFETIME, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_REQUEST, connection).await;
    }
}
