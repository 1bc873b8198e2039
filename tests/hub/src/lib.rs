//! A model hub on this machine that misbehaves on demand.
//!
//! [`TestHub`] speaks as much of the Hugging Face Hub's protocol as its clients need to list and
//! download models: `/api/models/...`, `/NAME/resolve/...` with `HEAD` and `GET`, redirects of
//! large files to a store on another port, ranges, entity tags, error codes, access tokens.
//! [`Fault`]s make it drop connections, cut, damage and delay what it sends, or refuse it. All
//! requests are logged, with the bytes that were sent.
#![warn(missing_docs)]
#![allow(clippy::result_large_err)] // An error is the answer to send.

mod answer;
mod body;
mod fault;
mod repo;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use fault::{Fault, FaultKind, Part};
pub use repo::{Repo, RepoFile};

/// A running hub; stopped when it is dropped.
pub struct TestHub {
    hub: SocketAddr,
    store: SocketAddr,
    state: Arc<State>,
    servers: Vec<JoinHandle<()>>,
}

/// A request and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Served {
    /// `GET` or `HEAD`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// The file's name, where it is about a file's bytes.
    pub file: Option<String>,
    /// The first byte that was asked for.
    pub from: u64,
    /// Status of the answer.
    pub status: u16,
    /// Bytes of a file that were sent.
    pub sent_bytes: u64,
    /// An access token came along.
    pub had_token: bool,
    /// It was the store that was asked, not the hub itself.
    pub at_store: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) repos: Mutex<HashMap<String, Arc<Repo>>>,
    /// Token and account.
    pub(crate) tokens: Mutex<HashMap<String, String>>,
    pub(crate) faults: Mutex<Vec<Fault>>,
    log: Mutex<Vec<Served>>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Writes a request down; its place, for what is sent later.
    pub(crate) fn log(&self, served: Served) -> usize {
        let mut log = locked(&self.log);
        log.push(served);
        log.len() - 1
    }

    pub(crate) fn sent(&self, place: usize, bytes: u64) {
        if let Some(served) = locked(&self.log).get_mut(place) {
            served.sent_bytes += bytes;
        }
    }

    pub(crate) fn served(&self) -> Vec<Served> {
        locked(&self.log).clone()
    }

    /// The fault that this request meets, if any; one less is left of it then.
    pub(crate) fn fault(&self, part: Part, name: &str) -> Option<FaultKind> {
        let mut faults = locked(&self.faults);
        let index = faults.iter().position(|fault| fault.applies(part, name))?;
        let kind = faults[index].kind.clone();
        faults[index].times -= 1;
        if faults[index].times == 0 {
            faults.remove(index);
        }
        Some(kind)
    }
}

impl TestHub {
    /// Begins to listen on this machine's loopback address; port 0 takes any free one.
    ///
    /// # Errors
    /// Where the port is taken.
    pub async fn start(port: u16) -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let hub = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let store = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (hub_at, store_at) = (hub.local_addr()?, store.local_addr()?);
        let servers = vec![
            tokio::spawn(serve(hub, Arc::clone(&state), Some(store_at))),
            tokio::spawn(serve(store, Arc::clone(&state), None)),
        ];
        Ok(Self {
            hub: hub_at,
            store: store_at,
            state,
            servers,
        })
    }

    /// For `HF_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.hub)
    }

    /// Where large files are.
    pub fn store_url(&self) -> String {
        format!("http://{}", self.store)
    }

    /// Publishes a repository, or a new commit of it.
    pub fn publish(&self, name: &str, repo: Repo) {
        locked(&self.state.repos).insert(name.to_owned(), Arc::new(repo));
    }

    /// Makes a token good, for the account `name`.
    pub fn allow(&self, token: &str, name: &str) {
        locked(&self.state.tokens).insert(token.to_owned(), name.to_owned());
    }

    /// From now on, requests that it applies to meet this fault. The first that applies is taken.
    pub fn misbehave(&self, fault: Fault) {
        locked(&self.state.faults).push(fault);
    }

    /// From now on it behaves.
    pub fn behave(&self) {
        locked(&self.state.faults).clear();
    }

    /// All requests so far.
    pub fn served(&self) -> Vec<Served> {
        self.state.served()
    }

    /// Bytes of each file that were sent so far.
    pub fn sent_bytes(&self) -> HashMap<String, u64> {
        let mut sent = HashMap::new();
        for served in self.served() {
            if let Some(file) = served.file {
                *sent.entry(file).or_default() += served.sent_bytes;
            }
        }
        sent
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

/// Answers on `listener`: as the hub, where it knows a store to redirect to, else as the store.
async fn serve(listener: TcpListener, state: Arc<State>, store: Option<SocketAddr>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        // Dropped, and with them aborted, together with the listener.
        connections.spawn(async move {
            let answer = service_fn(|request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer::answer(state, store, request).await) }
            });
            // A connection that a fault has broken is no news.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}
