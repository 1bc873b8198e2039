//! Links in answers: which ones may leave the app, and how.

use serde::Serialize;
use specta::Type;
use url::Url;

use crate::error::{ApiError, AppProblem, Result};

/// What a browser or a mail program opens. Anything else (files, scripts, other programs'
/// schemes) stays closed: answers are made by a model.
const SCHEMES: [&str; 3] = ["http", "https", "mailto"];

/// Longest link that is opened.
const MAX_LEN: usize = 8192;

/// Why a link is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum LinkFault {
    /// Longer than any real one.
    TooLong,
    /// No scheme, or no address at all.
    Incomplete,
    /// Neither a web nor a mail address.
    OtherScheme,
    /// A name or password, which hides where it leads.
    HasPassword,
}

/// The link, if it may be opened.
///
/// # Errors
/// [`AppProblem::LinkRefused`] for anything but a web or mail address.
pub fn check(url: &str) -> Result<Url> {
    let refused = |fault| ApiError::from(AppProblem::LinkRefused { fault });
    if url.len() > MAX_LEN {
        return Err(refused(LinkFault::TooLong));
    }
    let url = Url::parse(url).map_err(|_| refused(LinkFault::Incomplete))?;
    if !SCHEMES.contains(&url.scheme()) {
        return Err(refused(LinkFault::OtherScheme));
    }
    if url.password().is_some() || (url.scheme() != "mailto" && !url.username().is_empty()) {
        return Err(refused(LinkFault::HasPassword));
    }
    Ok(url)
}

/// Whether the window may show `url`: the app's own page, and the development server in
/// development.
pub fn is_own(url: &Url) -> bool {
    let own = match url.scheme() {
        "tauri" => url.host_str() == Some("localhost"),
        // Windows serves the app's page under this name.
        "http" | "https" => url.host_str() == Some("tauri.localhost"),
        _ => false,
    };
    own || (tauri::is_dev() && url.host_str() == Some("localhost") && url.port() == Some(1420))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_and_mail_addresses_are_opened() {
        for good in [
            "https://example.org/a?b#c",
            "http://localhost:8080",
            "mailto:a@example.org",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "javascript:alert(1)",
            "file:///etc/passwd",
            "data:text/html,x",
            "ssh://host",
            "vscode://x",
            "example.org",
            "//example.org",
            "",
            "https://bank.example@evil.example/",
            "https://a:b@example.org",
        ] {
            let checked = check(bad);
            let error = checked.map(|url| url.to_string()).unwrap_err();
            let is_refused = matches!(error, ApiError::App(AppProblem::LinkRefused { .. }));
            assert!(is_refused, "{bad}: {error}");
        }
        assert!(check(&format!("https://example.org/{}", "a".repeat(MAX_LEN))).is_err());
    }

    #[test]
    fn the_window_stays_on_its_own_page() {
        let own = |url: &str| is_own(&Url::parse(url).unwrap());
        assert!(own("tauri://localhost/index.html"));
        assert!(own("http://tauri.localhost/"));
        assert!(!own("https://example.org/"));
        assert!(!own("tauri://example.org/"));
        assert!(!own("file:///etc/passwd"));
        assert!(!own("about:blank"));
    }
}
