//! The access token: where it is kept, and that nobody sees it.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::environment::Environment;
use crate::{ModelsError, Result, TokenPlace};

/// The keyring's entry.
const SERVICE: &str = "app.octet.Octet";
const USER: &str = "hugging-face-token";

/// A secret that prints as dots.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    /// A token as a person pastes it, with spaces around it perhaps.
    ///
    /// # Errors
    /// Where it could not be sent in a header.
    pub(crate) fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(ModelsError::invalid(
                "the access token",
                "it has to be one word of ASCII letters, digits and signs (hf_...)",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

/// The token in use, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct KeptToken {
    pub(crate) token: Token,
    pub(crate) place: TokenPlace,
}

/// Finds and keeps the token. A chosen one goes before the environment's, and that before the
/// file of Hugging Face's tools.
#[derive(Debug)]
pub(crate) struct TokenKeeper {
    environment: Environment,
    use_keyring: bool,
    chosen: Mutex<Chosen>,
}

#[derive(Debug, Default)]
struct Chosen {
    kept: Option<KeptToken>,
    note: Option<String>,
}

impl TokenKeeper {
    /// `in_keyring`: one was put there before. Only then is the keyring asked, for it may ask the
    /// person in turn.
    pub(crate) fn new(environment: Environment, use_keyring: bool, in_keyring: bool) -> Self {
        let mut chosen = Chosen::default();
        if use_keyring && in_keyring {
            match keyring(|entry| entry.get_password()) {
                Ok(text) => {
                    chosen.kept = Token::new(&text).ok().map(|token| KeptToken {
                        token,
                        place: TokenPlace::Keyring,
                    });
                }
                Err(reason) => {
                    chosen.note = Some(format!(
                        "The access token could not be had from the keyring ({reason})."
                    ));
                }
            }
        }
        Self {
            environment,
            use_keyring,
            chosen: Mutex::new(chosen),
        }
    }

    /// The token there is, and what to know about it.
    pub(crate) fn get(&self) -> (Option<KeptToken>, Option<String>) {
        let chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |place| move |token| KeptToken { token, place };
        let kept = chosen.kept.clone();
        let kept = kept
            .or_else(|| {
                let token = self.environment.token.clone();
                token.map(at(TokenPlace::Environment))
            })
            .or_else(|| self.environment.token_file().map(at(TokenPlace::HubFile)));
        (kept, chosen.note.clone())
    }

    /// Keeps a token, or forgets the one that was chosen. Whether it is in the keyring now.
    /// Blocks while the keyring asks the person.
    pub(crate) fn set(&self, token: Option<Token>) -> bool {
        let mut kept = Chosen::default();
        let mut in_keyring = false;
        match token {
            Some(token) if self.use_keyring => {
                match keyring(|entry| entry.set_password(token.reveal())) {
                    Ok(()) => in_keyring = true,
                    Err(reason) => {
                        kept.note = Some(format!(
                            "There is no keyring to keep the access token in ({reason}), so it is \
                             forgotten when Octet ends."
                        ));
                    }
                }
                let place = match in_keyring {
                    true => TokenPlace::Keyring,
                    false => TokenPlace::Session,
                };
                kept.kept = Some(KeptToken { token, place });
            }
            Some(token) => {
                let place = TokenPlace::Session;
                kept.kept = Some(KeptToken { token, place });
            }
            None if self.use_keyring => {
                if let Err(reason) = keyring(|entry| entry.delete_credential()) {
                    tracing::debug!(reason, "no token was removed from the keyring");
                }
            }
            None => {}
        }
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        in_keyring
    }
}

/// Does something with the keyring's entry, on a thread of its own: on Linux it talks to another
/// program over a bus, with a runtime of its own.
fn keyring<T: Send>(
    act: impl FnOnce(&keyring::Entry) -> keyring::Result<T> + Send,
) -> Result<T, String> {
    std::thread::scope(|scope| {
        let act = || act(&keyring::Entry::new(SERVICE, USER)?);
        match scope.spawn(act).join() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the keyring's library failed".to_owned()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_prints() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!(token.reveal(), "hf_secret");
        let keeper = TokenKeeper::new(Environment::default(), false, false);
        keeper.set(Some(token.clone()));
        assert!(!format!("{token:?} {keeper:?}").contains("secret"));
        assert!(Token::new("two words").is_err() && Token::new("").is_err());
    }

    #[test]
    fn without_a_keyring_a_token_lasts_for_the_session() {
        let environment = Environment::of(|name| (name == "HF_TOKEN").then(|| "hf_env".to_owned()));
        let keeper = TokenKeeper::new(environment, false, false);
        let place = |keeper: &TokenKeeper| keeper.get().0.map(|kept| kept.place);
        assert_eq!(place(&keeper), Some(TokenPlace::Environment));
        assert!(!keeper.set(Some(Token::new("hf_chosen").unwrap())));
        assert_eq!(place(&keeper), Some(TokenPlace::Session));
        keeper.set(None);
        assert_eq!(place(&keeper), Some(TokenPlace::Environment));
    }
}
