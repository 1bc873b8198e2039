//! What went wrong, told from an HTTP answer or from there being none.

use std::error::Error;
use std::time::Duration;

use reqwest::{Response, StatusCode, header};

use super::{host, text};
use crate::ModelsError;
use crate::names::shorten;
use crate::transfer::Failure;

/// The longest wait that a hub may ask for.
const MAX_WAIT: Duration = Duration::from_secs(15 * 60);

/// What was asked, and how.
pub(super) struct Context<'a> {
    pub(super) what: &'a str,
    /// The hub itself answered, not a store that it redirected to.
    pub(super) at_hub: bool,
    pub(super) with_token: bool,
}

/// An answer that is neither success nor redirect.
pub(super) async fn refused(context: &Context<'_>, response: Response) -> Failure {
    let status = response.status();
    let host = host(response.url());
    let headers = response.headers();
    let code = text(headers, "x-error-code").unwrap_or_default();
    let wait = text(headers, header::RETRY_AFTER.as_str()).and_then(|text| retry_after(&text));
    let said = text(headers, "x-error-message").unwrap_or_default();
    let reason = match said.is_empty() {
        true => format!("{}: {status}", context.what),
        false => format!("{}: {status}, {}", context.what, shorten(&said)),
    };
    let what = context.what.to_owned();
    let hub = || ModelsError::Hub {
        host: host.clone(),
        reason: reason.clone(),
    };
    match status {
        StatusCode::TOO_MANY_REQUESTS => Failure::Passing {
            error: ModelsError::RateLimited {
                host,
                retry_after_s: wait.map(|wait| wait.as_secs().max(1)),
            },
            wait,
        },
        StatusCode::REQUEST_TIMEOUT => Failure::Passing { error: hub(), wait },
        status if status.is_server_error() => Failure::Passing { error: hub(), wait },
        // A store's addresses are signed and expire; the hub gives a new one.
        _ if !context.at_hub => Failure::passing(hub()),
        // Less is published than is here already: what is here is something else.
        StatusCode::RANGE_NOT_SATISFIABLE => Failure::Stale,
        _ if code == "GatedRepo" => Failure::Final(ModelsError::Gated {
            repo: repository(&what),
            with_token: context.with_token,
        }),
        _ if matches!(
            code.as_str(),
            "RepoNotFound" | "RevisionNotFound" | "EntryNotFound"
        ) && !is_about_the_token(&said) =>
        {
            Failure::Final(ModelsError::Missing { what })
        }
        StatusCode::UNAUTHORIZED if context.with_token => Failure::Final(ModelsError::Token {
            reason: match said.is_empty() {
                true => format!("{what}: {status}"),
                false => shorten(&said),
            },
        }),
        // The hub does not say to strangers what there is.
        StatusCode::UNAUTHORIZED => Failure::Final(ModelsError::Missing { what }),
        StatusCode::FORBIDDEN if context.with_token => Failure::Final(ModelsError::Token {
            reason: format!("it does not allow to read {what}"),
        }),
        StatusCode::FORBIDDEN => Failure::Final(ModelsError::Gated {
            repo: repository(&what),
            with_token: false,
        }),
        StatusCode::NOT_FOUND | StatusCode::GONE => Failure::Final(ModelsError::Missing { what }),
        _ => Failure::Final(hub()),
    }
}

/// `FILE in OWNER/NAME`, or the repository itself.
fn repository(what: &str) -> String {
    what.rsplit(" in ").next().unwrap_or(what).to_owned()
}

/// The hub tells of a wrong token in words only.
fn is_about_the_token(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("credentials") || said.contains("token")
}

/// No answer at all.
pub(super) fn unreachable(host: &str, error: &reqwest::Error) -> Failure {
    if let Some(tls) = find::<rustls::Error>(error) {
        return Failure::Final(ModelsError::Tls {
            host: host.to_owned(),
            reason: tls.to_string(),
        });
    }
    broken(host, error)
}

/// An answer that broke off.
pub(super) fn broken(host: &str, error: &reqwest::Error) -> Failure {
    Failure::passing(ModelsError::Network {
        host: host.to_owned(),
        reason: causes(error),
    })
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The system's errors wrap others without naming them as their source.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| find(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The innermost cause, which is the one that tells; never the address, which may be signed.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    shorten(&cause.to_string())
}

/// Seconds, or a date, as in RFC 9110.
fn retry_after(text: &str) -> Option<Duration> {
    let wait = match text.trim().parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => {
            Duration::from_secs_f64(seconds.min(1e6))
        }
        Ok(_) => return None,
        Err(_) => {
            let then = httpdate::parse_http_date(text.trim()).ok()?;
            then.duration_since(std::time::SystemTime::now())
                .unwrap_or_default()
        }
    };
    Some(wait.min(MAX_WAIT))
}

/// First byte and total of `bytes FIRST-LAST/TOTAL`; no total where that is `*`.
pub(super) fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((first.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_seconds_or_dates_and_bounded() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("0.25"), Some(Duration::from_millis(250)));
        assert_eq!(retry_after("99999999"), Some(MAX_WAIT));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::ZERO)
        );
        assert_eq!(retry_after("-1"), None);
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for text in ["", "5-9/10", "bytes */10", "bytes 5-9", "bytes a-9/10"] {
            assert_eq!(content_range(text), None, "{text:?}");
        }
    }
}
