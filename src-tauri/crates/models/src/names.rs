//! Names from outside: of repositories and of files in them. Nothing becomes a path before it
//! has passed here.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::{InvalidInput, ModelsError, Result};

/// Bytes of one component of a file's name.
const MAX_COMPONENT_BYTES: usize = 255;

/// Bytes of a whole name.
const MAX_NAME_BYTES: usize = 512;

/// Names that mean devices on Windows, with any ending.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];

/// What is wrong with a repository's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum RepoNameFault {
    /// No slash.
    #[error("has no owner")]
    NoOwner,
    /// Several slashes.
    #[error("has more than one slash")]
    Slashes,
    /// A part of the wrong length.
    #[error("has a part that is empty or longer than 96 characters")]
    Length,
    /// A character that no name has.
    #[error("has characters other than letters, digits, `-`, `_` and `.`")]
    Characters,
    /// Two signs in a row.
    #[error("has `--` or `..` in it")]
    Doubled,
    /// A sign at an end of a part.
    #[error("has a part that begins or ends with `-` or `.`")]
    Edge,
}

/// A repository's name, `owner/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoName(String);

impl RepoName {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the slash.
    pub fn short(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// The folder it has in a Hugging Face cache.
    pub(crate) fn folder(&self) -> String {
        self.in_cache().folder_name()
    }

    /// As Hugging Face's own crate names it.
    pub(crate) fn in_cache(&self) -> hf_hub::Repo {
        hf_hub::Repo::model(self.0.clone())
    }

    /// The repository that has this folder in a Hugging Face cache.
    pub(crate) fn of_folder(folder: &str) -> Option<Self> {
        let (owner, name) = folder.strip_prefix("models--")?.split_once("--")?;
        format!("{owner}/{name}").parse().ok()
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RepoName {
    type Err = ModelsError;

    /// The hub's rules: letters, digits, `-`, `_` and `.`; no `--`, no `..`, and neither at the
    /// ends.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |fault| {
            let name = shorten(text);
            Err(InvalidInput::RepoName { name, fault }.into())
        };
        let Some((owner, name)) = text.split_once('/') else {
            return refuse(RepoNameFault::NoOwner);
        };
        if name.contains('/') {
            return refuse(RepoNameFault::Slashes);
        }
        for part in [owner, name] {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if part.is_empty() || part.len() > 96 {
                return refuse(RepoNameFault::Length);
            }
            if !part.chars().all(plain) {
                return refuse(RepoNameFault::Characters);
            }
            if part.contains("--") || part.contains("..") {
                return refuse(RepoNameFault::Doubled);
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
                return refuse(RepoNameFault::Edge);
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// Whether `name` means a file inside the folder it is given in, on every system: no absolute
/// path, no `..`, no backslash, drive or stream, no device.
pub(crate) fn is_safe_file_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && name.split('/').all(is_safe_component)
}

fn is_safe_component(part: &str) -> bool {
    let forbidden =
        |c: char| c.is_control() || matches!(c, '\\' | ':' | '<' | '>' | '"' | '|' | '?' | '*');
    let stem = part.split('.').next().unwrap_or(part).trim_end();
    let numbered = ["COM", "LPT"].iter().any(|device| {
        let rest = stem
            .get(..3)
            .filter(|head| head.eq_ignore_ascii_case(device))
            .map(|_| &stem[3..]);
        rest.is_some_and(|rest| {
            let mut chars = rest.chars();
            matches!(chars.next(), Some('0'..='9' | '¹' | '²' | '³')) && chars.next().is_none()
        })
    });
    !part.is_empty()
        && part.len() <= MAX_COMPONENT_BYTES
        && part != "."
        && part != ".."
        && !part.contains(forbidden)
        && !part.ends_with(['.', ' '])
        && !numbered
        && !DEVICES
            .iter()
            .any(|device| stem.eq_ignore_ascii_case(device))
}

/// Checks all file names of a repository.
///
/// # Errors
/// The first that is not safe, or that some systems take for another one.
pub(crate) fn check_file_names<'a>(host: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let refuse = |name: &str, reason: &str| {
        Err(ModelsError::Hub {
            host: host.to_owned(),
            reason: format!("it lists a file named {:?}, {reason}", shorten(name)),
        })
    };
    let mut seen = HashSet::new();
    for name in names {
        if !is_safe_file_name(name) {
            return refuse(name, "which is no name inside a folder");
        }
        if !seen.insert(name.to_lowercase()) {
            return refuse(name, "which differs from another in capitals only");
        }
    }
    Ok(())
}

/// Text from outside, in messages.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_inside_the_folder_pass() {
        for name in [
            "config.json",
            "model-00001-of-00257.safetensors",
            "a/b/c.json",
            ".gitattributes",
            "console.txt",
            "community.md",
            "naïve.txt",
        ] {
            assert!(is_safe_file_name(name), "{name:?}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a//b",
            "a/",
            "./a",
            "C:\\x",
            "C:x",
            "a\\b",
            "..\\x",
            "x:stream",
            "nul",
            "NUL.txt",
            "con.json",
            "Com1",
            "lpt9.tar.gz",
            "COM¹",
            "a/aux/b",
            "a.",
            "a ",
            "a\0b",
            "a\nb",
            "a?b",
            "a*b",
        ] {
            assert!(!is_safe_file_name(name), "{name:?}");
        }
        assert!(!is_safe_file_name(&"x".repeat(256)));
    }

    #[test]
    fn names_that_some_systems_take_for_one_are_refused() {
        assert!(check_file_names("hub", ["a.json", "b.json"].into_iter()).is_ok());
        assert!(check_file_names("hub", ["a.json", "A.json"].into_iter()).is_err());
    }

    #[test]
    fn repository_names_are_those_of_the_hub() {
        for name in ["org/name", "a-b/C_d.e-0.1", "x/y"] {
            let repo: RepoName = name.parse().unwrap();
            assert_eq!(RepoName::of_folder(&repo.folder()), Some(repo));
        }
        for name in [
            "", "name", "/name", "org/", "a/b/c", "../x", "a/..", "a--b/c", "a/b--c", "-a/b",
            "a/b.", "a/b c", "a/ü", "a\\b",
        ] {
            assert!(name.parse::<RepoName>().is_err(), "{name:?}");
        }
    }
}
