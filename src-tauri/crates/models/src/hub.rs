//! The hub's protocol: what a repository holds, and the bytes of its files.
//!
//! Three requests are all there is: `GET /api/models/NAME/revision/REVISION?blobs=true` lists
//! files with sizes and hashes, `GET /NAME/resolve/COMMIT/FILE` gives a file, mostly by way of a
//! redirect to a store elsewhere, and `GET /api/whoami-v2` tells whose token it is. Redirects are
//! followed here and not by the HTTP client: the hub's own answer carries the file's hash, and
//! the token must go no further than to the hub.
//!
//! The requests are made with plain `reqwest`, not with the client of Hugging Face's own crate,
//! whose names and layout of the cache are used (see the crate's documentation).

mod answer;
mod listing;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use url::Url;

use crate::names::RepoName;
use crate::record::RepoFile;
use crate::token::Token;
use crate::transfer::{Failure, TransferOptions};
use crate::{EndpointFault, ForeignFault, InvalidInput, ModelsError, Result};

pub(crate) use listing::Listing;

/// Redirects that one request follows.
const MAX_REDIRECTS: usize = 8;

/// Bytes of an answer to a question about a repository.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A hub and how to talk to it.
pub(crate) struct Hub {
    client: Client,
    endpoint: Url,
    token: Option<Token>,
    is_offline: bool,
}

/// The bytes of a file from some offset on.
pub(crate) struct Body {
    pub(crate) response: Response,
    /// Where in the file the first byte stands.
    pub(crate) start: u64,
    /// As the server that sends the bytes names them.
    pub(crate) etag: Option<String>,
}

/// What is asked of a file.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) repo: &'a RepoName,
    pub(crate) commit: &'a str,
    pub(crate) file: &'a RepoFile,
    /// Bytes that are here already.
    pub(crate) offset: u64,
    /// [`Body::etag`] of when they came.
    pub(crate) etag: Option<&'a str>,
}

impl Hub {
    /// # Errors
    /// An endpoint that is no address, or a proxy in the environment that is none.
    pub(crate) fn new(
        endpoint: &str,
        token: Option<Token>,
        is_offline: bool,
        options: &TransferOptions,
    ) -> Result<Self> {
        let endpoint = parse_endpoint(endpoint)?;
        // Fails only where another part of the program has chosen already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("octet/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.idle_timeout)
            .build()
            .map_err(|error| {
                ModelsError::from(InvalidInput::NetworkSettings {
                    detail: answer::causes(&error),
                })
            })?;
        Ok(Self {
            client,
            endpoint,
            token,
            is_offline,
        })
    }

    /// The hub's host, for messages.
    pub(crate) fn host(&self) -> String {
        host(&self.endpoint)
    }

    /// Files of a repository at a branch or commit.
    pub(crate) async fn list(&self, repo: &RepoName, revision: &str) -> Result<Listing, Failure> {
        let mut url = self.url(&format!("api/models/{repo}/revision/{revision}"));
        url.set_query(Some("blobs=true"));
        let response = self.get(url, HeaderMap::new(), repo.as_str()).await?;
        let bytes = self.read(response, MAX_ANSWER_BYTES).await?;
        listing::parse(&self.host(), &bytes)
    }

    /// Whom the token belongs to.
    pub(crate) async fn who_am_i(&self) -> Result<String, Failure> {
        #[derive(serde::Deserialize)]
        struct Account {
            name: String,
        }
        if self.token.is_none() {
            let reason = "there is none".to_owned();
            return Err(ModelsError::Token { reason }.into());
        }
        let url = self.url("api/whoami-v2");
        let response = self.get(url, HeaderMap::new(), "account").await?;
        let bytes = self.read(response, 1 << 20).await?;
        let account: Account = serde_json::from_slice(&bytes)
            .map_err(|error| self.nonsense(format!("an account without a name: {error}")))?;
        Ok(account.name)
    }

