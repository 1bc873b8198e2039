//! What the tests share: a hub, a small model, and a manager that is in a hurry.
#![allow(dead_code, unused_imports, unused_macros)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use octet_engine::plan::PlanRequest;
use octet_engine::synth::{SynthOptions, synth};
use octet_engine::tokenizer::TokenId;
use octet_models::{
    CatalogueItem, Download, DownloadEnd, Environment, InstalledModel, Manager, ModelsError,
    Options, Quantization, TokenizerCheck, TokenizerSources, TransferOptions, WeightFormat,
};
use octet_test_hub::{Repo, TestHub};
use tempfile::TempDir;

/// The model that most tests download.
pub const MODEL: &str = "tests/small-mixtral";

/// Files of a random model with a tokenizer: 8 experts, some hundred kB.
pub fn model_files() -> BTreeMap<String, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| random_model(512, 0, true)).clone()
}

/// A random model with as many tokens; the byte-level tokenizer on request.
pub fn random_model(vocab_size: u32, seed: u64, with_tokenizer: bool) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    let json = serde_json::json!({
        "model_type": "mixtral", "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": vocab_size,
        "max_position_embeddings": 512, "sliding_window": null, "bos_token_id": 1,
        "eos_token_id": 2,
    });
    std::fs::write(&config, json.to_string()).unwrap();
    let out = folder.path().join("model");
    let options = SynthOptions {
        seed,
        ..SynthOptions::default()
    };
    synth(&config, &out, &options, &mut |_, _| {}).unwrap();
    let mut files = read_folder(&out);
    files.insert("README.md".to_owned(), b"A random model.\n".to_vec());
    // What Octet has no use for.
    files.insert("pytorch_model.bin".to_owned(), vec![7; 1000]);
    if with_tokenizer {
        let other = octet_tests::model_with_tokenizer("tiny-2bit");
        let json = std::fs::read(other.path().join("tokenizer.json")).unwrap();
        files.insert("tokenizer.json".to_owned(), json);
    }
    files
}

/// All files below `folder`, links followed.
pub fn read_folder(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        files.insert(name, std::fs::read(path).unwrap());
    }
    files
}

/// Without what is not downloaded.
pub fn wanted(mut files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    files.remove("pytorch_model.bin");
    files
}

pub fn repo(files: BTreeMap<String, Vec<u8>>) -> Repo {
    Repo::new(files)
}

/// Options that wait for nothing long.
pub fn hurried() -> TransferOptions {
    TransferOptions {
        parallel: 4,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_millis(400),
        stall_after: Duration::from_millis(200),
        backoff: Duration::from_millis(2),
        backoff_most: Duration::from_millis(10),
        attempts: 6,
        checksum_attempts: 3,
        disk_reserve_bytes: 0,
    }
}

/// A hub with [`MODEL`] on it, and a place for models.
pub struct Bench {
    pub hub: TestHub,
    pub home: TempDir,
    pub options: Options,
    pub manager: Manager,
}

impl Bench {
    pub async fn new() -> Self {
        let hub = TestHub::start(0).await.unwrap();
        hub.publish(MODEL, repo(model_files()));
        Self::at(hub)
    }

    pub fn at(hub: TestHub) -> Self {
        let home = tempfile::tempdir().unwrap();
        let options = options(&hub.url(), home.path());
        let manager = Manager::open(options.clone()).unwrap();
        Self {
            hub,
            home,
            options,
            manager,
        }
    }

    /// As after a restart of the program.
    pub fn restart(&mut self) {
        self.manager = Manager::open(self.options.clone()).unwrap();
    }

    pub fn root(&self) -> PathBuf {
        self.home.path().join("data/models")
    }

    pub fn repo_dir(&self) -> PathBuf {
        self.root().join("models--tests--small-mixtral")
    }

    /// Downloads [`MODEL`] to whatever end.
    pub async fn download(&self) -> DownloadEnd {
        self.manager.download(MODEL).await.unwrap();
        self.manager.wait(MODEL).await.unwrap()
    }

    pub async fn fail(&self) -> ModelsError {
        match self.download().await {
            DownloadEnd::Failed(problem) => problem,
            other => panic!("{other:?} instead of a failure"),
        }
    }

    pub fn shown(&self) -> Option<Download> {
        self.manager
            .state()
            .downloads
            .into_iter()
            .find(|d| d.repo == MODEL)
    }

