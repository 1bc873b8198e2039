//! The access token: where it is kept, and that nobody sees it.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use crate::environment::Environment;
use crate::{InvalidInput, KeyringProblem, Result, TokenNote, TokenPlace};

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
            return Err(InvalidInput::Token.into());
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

/// How long the keyring may take: it may ask the person for a password.
const PATIENCE: Duration = Duration::from_secs(60);

/// Finds and keeps the token. A chosen one goes before the environment's, and that before the
/// file of Hugging Face's tools.
#[derive(Debug)]
pub(crate) struct TokenKeeper {
    environment: Environment,
    use_keyring: bool,
    chosen: Arc<Chosen>,
}

#[derive(Debug, Default)]
struct Chosen {
    now: Mutex<ChosenNow>,
    was_read: Condvar,
}

#[derive(Debug, Default)]
struct ChosenNow {
    kept: Option<KeptToken>,
    note: Option<TokenNote>,
    /// One is in the keyring and on its way here.
    is_reading: bool,
}

impl Chosen {
    fn now(&self) -> MutexGuard<'_, ChosenNow> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenKeeper {
    /// `in_keyring`: one was put there before. Only then is the keyring asked, for it may ask the
    /// person in turn; see [`TokenKeeper::read`].
    pub(crate) fn new(environment: Environment, use_keyring: bool, in_keyring: bool) -> Self {
        let chosen = Chosen::default();
        chosen.now().is_reading = use_keyring && in_keyring;
        Self {
            environment,
            use_keyring,
            chosen: Arc::new(chosen),
        }
    }

    /// Begins to read what is in the keyring; `done` hears of the end.
    pub(crate) fn read(&self, done: impl FnOnce() + Send + 'static) {
        if !self.chosen.now().is_reading {
            return;
        }
        let chosen = Arc::clone(&self.chosen);
        std::thread::spawn(move || {
            let found = keyring(|entry| entry.get_password());
            let mut now = chosen.now();
            // Another one may have been chosen meanwhile.
            if std::mem::take(&mut now.is_reading) {
                match found {
                    Ok(text) => {
                        now.kept = Token::new(&text).ok().map(|token| KeptToken {
                            token,
                            place: TokenPlace::Keyring,
                        });
                    }
                    Err(problem) => now.note = Some(TokenNote::NotRead { problem }),
                }
            }
            drop(now);
            chosen.was_read.notify_all();
            done();
        });
    }

    /// The token there is. Waits while it is read from the keyring.
    pub(crate) fn token(&self) -> Option<Token> {
        let now = self.chosen.now();
        let was_read = &self.chosen.was_read;
        let waited = was_read.wait_timeout_while(now, PATIENCE, |now| now.is_reading);
        let (now, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Some(self.kept(&now)?.token)
    }

    /// Where the token is, and what to know about it.
    pub(crate) fn place(&self) -> (Option<TokenPlace>, Option<TokenNote>) {
        let now = self.chosen.now();
        let place = match now.is_reading {
            true => Some(TokenPlace::Keyring),
            false => self.kept(&now).map(|kept| kept.place),
        };
        (place, now.note.clone())
    }

    fn kept(&self, now: &ChosenNow) -> Option<KeptToken> {
        let at = |place| move |token| KeptToken { token, place };
        let kept = now.kept.clone();
        kept.or_else(|| {
            let token = self.environment.token.clone();
            token.map(at(TokenPlace::Environment))
        })
        .or_else(|| self.environment.token_file().map(at(TokenPlace::HubFile)))
    }

    /// Keeps a token, or forgets the one that was chosen. Whether it is in the keyring now.
    /// Blocks while the keyring asks the person.
    pub(crate) fn set(&self, token: Option<Token>) -> bool {
        let mut kept = ChosenNow::default();
        let mut in_keyring = false;
        match token {
            Some(token) if self.use_keyring => {
                let secret = token.clone();
                match keyring(move |entry| entry.set_password(secret.reveal())) {
                    Ok(()) => in_keyring = true,
                    Err(problem) => kept.note = Some(TokenNote::NotKept { problem }),
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
                if let Err(problem) = keyring(|entry| entry.delete_credential()) {
                    tracing::debug!(%problem, "no token was removed from the keyring");
                }
            }
            None => {}
        }
        *self.chosen.now() = kept;
        self.chosen.was_read.notify_all();
        in_keyring
    }
}

/// Does something with the keyring's entry, on a thread of its own: on Linux it talks to another
/// program over a bus, with a runtime of its own, and that program may wait for the person.
fn keyring<T: Send + 'static>(
    act: impl FnOnce(&keyring::Entry) -> keyring::Result<T> + Send + 'static,
) -> Result<T, KeyringProblem> {
    within(PATIENCE, move || {
        keyring::Entry::new(SERVICE, USER).and_then(|entry| act(&entry))
    })
}

fn within<T: Send + 'static>(
    patience: Duration,
    act: impl FnOnce() -> keyring::Result<T> + Send + 'static,
) -> Result<T, KeyringProblem> {
    let (sender, answer) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody may be waiting any more.
        let _ = sender.send(act());
    });
    match answer.recv_timeout(patience) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(keyring::Error::NoDefaultStore)) => Err(KeyringProblem::None),
        Ok(Err(error)) => Err(KeyringProblem::Failed {
            detail: error.to_string(),
        }),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(KeyringProblem::Silent),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(KeyringProblem::Broken),
    }
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
    fn a_keyring_that_does_not_answer_is_given_up() {
        let (unlock, locked) = mpsc::channel::<()>();
        let reason = within(Duration::from_millis(20), move || {
            let _ = locked.recv();
            Ok(())
        });
        assert_eq!(reason, Err(KeyringProblem::Silent));
        // It ends without harm where nobody waits any more.
        drop(unlock);
        assert_eq!(within(PATIENCE, || Ok(7)), Ok(7));
        let failed = within(PATIENCE, || Err::<(), _>(keyring::Error::NoEntry));
        assert!(failed.is_err());
        let panicked = within(PATIENCE, || -> keyring::Result<()> {
            panic!("in a library")
        });
        assert_eq!(panicked.unwrap_err(), KeyringProblem::Broken);
    }

    #[test]
    fn without_a_keyring_a_token_lasts_for_the_session() {
        let environment = Environment::of(|name| (name == "HF_TOKEN").then(|| "hf_env".to_owned()));
        let keeper = TokenKeeper::new(environment, false, false);
        let place = |keeper: &TokenKeeper| keeper.place().0;
        assert_eq!(place(&keeper), Some(TokenPlace::Environment));
        assert!(!keeper.set(Some(Token::new("hf_chosen").unwrap())));
        assert_eq!(place(&keeper), Some(TokenPlace::Session));
        keeper.set(None);
        assert_eq!(place(&keeper), Some(TokenPlace::Environment));
    }
}