    /// A small file as a whole, compared with its hash.
    pub(crate) async fn small_file(
        &self,
        repo: &RepoName,
        commit: &str,
        file: &RepoFile,
        max_bytes: usize,
    ) -> Result<Vec<u8>, Failure> {
        if file.size > max_bytes as u64 {
            return Err(Failure::Final(ModelsError::Foreign {
                what: repo.to_string(),
                fault: ForeignFault::FileTooLarge {
                    file: file.path.clone(),
                    found: file.size,
                    limit: max_bytes as u64,
                },
            }));
        }
        let ask = Ask {
            repo,
            commit,
            file,
            offset: 0,
            etag: None,
        };
        let body = self.file(ask).await?;
        let bytes = self.read(body.response, max_bytes).await?;
        if bytes.len() as u64 != file.size {
            let (found, size) = (bytes.len(), file.size);
            return Err(self.passing(format!("{} ended after {found} of {size} bytes", file.path)));
        }
        if let Some(mut hash) = crate::content_hash::ContentHash::for_blob(&file.blob, file.size) {
            hash.update(&bytes);
            let found = hash.finish();
            if found != file.blob {
                return Err(Failure::passing(ModelsError::Checksum {
                    file: file.path.clone(),
                    expected: file.blob.clone(),
                    found,
                }));
            }
        }
        Ok(bytes)
    }

    /// The bytes of a file from `ask.offset` on; from the beginning, where the server does not
    /// know ranges or has other content than it had.
    pub(crate) async fn file(&self, ask: Ask<'_>) -> Result<Body, Failure> {
        let file = ask.file;
        let mut headers = HeaderMap::new();
        if ask.offset > 0 {
            let range = format!("bytes={}-", ask.offset);
            headers.insert(header::RANGE, ascii(&range)?);
            // Weak tags promise nothing about bytes.
            if let Some(etag) = ask.etag.filter(|etag| !etag.starts_with("W/")) {
                headers.insert(header::IF_RANGE, ascii(etag)?);
            }
        }
        let path: Vec<&str> = file.path.split('/').collect();
        let mut url = self.url(&format!("{}/resolve/{}", ask.repo, ask.commit));
        url.path_segments_mut()
            .expect("BUG: the endpoint is http or https")
            .extend(path);
        let what = format!("{} in {}", file.path, ask.repo);
        let (response, published) = self.follow(url, headers, &what).await?;

        if published
            .etag
            .as_deref()
            .is_some_and(|etag| etag != file.blob)
            || published.size.is_some_and(|size| size != file.size)
        {
            return Err(Failure::Changed(file.path.clone()));
        }
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(response.headers(), header::CONTENT_RANGE.as_str());
                match range.as_deref().and_then(answer::content_range) {
                    Some((start, total))
                        if start == ask.offset && total.is_none_or(|t| t == file.size) =>
                    {
                        start
                    }
                    _ => {
                        let range = range.unwrap_or_default();
                        let why = format!(
                            "{}: asked for byte {}, got {range:?}",
                            file.path, ask.offset
                        );
                        return Err(self.passing(why));
                    }
                }
            }
            _ => 0,
        };
        Ok(Body {
            start,
            etag: text(response.headers(), header::ETAG.as_str()),
            response,
        })
    }

    /// The next bytes; none at the end. Nothing for a while is a failure.
    pub(crate) async fn chunk(&self, body: &mut Body) -> Result<Option<bytes::Bytes>, Failure> {
        let chunk = body.response.chunk().await;
        chunk.map_err(|error| answer::broken(&host(body.response.url()), &error))
    }

    fn url(&self, path: &str) -> Url {
        below(&self.endpoint, path)
    }

    async fn get(&self, url: Url, headers: HeaderMap, what: &str) -> Result<Response, Failure> {
        Ok(self.follow(url, headers, what).await?.0)
    }

    /// Asks, and follows redirects. The answer, and what the hub itself says of the file.
    async fn follow(
        &self,
        mut url: Url,
        mut headers: HeaderMap,
        what: &str,
    ) -> Result<(Response, Published), Failure> {
        if self.is_offline {
            return Err(Failure::Final(ModelsError::Network {
                host: self.host(),
                reason: "the variable HF_HUB_OFFLINE forbids it".to_owned(),
            }));
        }
        // A compressed answer would have other bytes than the range that was asked for.
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        let mut published = Published::default();
        for _ in 0..=MAX_REDIRECTS {
            let at_hub = url.origin() == self.endpoint.origin();
            let mut request = self.client.get(url.clone()).headers(headers.clone());
            if let Some(token) = self.token.as_ref().filter(|_| at_hub) {
                let mut value = ascii(&format!("Bearer {}", token.reveal()))?;
                value.set_sensitive(true);
                request = request.header(header::AUTHORIZATION, value);
            }
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) => return Err(answer::unreachable(&host(&url), &error)),
            };
            let status = response.status();
            if at_hub {
                published.learn(&response);
            }
            if status.is_success() {
                return Ok((response, published));
            }
            if !status.is_redirection() {
                let context = answer::Context {
                    what,
                    at_hub,
                    with_token: self.token.is_some(),
                };
                return Err(answer::refused(&context, response).await);
            }
            let target = text(response.headers(), header::LOCATION.as_str());
            let target = target.and_then(|target| url.join(&target).ok());
            let Some(target) = target.filter(|t| matches!(t.scheme(), "http" | "https")) else {
                return Err(self.passing(format!("{what}: a redirect to nowhere")));
            };
            if url.scheme() == "https" && target.scheme() == "http" {
                return Err(Failure::Final(ModelsError::Tls {
                    host: host(&target),
                    reason: "the hub redirects to an address without encryption".to_owned(),
                }));
            }
            url = target;
        }
        Err(self.passing(format!("{what}: more than {MAX_REDIRECTS} redirects")))
    }

    /// All of a short answer.
    async fn read(&self, response: Response, max_bytes: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let mut body = Body {
            response,
            start: 0,
            etag: None,
        };
        while let Some(chunk) = self.chunk(&mut body).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > max_bytes {
                return Err(self.nonsense(format!("an answer of more than {max_bytes} bytes")));
            }
        }
        Ok(bytes)
    }

    fn passing(&self, reason: String) -> Failure {
        Failure::passing(ModelsError::Hub {
            host: self.host(),
            reason,
        })
    }

    fn nonsense(&self, reason: String) -> Failure {
        Failure::Final(ModelsError::Hub {
            host: self.host(),
            reason,
        })
    }
}

