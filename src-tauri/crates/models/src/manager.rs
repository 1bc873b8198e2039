//! Everything together, behind one handle.

mod queue;
mod shelf;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::hub::{Hub, parse_endpoint};
use crate::import;
use crate::library::Lease;
use crate::names::RepoName;
use crate::settings_file::{self, Chosen};
use crate::token::{Token, TokenKeeper};
use crate::transfer::blocking;
use crate::{
    DEFAULT_ENDPOINT, FolderFrom, InvalidInput, ModelsError, ModelsSettings, ModelsState, Options,
    Result, SettingFrom, TokenPlace, Wanted,
};

pub use queue::DownloadEnd;

/// Between two looks at what is under way.
const TICK: Duration = Duration::from_millis(200);

/// Models on this machine and on the hub. Clones are handles to the same; all methods may be
/// called from any thread, the `async` ones from within a tokio runtime.
#[derive(Clone)]
pub struct Manager {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    chosen: Mutex<Chosen>,
    tokens: TokenKeeper,
    state: watch::Sender<ModelsState>,
    queue: Mutex<queue::Queue>,
    tasks: Mutex<shelf::Tasks>,
    /// Of the catalogue, what the hub turned out not to have.
    gone: Mutex<BTreeSet<RepoName>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Manager {
    /// Reads what was chosen before and finds downloads that are not complete; they come up as
    /// paused. No network, no waiting.
    ///
    /// # Errors
    /// An address of the hub in the environment that is none.
    pub fn open(options: Options) -> Result<Self> {
        if let Some(endpoint) = &options.environment.endpoint {
            parse_endpoint(endpoint).map_err(|error| match error {
                ModelsError::Invalid {
                    input: InvalidInput::Endpoint { fault, .. },
                } => ModelsError::from(InvalidInput::Endpoint {
                    in_environment: true,
                    fault,
                }),
                error => error,
            })?;
        }
        let chosen = settings_file::read(&options.config_dir);
        let tokens = TokenKeeper::new(
            options.environment.clone(),
            options.use_keyring,
            chosen.token_in_keyring,
        );
        let settings = settings(&options, &chosen, &tokens);
        import::remove_leftovers(&settings.folder);
        let queue = queue::Queue::left_over(&settings.folder);
        let state = ModelsState {
            downloads: Vec::new(),
            tasks: Vec::new(),
            library_version: 0,
            settings,
        };
        let manager = Self {
            shared: Arc::new(Shared {
                options,
                chosen: Mutex::new(chosen),
                tokens,
                state: watch::Sender::new(state),
                queue: Mutex::new(queue),
                tasks: Mutex::default(),
                gone: Mutex::default(),
            }),
        };
        manager.refresh();
        let reader = manager.clone();
        manager.shared.tokens.read(move || reader.refresh());
        Ok(manager)
    }

    /// The state, now and whenever it changes; at most five times a second.
    pub fn watch(&self) -> watch::Receiver<ModelsState> {
        self.shared.state.subscribe()
    }

    /// The state now.
    pub fn state(&self) -> ModelsState {
        self.refresh();
        self.shared.state.borrow().clone()
    }

    /// The models folder.
    pub fn folder(&self) -> PathBuf {
        self.shared.folder()
    }

    /// To be kept while the model in `folder` is loaded; see [`Lease`].
    ///
    /// # Errors
    /// [`ModelsError::InUse`] where it is being deleted, repaired or moved.
    pub fn lease(&self, folder: &Path) -> Result<Lease> {
        Lease::take(&self.folder(), folder)
    }

    /// Takes another hub from now on; none: the environment's, or the public one.
    ///
    /// # Errors
    /// What is no address, or settings that cannot be written.
    pub async fn set_endpoint(&self, endpoint: Option<String>) -> Result<()> {
        let endpoint = match endpoint {
            Some(text) => Some(
                parse_endpoint(&text)?
                    .as_str()
                    .trim_end_matches('/')
                    .to_owned(),
            ),
            None => None,
        };
        self.choose(|chosen| chosen.endpoint = endpoint).await
    }

    /// Keeps an access token, or forgets the one that was chosen. Where a token is now: in the
    /// keyring, or for this session only; [`ModelsSettings::token_note`] says why.
    ///
    /// # Errors
    /// What is no token, or settings that cannot be written.
    pub async fn set_token(&self, token: Option<String>) -> Result<Option<TokenPlace>> {
        let token = match token {
            Some(text) => Some(Token::new(&text)?),
            None => None,
        };
        let shared = Arc::clone(&self.shared);
        let in_keyring = blocking(move || shared.tokens.set(token)).await?;
        self.choose(|chosen| chosen.token_in_keyring = in_keyring)
            .await?;
        Ok(self.shared.tokens.place().0)
    }

    /// The name of the account that the token belongs to.
    ///
    /// # Errors
    /// [`ModelsError::Token`] where the hub refuses it or there is none.
    pub async fn check_token(&self) -> Result<String> {
        let hub = self.hub().await?;
        let account = hub.who_am_i().await;
        account.map_err(|failure| failure.into_error(&hub.host()))
    }

    /// Changes what is chosen, on disk first.
    async fn choose(&self, change: impl FnOnce(&mut Chosen)) -> Result<()> {
        let mut chosen = locked(&self.shared.chosen).clone();
        change(&mut chosen);
        let (dir, written) = (self.shared.options.config_dir.clone(), chosen.clone());
        blocking(move || settings_file::write(&dir, &written)).await??;
        *locked(&self.shared.chosen) = chosen;
        self.refresh();
        Ok(())
    }

    /// The hub, asked as who the token says.
    async fn hub(&self) -> Result<Arc<Hub>> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.hub()).await?
    }

    /// Brings the state up to date.
    fn refresh(&self) {
        let shared = &self.shared;
        let settings = settings(&shared.options, &locked(&shared.chosen), &shared.tokens);
        let downloads = locked(&shared.queue).show(&shared.options.transfer);
        let tasks = locked(&shared.tasks).show();
        shared.state.send_if_modified(|state| {
            let next = ModelsState {
                downloads,
                tasks,
                library_version: state.library_version,
                settings,
            };
            let is_new = *state != next;
            *state = next;
            is_new
        });
    }

    /// What is installed has changed.
    fn library_changed(&self) {
        let state = &self.shared.state;
        state.send_modify(|state| state.library_version = state.library_version.wrapping_add(1));
        self.refresh();
    }
}

