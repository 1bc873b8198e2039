//! What the environment says: the variables that Hugging Face's own tools know.

use std::fmt;
use std::path::PathBuf;

use directories::{BaseDirs, ProjectDirs};

use crate::catalogue::{self, CatalogueItem};
use crate::token::Token;
use crate::transfer::TransferOptions;
use crate::{InvalidInput, Result};

/// The public hub.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The environment variables that matter, read once.
///
/// `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE` (or `HUGGINGFACE_HUB_CACHE`),
/// `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE` and `XDG_CACHE_HOME` mean
/// what they mean to `huggingface_hub`. Proxies (`HTTPS_PROXY`, `NO_PROXY`, ...) are read by the
/// HTTP client.
#[derive(Clone, Default)]
pub struct Environment {
    pub(crate) endpoint: Option<String>,
    pub(crate) token: Option<Token>,
    /// `hub` in it is the cache.
    hub_home: Option<PathBuf>,
    hub_cache: Option<PathBuf>,
    token_path: Option<PathBuf>,
    is_token_implicit: bool,
    pub(crate) is_offline: bool,
}

impl Environment {
    /// The one of this process.
    pub fn read() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    /// Variables as `get` gives them; empty ones count as unset. The home folder is that of the
    /// user in any case.
    pub fn of(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        let is_set = |name: &str| {
            get(name).is_some_and(|v| {
                matches!(v.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
            })
        };
        let home = BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
        let hub_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home.map(|home| home.join(".cache").join("huggingface")));
        Self {
            endpoint: get("HF_ENDPOINT"),
            token: get("HF_TOKEN")
                .or_else(|| get("HUGGING_FACE_HUB_TOKEN"))
                .and_then(|text| Token::new(&text).ok()),
            hub_cache: path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")),
            hub_home,
            token_path: path("HF_TOKEN_PATH"),
            is_token_implicit: !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"),
            is_offline: is_set("HF_HUB_OFFLINE"),
        }
    }

    /// The cache that Hugging Face's tools share, if the user has one (or names one).
    pub(crate) fn hub_cache(&self) -> Option<PathBuf> {
        if let Some(cache) = &self.hub_cache {
            return Some(cache.clone());
        }
        let cache = self.default_cache()?;
        cache.path().is_dir().then(|| cache.path().clone())
    }

    /// Where Hugging Face's tools have their cache unless told otherwise; it need not exist.
    fn default_cache(&self) -> Option<hf_hub::Cache> {
        let home = self.hub_home.as_ref()?;
        Some(hf_hub::Cache::new(home.join("hub")))
    }

    /// The token that Hugging Face's tools keep in a file.
    pub(crate) fn token_file(&self) -> Option<Token> {
        if !self.is_token_implicit {
            return None;
        }
        let text = match &self.token_path {
            Some(path) => std::fs::read_to_string(path).ok()?,
            None => self.default_cache()?.token()?,
        };
        Token::new(&text).ok()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the token, and without an endpoint that might carry a password.
        f.debug_struct("Environment")
            .field("hub_home", &self.hub_home)
            .field("hub_cache", &self.hub_cache)
            .field("is_offline", &self.is_offline)
            .finish_non_exhaustive()
    }
}

/// What [`crate::Manager::open`] wants to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// For the small file that remembers choices.
    pub config_dir: PathBuf,
    /// For models, where there is no Hugging Face cache.
    pub data_dir: PathBuf,
    /// See [`Environment`].
    pub environment: Environment,
    /// Keep the access token in the system's keyring; without it, for the session only.
    pub use_keyring: bool,
    /// The models on offer.
    pub catalogue: Vec<CatalogueItem>,
    /// How files are fetched.
    pub transfer: TransferOptions,
}

impl Options {
    /// The ones of this user of this machine.
    ///
    /// # Errors
    /// Where the user has no home folder.
    pub fn of_user() -> Result<Self> {
        let dirs = ProjectDirs::from("app", "octet", "Octet").ok_or(InvalidInput::NoHome)?;
        Ok(Self::new(
            dirs.config_dir().to_owned(),
            dirs.data_dir().to_owned(),
            Environment::read(),
        ))
    }

    /// With these folders, and defaults for everything else.
    pub fn new(config_dir: PathBuf, data_dir: PathBuf, environment: Environment) -> Self {
        Self {
            config_dir,
            data_dir,
            environment,
            use_keyring: true,
            catalogue: catalogue::built_in(),
            transfer: TransferOptions::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(vars: &[(&str, &str)]) -> Environment {
        Environment::of(|name| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_hugging_faces_tools_have_it() {
        let both = environment(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]);
        assert_eq!(both.hub_cache(), Some(PathBuf::from("/c")));
        let home = tempfile::tempdir().unwrap();
        let vars = [("HF_HOME", home.path().to_str().unwrap())];
        assert_eq!(environment(&vars).hub_cache(), None, "there is none yet");
        std::fs::create_dir(home.path().join("hub")).unwrap();
        assert_eq!(
            environment(&vars).hub_cache(),
            Some(home.path().join("hub"))
        );
    }

    #[test]
    fn tokens_are_not_shown() {
        let environment =
            environment(&[("HF_TOKEN", "hf_secret"), ("HF_ENDPOINT", "http://a:pw@b")]);
        assert!(environment.token.is_some());
        let options = Options::new("/c".into(), "/d".into(), environment);
        let shown = format!("{options:?}");
        assert!(
            !shown.contains("hf_secret") && !shown.contains("pw@"),
            "{shown}"
        );
    }

    #[test]
    fn the_token_file_is_read_unless_that_is_forbidden() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let path = home.path().to_str().unwrap();
        let token = environment(&[("HF_HOME", path)]).token_file().unwrap();
        assert_eq!(token.reveal(), "hf_file");
        let forbidden = environment(&[("HF_HOME", path), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]);
        assert!(forbidden.token_file().is_none());
    }
}
