//! Requests and their answers.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::body::{Answer, bytes_of};
use crate::{Fault, FaultKind, Part, Repo, RepoFile, Served, State, locked};

const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");
const REPO_COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");

/// Answers a request, at the hub where `store` is given, else at the store.
pub(crate) async fn answer(
    state: Arc<State>,
    store: Option<SocketAddr>,
    request: Request<Incoming>,
) -> Response<Answer> {
    let path = percent_decode_str(request.uri().path())
        .decode_utf8_lossy()
        .into_owned();
    if let Some(rest) = path.strip_prefix("/_control/") {
        return control(&state, rest, request).await;
    }
    let token = header(&request, header::AUTHORIZATION);
    let range = header(&request, header::RANGE).and_then(|range| range_start(&range));
    let ask = Ask {
        is_head: request.method() == Method::HEAD,
        method: request.method().to_string(),
        target: request.uri().to_string(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        from: range.unwrap_or(0),
        if_range: header(&request, header::IF_RANGE),
        token: token.map(|token| token.trim_start_matches("Bearer ").to_owned()),
        store,
        state,
    };
    let mut response = ask.answer(&path);
    if ask.is_head {
        // The length stays what it would be.
        *response.body_mut() = Answer::Whole(None);
    }
    response
}

/// Faults and the log, for tests in other languages and processes.
async fn control(state: &State, what: &str, request: Request<Incoming>) -> Response<Answer> {
    match (request.method(), what) {
        (&Method::POST, "faults") => {
            let body = request.into_body().collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            match serde_json::from_slice::<Vec<Fault>>(&body) {
                Ok(faults) => {
                    locked(&state.faults).extend(faults);
                    reply(StatusCode::OK, &json!({}))
                }
                Err(error) => reply(
                    StatusCode::BAD_REQUEST,
                    &json!({"error": error.to_string()}),
                ),
            }
        }
        (&Method::DELETE, "faults") => {
            locked(&state.faults).clear();
            reply(StatusCode::OK, &json!({}))
        }
        (&Method::GET, "log") => {
            let log = serde_json::to_value(state.served()).unwrap_or_default();
            reply(StatusCode::OK, &log)
        }
        _ => reply(StatusCode::NOT_FOUND, &json!({"error": "faults or log"})),
    }
}

/// An answer that is not what was asked for.
type Refusal = Box<Response<Answer>>;

/// One request.
struct Ask {
    state: Arc<State>,
    store: Option<SocketAddr>,
    method: String,
    target: String,
    query: String,
    from: u64,
    if_range: Option<String>,
    token: Option<String>,
    is_head: bool,
}

impl Ask {
    fn answer(&self, path: &str) -> Response<Answer> {
        let response = match self.store {
            None => self.at_store(path),
            Some(store) => self
                .account()
                .and_then(|account| self.at_hub(store, path, account.as_deref())),
        };
        response.unwrap_or_else(|refusal| *refusal)
    }

    /// The account of the token, if one came along.
    fn account(&self) -> Result<Option<String>, Refusal> {
        let Some(token) = &self.token else {
            return Ok(None);
        };
        let account = locked(&self.state.tokens).get(token).cloned();
        match account {
            Some(account) => Ok(Some(account)),
            None => Err(self.refuse(
                StatusCode::UNAUTHORIZED,
                None,
                "Invalid credentials in Authorization header",
            )),
        }
    }

    fn at_hub(
        &self,
        store: SocketAddr,
        path: &str,
        account: Option<&str>,
    ) -> Result<Response<Answer>, Refusal> {
        if let Some(rest) = path.strip_prefix("/api/") {
            if let Some(fault) = self.state.fault(Part::Api, rest) {
                return Ok(self.failing(fault, rest));
            }
            return self.api(rest, account);
        }
        let (name, rest) = path
            .trim_start_matches('/')
            .split_once("/resolve/")
            .ok_or_else(|| self.refuse(StatusCode::NOT_FOUND, None, "there is no such page"))?;
        let repo = self.repo(name, account)?;
        let (revision, file_name) = rest.split_once('/').unwrap_or((rest, ""));
        self.revision(&repo, revision)?;
        self.may_read(&repo, account)?;
        let file = repo.file(file_name).ok_or_else(|| {
            self.refuse(
                StatusCode::NOT_FOUND,
                Some("EntryNotFound"),
                "Entry not found",
            )
        })?;
        let fault = self.state.fault(Part::Resolve, file_name);
        let mut etag = file.etag().to_owned();
        match fault {
            Some(FaultKind::Etag { etag: other }) => etag = other,
            Some(fault) => return Ok(self.failing(fault, file_name)),
            None => {}
        }
        let mut response = match &file.sha256 {
            None => self.send(file, &format!("\"{etag}\"")),
            Some(sha256) => {
                self.log(302, None);
                let mut response = plain(StatusCode::FOUND, Bytes::new());
                let location = format!("http://{store}/store/{name}/{sha256}?signature=0");
                put(&mut response, header::LOCATION, &location);
                put(&mut response, LINKED_ETAG, &format!("\"{etag}\""));
                put(&mut response, LINKED_SIZE, &file.size.to_string());
                response
            }
        };
        put(&mut response, REPO_COMMIT, repo.commit());
        Ok(response)
    }

    fn api(&self, rest: &str, account: Option<&str>) -> Result<Response<Answer>, Refusal> {
        if rest == "whoami-v2" {
            let name = account.ok_or_else(|| {
                self.refuse(
                    StatusCode::UNAUTHORIZED,
                    None,
                    "Invalid username or password.",
                )
            })?;
            self.log(200, None);
            return Ok(reply(
                StatusCode::OK,
                &json!({"type": "user", "name": name, "auth": {"type": "access_token"}}),
            ));
        }
        let Some(rest) = rest.strip_prefix("models/") else {
            return Err(self.refuse(StatusCode::NOT_FOUND, None, "there is no such question"));
        };
        let (name, tail) = match (rest.split_once("/revision/"), rest.split_once("/tree/")) {
            (Some((name, revision)), _) => (name, ("info", revision)),
            (_, Some((name, revision))) => (name, ("tree", revision)),
            _ => (rest, ("info", "main")),
        };
        let repo = self.repo(name, account)?;
        self.revision(&repo, tail.1)?;
        let with_blobs = self
            .query
            .split('&')
            .any(|q| q.eq_ignore_ascii_case("blobs=true"));
        self.log(200, None);
        Ok(match tail.0 {
            "tree" => reply(StatusCode::OK, &repo.tree()),
            _ => reply(StatusCode::OK, &repo.info(name, with_blobs)),
        })
    }

    fn repo(&self, name: &str, account: Option<&str>) -> Result<Arc<Repo>, Refusal> {
        let repo = locked(&self.state.repos).get(name).cloned();
        repo.filter(|repo| !repo.is_private() || account.is_some())
            .ok_or_else(|| {
                // Strangers are not told what there is.
                let status = match account {
                    Some(_) => StatusCode::NOT_FOUND,
                    None => StatusCode::UNAUTHORIZED,
                };
                self.refuse(status, Some("RepoNotFound"), "Repository not found")
            })
    }

    fn revision(&self, repo: &Repo, revision: &str) -> Result<(), Refusal> {
        match revision == "main" || revision == repo.commit() {
            true => Ok(()),
            false => Err(self.refuse(
                StatusCode::NOT_FOUND,
                Some("RevisionNotFound"),
                "Invalid rev id",
            )),
        }
    }

    fn may_read(&self, repo: &Repo, account: Option<&str>) -> Result<(), Refusal> {
        if !repo.is_gated() || account.is_some_and(|name| repo.has_accepted(name)) {
            return Ok(());
        }
        let status = match account {
            Some(_) => StatusCode::FORBIDDEN,
            None => StatusCode::UNAUTHORIZED,
        };
        Err(self.refuse(
            status,
            Some("GatedRepo"),
            "Access to this model is restricted",
        ))
    }

    fn at_store(&self, path: &str) -> Result<Response<Answer>, Refusal> {
        let found = path.strip_prefix("/store/").and_then(|rest| {
            let (name, sha256) = rest.rsplit_once('/')?;
            let repo = locked(&self.state.repos).get(name).cloned()?;
            let files = repo.files();
            files
                .iter()
                .find(|f| f.sha256.as_deref() == Some(sha256))
                .cloned()
        });
        match found {
            Some(file) => Ok(self.send(&file, &format!("\"store-{}\"", &file.etag()[..16]))),
            None => Err(self.refuse(StatusCode::FORBIDDEN, None, "signature expired")),
        }
    }

    /// A file's bytes, or what goes wrong with them.
    fn send(&self, file: &RepoFile, etag: &str) -> Response<Answer> {
        let fault = match self.is_head {
            true => None,
            false => self.state.fault(Part::Bytes, &file.name),
        };
        let mut etag = etag.to_owned();
        let mut from = self.from;
        let mut in_the_way = None;
        match fault {
            Some(FaultKind::Status { .. } | FaultKind::Redirect { .. }) => {
                return self.failing(fault.expect("BUG: it is there"), &file.name);
            }
            Some(FaultKind::Etag { etag: other }) => etag = format!("\"{other}\""),
            Some(FaultKind::IgnoreRange) => from = 0,
            other => in_the_way = other,
        }
        if self.if_range.as_ref().is_some_and(|wanted| *wanted != etag) {
            from = 0;
        }
        if from >= file.size && from > 0 {
            self.log(416, Some(&file.name));
            let mut response = plain(StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new());
            put(
                &mut response,
                header::CONTENT_RANGE,
                &format!("bytes */{}", file.size),
            );
            return response;
        }
        let status = match from {
            0 => StatusCode::OK,
            _ => StatusCode::PARTIAL_CONTENT,
        };
        let place = self.log(status.as_u16(), Some(&file.name));
        let body = match self.is_head {
            true => Answer::Whole(None),
            false => bytes_of(
                Arc::clone(&self.state),
                place,
                file.clone(),
                from,
                file.size,
                in_the_way,
            ),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        put(&mut response, header::ETAG, &etag);
        put(&mut response, header::ACCEPT_RANGES, "bytes");
        put(
            &mut response,
            header::CONTENT_TYPE,
            "application/octet-stream",
        );
        if self.is_head {
            put(
                &mut response,
                header::CONTENT_LENGTH,
                &file.size.to_string(),
            );
        }
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {from}-{}/{}", file.size - 1, file.size);
            put(&mut response, header::CONTENT_RANGE, &range);
        }
        response
    }

    /// What a fault makes of an answer that is no file.
    fn failing(&self, fault: FaultKind, name: &str) -> Response<Answer> {
        match fault {
            FaultKind::Status {
                status,
                retry_after,
                error_code,
                message,
            } => {
                self.log(status, None);
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
                let mut response = reply(status, &json!({"error": message}));
                for (name, value) in [
                    (header::RETRY_AFTER, retry_after),
                    (ERROR_CODE, error_code),
                    (ERROR_MESSAGE, message),
                ] {
                    if let Some(value) = value {
                        put(&mut response, name, &value);
                    }
                }
                response
            }
            FaultKind::Redirect { to } => {
                self.log(302, None);
                let mut response = plain(StatusCode::FOUND, Bytes::new());
                put(&mut response, header::LOCATION, &to);
                response
            }
            // An answer that breaks off before it has begun, or is none.
            _ => {
                self.log(200, None);
                let half = format!("{{\"broken\": \"{name}");
                plain(StatusCode::OK, half.into())
            }
        }
    }

    fn refuse(&self, status: StatusCode, code: Option<&str>, message: &str) -> Refusal {
        self.log(status.as_u16(), None);
        let mut response = reply(status, &json!({"error": message}));
        if let Some(code) = code {
            put(&mut response, ERROR_CODE, code);
        }
        put(&mut response, ERROR_MESSAGE, message);
        Box::new(response)
    }

    fn log(&self, status: u16, file: Option<&str>) -> usize {
        self.state.log(Served {
            method: self.method.clone(),
            path: self.target.clone(),
            file: file.map(str::to_owned),
            from: self.from,
            status,
            sent_bytes: 0,
            had_token: self.token.is_some(),
            at_store: self.store.is_none(),
        })
    }
}

fn header(request: &Request<Incoming>, name: HeaderName) -> Option<String> {
    Some(request.headers().get(name)?.to_str().ok()?.to_owned())
}

/// Of `bytes=N-`.
fn range_start(range: &str) -> Option<u64> {
    range
        .strip_prefix("bytes=")?
        .split_once('-')?
        .0
        .parse()
        .ok()
}

fn plain(status: StatusCode, bytes: Bytes) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Some(bytes)));
    *response.status_mut() = status;
    response
}

fn reply(status: StatusCode, json: &Value) -> Response<Answer> {
    let mut response = plain(status, json.to_string().into());
    put(&mut response, header::CONTENT_TYPE, "application/json");
    response
}

fn put(response: &mut Response<Answer>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