impl Shared {
    fn folder(&self) -> PathBuf {
        folder(&self.options, &locked(&self.chosen)).0
    }

    /// Waits where the token is still on its way from the keyring.
    fn hub(&self) -> Result<Arc<Hub>> {
        let (endpoint, _) = endpoint(&self.options, &locked(&self.chosen));
        let token = self.tokens.token();
        let offline = self.options.environment.is_offline;
        Ok(Arc::new(Hub::new(
            &endpoint,
            token,
            offline,
            &self.options.transfer,
        )?))
    }
}

fn folder(options: &Options, chosen: &Chosen) -> (PathBuf, FolderFrom) {
    if let Some(folder) = &chosen.folder {
        return (folder.clone(), FolderFrom::Chosen);
    }
    match options.environment.hub_cache() {
        Some(cache) => (cache, FolderFrom::HubCache),
        None => (options.data_dir.join("models"), FolderFrom::Own),
    }
}

fn endpoint(options: &Options, chosen: &Chosen) -> (String, SettingFrom) {
    match (&chosen.endpoint, &options.environment.endpoint) {
        (Some(endpoint), _) => (endpoint.clone(), SettingFrom::Chosen),
        (None, Some(endpoint)) => (endpoint.clone(), SettingFrom::Environment),
        (None, None) => (DEFAULT_ENDPOINT.to_owned(), SettingFrom::Default),
    }
}

fn settings(options: &Options, chosen: &Chosen, tokens: &TokenKeeper) -> ModelsSettings {
    let (folder, folder_from) = folder(options, chosen);
    let (endpoint, endpoint_from) = endpoint(options, chosen);
    let (token, token_note) = tokens.place();
    ModelsSettings {
        folder,
        folder_from,
        endpoint,
        endpoint_from,
        token,
        token_note,
    }
}

/// There is no such download.
fn no_download(repo: &str) -> ModelsError {
    ModelsError::NotFound {
        what: Wanted::Download,
        name: repo.to_owned(),
    }
}