/// What the hub itself says of a file, wherever its bytes are.
#[derive(Default)]
struct Published {
    etag: Option<String>,
    size: Option<u64>,
}

impl Published {
    fn learn(&mut self, response: &Response) {
        let headers = response.headers();
        let linked = text(headers, "x-linked-etag");
        let own = || match response.status().is_success() {
            true => text(headers, header::ETAG.as_str()),
            false => None,
        };
        if let Some(etag) = linked.or_else(own) {
            let etag = etag.trim_start_matches("W/").trim_matches('"');
            self.etag = Some(etag.to_owned());
        }
        if let Some(size) = text(headers, "x-linked-size").and_then(|size| size.parse().ok()) {
            self.size = Some(size);
        }
    }
}

/// A hub's address, as a person types it.
///
/// # Errors
/// What is not http or https, or has a password in it.
pub(crate) fn parse_endpoint(text: &str) -> Result<Url> {
    let text = text.trim();
    let with_scheme = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let refuse = |fault| {
        Err(ModelsError::from(InvalidInput::Endpoint {
            in_environment: false,
            fault,
        }))
    };
    let mut url = match Url::parse(&with_scheme) {
        Ok(url) => url,
        Err(error) => {
            return refuse(EndpointFault::NoAddress {
                detail: error.to_string(),
            });
        }
    };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return refuse(EndpointFault::NotWeb);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse(EndpointFault::HasPassword);
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn below(endpoint: &Url, path: &str) -> Url {
    let mut url = endpoint.clone();
    url.path_segments_mut()
        .expect("BUG: the endpoint is http or https")
        .pop_if_empty()
        .extend(path.split('/'));
    url
}

/// The page of a repository, for a browser.
///
/// # Errors
/// As [`parse_endpoint`].
pub(crate) fn page(endpoint: &str, repo: &RepoName) -> Result<String> {
    Ok(below(&parse_endpoint(endpoint)?, repo.as_str()).into())
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the hub");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn ascii(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| InvalidInput::Token.into())
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expected) in [
            ("hub.example", "https://hub.example/"),
            (" http://127.0.0.1:80/ ", "http://127.0.0.1/"),
            (
                "https://hub.example/mirror?x#y",
                "https://hub.example/mirror",
            ),
        ] {
            assert_eq!(parse_endpoint(text).unwrap().as_str(), expected);
        }
        for text in ["", "ftp://x", "https://", "https://a:b@c", "file:///etc"] {
            assert!(parse_endpoint(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_mirror_may_lie_below_a_path() {
        let page = page("https://hub.example/mirror/", &"a/b".parse().unwrap());
        assert_eq!(page.unwrap(), "https://hub.example/mirror/a/b");
    }
}
