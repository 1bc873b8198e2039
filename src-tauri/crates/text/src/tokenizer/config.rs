//! The files beside a `tokenizer.json`.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{MAX_FILE_BYTES, TokenizerError};
use crate::prompt::ChatTemplate;
use octet_checkpoint::{CONFIG_FILE, without_byte_order_mark};

/// `None` when there is no such file.
pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    let failed = |source| TokenizerError::Read {
        path: path.to_path_buf(),
        source,
    };
    // To open a pipe would wait for who writes to it.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(TokenizerError::Invalid {
            path: path.to_path_buf(),
            message: "it is not a regular file".to_owned(),
        });
    }
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(TokenizerError::TooLarge {
            path: path.to_path_buf(),
            max_bytes: MAX_FILE_BYTES,
        });
    }
    Ok(Some(bytes))
}

/// The JSON in `path`; `None` when there is no such file.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TokenizerError> {
    let Some(bytes) = read_file(path)? else {
        return Ok(None);
    };
    let value = serde_json::from_slice(without_byte_order_mark(&bytes));
    value.map(Some).map_err(|source| TokenizerError::Json {
        path: path.to_path_buf(),
        source,
    })
}

/// What is used of `tokenizer_config.json` and of the older `special_tokens_map.json`.
#[derive(Debug, Default)]
pub(super) struct TokenizerConfig {
    pub(super) path: PathBuf,
    fields: Map<String, Value>,
    template: Option<ChatTemplate>,
    /// BOS by `config.json`.
    pub(super) model_bos: Option<u32>,
}

/// A special token as the files write it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TokenText {
    Plain(String),
    Added { content: String },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TemplateSource {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl TokenizerConfig {
    pub(super) fn read_beside(tokenizer_file: &Path) -> Result<Self, TokenizerError> {
        let beside = |name: &str| tokenizer_file.with_file_name(name);
        let path = beside("tokenizer_config.json");
        let mut fields: Map<String, Value> = read_json(&path)?.unwrap_or_default();
        let older: Option<Map<String, Value>> = read_json(&beside("special_tokens_map.json"))?;
        for (name, value) in older.unwrap_or_default() {
            fields.entry(name).or_insert(value);
        }
        // Whoever loads the model says what is wrong with its `config.json`.
        let model: Option<Map<String, Value>> = read_json(&beside(CONFIG_FILE)).unwrap_or_default();
        let model_bos = model
            .as_ref()
            .and_then(|model| model.get("bos_token_id")?.as_u64());
        let mut config = Self {
            path,
            fields,
            template: None,
            model_bos: model_bos.and_then(|id| u32::try_from(id).ok()),
        };
        config.template = config.read_template(beside("chat_template.jinja"))?;
        Ok(config)
    }

    /// What the metadata of the GGUF file at `path` say.
    pub(super) fn of_gguf(path: &Path, spec: &octet_gguf::TokenizerSpec) -> Self {
        let named = [
            ("bos_token", &spec.bos),
            ("eos_token", &spec.eos),
            ("unk_token", &spec.unknown),
            ("pad_token", &spec.padding),
        ];
        let fields = named.into_iter().filter_map(|(name, token)| {
            let token = token.as_ref()?;
            Some((name.to_owned(), Value::from(token.text.clone())))
        });
        let adds_bos = ("add_bos_token".to_owned(), Value::from(spec.add_bos));
        Self {
            path: path.to_path_buf(),
            fields: fields.chain([adds_bos]).collect(),
            template: spec.chat_template.clone().map(|source| ChatTemplate {
                source,
                path: path.to_path_buf(),
            }),
            model_bos: spec.bos.as_ref().map(|token| token.id),
        }
    }

    /// The template for ordinary chat: of several, the one named `default`, else the first.
    fn read_template(&self, own_file: PathBuf) -> Result<Option<ChatTemplate>, TokenizerError> {
        if let Some(bytes) = read_file(&own_file)? {
            let source = std::str::from_utf8(without_byte_order_mark(&bytes));
            return match source {
                Ok(source) => Ok(Some(ChatTemplate {
                    source: source.to_owned(),
                    path: own_file,
                })),
                Err(_) => Err(TokenizerError::Invalid {
                    path: own_file,
                    message: "the chat template is not UTF-8 text".into(),
                }),
            };
        }
        let source = match self.field("chat_template")? {
            None => return Ok(None),
            Some(TemplateSource::One(source)) => Some(source),
            Some(TemplateSource::Named(mut named)) => {
                let is_default = |entry: &NamedTemplate| entry.name == "default";
                let index = named.iter().position(is_default).unwrap_or(0);
                (index < named.len()).then(|| named.swap_remove(index).template)
            }
        };
        Ok(source.map(|source| ChatTemplate {
            source,
            path: self.path.clone(),
        }))
    }

    fn field<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, TokenizerError> {
        let Some(value) = self.fields.get(name).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let read = serde_json::from_value(value.clone());
        read.map(Some).map_err(|source| TokenizerError::Json {
            path: self.path.clone(),
            source,
        })
    }

    /// The text of a special token, as `bos_token`.
    pub(super) fn token(&self, role: &str) -> Result<Option<String>, TokenizerError> {
        Ok(self.field::<TokenText>(role)?.map(TokenText::text))
    }

    /// Whether something is said of `name`, be it that there is none.
    pub(super) fn names(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// Whether a text begins with BOS, if that is said.
    pub(super) fn adds_bos(&self) -> Option<bool> {
        self.fields.get("add_bos_token")?.as_bool()
    }

    pub(super) fn take_template(&mut self) -> Option<ChatTemplate> {
        self.template.take()
    }

    /// Every special token that is named, for templates: `unk_token`, `pad_token`, ...
    pub(super) fn tokens_by_name(&self) -> Map<String, Value> {
        let text = |value: &Value| {
            let token: TokenText = serde_json::from_value(value.clone()).ok()?;
            Some(Value::from(token.text()))
        };
        let named = |(name, value): (&String, &Value)| {
            let value = match value {
                Value::Array(list) if name == "additional_special_tokens" => {
                    Value::Array(list.iter().filter_map(text).collect())
                }
                value if name.ends_with("_token") => text(value)?,
                _ => return None,
            };
            Some((name.clone(), value))
        };
        self.fields.iter().filter_map(named).collect()
    }
}

impl TokenText {
    fn text(self) -> String {
        let (Self::Plain(text) | Self::Added { content: text }) = self;
        text
    }
}