    pub async fn installed(&self) -> Vec<InstalledModel> {
        self.manager
            .installed(&PlanRequest::default())
            .await
            .unwrap()
    }

    pub async fn the_model(&self) -> InstalledModel {
        let mut installed = self.installed().await;
        assert_eq!(installed.len(), 1, "{installed:?}");
        installed.remove(0)
    }

    /// That what is installed is what was published, to the byte, and nothing is left over.
    pub async fn assert_complete(&self, published: &BTreeMap<String, Vec<u8>>) {
        let model = self.the_model().await;
        assert!(
            matches!(
                model.health,
                octet_models::Health::Good {
                    verified_at_ms: Some(_)
                }
            ),
            "{model:?}"
        );
        assert!(
            read_folder(&model.path) == wanted(published.clone()),
            "other bytes"
        );
        let blobs = std::fs::read_dir(self.repo_dir().join("blobs")).unwrap();
        for blob in blobs {
            let name = blob.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains("incomplete"), "{name}");
        }
        assert!(!self.repo_dir().join(".octet/download.json").exists());
        assert!(!self.repo_dir().join(".octet/partial").exists());
        assert_eq!(self.manager.state().downloads, []);
    }
}

pub fn options(url: &str, home: &Path) -> Options {
    let environment = environment(&[("HF_ENDPOINT", url), ("HF_HOME", home.to_str().unwrap())]);
    let mut options = Options::new(home.join("config"), home.join("data"), environment);
    options.use_keyring = false;
    options.catalogue = Vec::new();
    options.transfer = hurried();
    options
}

pub fn environment(vars: &[(&str, &str)]) -> Environment {
    Environment::of(|name| {
        let var = vars.iter().find(|(known, _)| *known == name);
        var.map(|(_, value)| (*value).to_owned())
    })
}

/// A catalogue of [`MODEL`] alone, whose tokenizer comes from these repositories.
pub fn catalogue(sources: &[&str], check: TokenizerCheck) -> Vec<CatalogueItem> {
    vec![CatalogueItem {
        repo: MODEL.parse().unwrap(),
        title: "A random model",
        about: "For tests.",
        license: "apache-2.0",
        quantization: Quantization {
            experts: vec![WeightFormat::hqq(2, None)],
            attention: Vec::new(),
        },
        sizes: octet_engine::plan::ModelSizes {
            n_layers: 2,
            n_experts: 4,
            top_k: 2,
            expert_bytes: 40_000,
            trunk_file_bytes: 400_000,
            trunk_resident_bytes: 400_000,
            kv_bytes_per_token: 1024,
            vocab: 512,
            hidden: 128,
            intermediate: 256,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 32,
            max_positions: 512,
        },
        files: 13,
        quality: 1,
        tokenizer: TokenizerSources {
            repos: sources.iter().map(|name| name.parse().unwrap()).collect(),
            check,
        },
    }]
}

/// Says that a test leaves something out; where all tests have to run, that is a failure.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "not to be left out here: {reason}"
    );
    println!("skipped: {reason}");
}

/// What Mixtral's tokenizer is known by.
pub fn mixtral_check() -> TokenizerCheck {
    TokenizerCheck {
        vocab_size: 32_000,
        bos: TokenId(1),
        eos: TokenId(2),
        conversations: &[(
            "Hello",
            &[1, 733, 16289, 28793, 22557, 733, 28748, 16289, 28793],
        )],
    }
}

/// Mixtral's tokenizer, as the fixtures have it.
pub fn mixtral_tokenizer() -> Vec<u8> {
    std::fs::read(octet_tests::fixture("tokenizer").join("tokenizer.json")).unwrap()
}

/// That a failure is of a kind, and told in sentences.
macro_rules! assert_problem {
    ($problem:expr, $kind:pat) => {{
        let problem: &octet_models::ModelsError = $problem;
        assert!(matches!(problem, $kind), "{problem:?}");
        $crate::common::assert_is_told(problem);
    }};
}
pub(crate) use assert_problem;

pub fn assert_is_told(problem: &ModelsError) {
    for text in [problem.message(), problem.hint()] {
        assert!(
            text.ends_with('.') && text.len() > 20,
            "{problem:?}: {text}"
        );
    }
}
