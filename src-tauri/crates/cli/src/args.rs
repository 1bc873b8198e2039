//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use octet_engine::LoadOptions;
use octet_engine::checkpoint::shorten;
use octet_engine::generate::{Input, Request};
use octet_engine::hardware::cuda_is_available;
use octet_engine::plan::{Device, Eviction, Misses, OffloadPreset, PlanRequest, parse_bytes};
use octet_engine::prompt::{Message, Role};
use octet_engine::sampling::{SamplingError, SamplingParams};
use octet_engine::tokenizer::TokenId;
use octet_gguf::TensorType;
use octet_kernels::Bits;
use octet_models::{ModelsError, RepoName};

use crate::UsageError;
use crate::messages::read_messages;

/// Mixtral 8x7B on the machine you have.
#[derive(Parser)]
#[command(name = "octet", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Show a model's shape, quantization and sizes, and the memory plan for this machine
    Inspect(InspectArgs),
    /// Write the logits of every position to a safetensors file
    Logits(LogitsArgs),
    /// Answer one prompt
    Generate(GenerateArgs),
    /// Show the token ids of a text or a conversation
    Tokenize(TokenizeArgs),
    /// Talk with a model in the terminal
    Chat(ChatArgs),
    /// Measure speed, hit rates and memory
    Bench(BenchArgs),
    /// Write a random checkpoint of any shape, for benchmarks
    Synth(SynthArgs),
    /// Make a model of this format out of a float Mixtral (f32, f16 or bf16 safetensors)
    Quantize(QuantizeArgs),
    /// Download, list, verify and delete models
    Models(ModelsArgs),
}

/// What every command that runs a model takes.
#[derive(Args)]
pub struct EngineArgs {
    /// Folder of the model (config.json, model.safetensors.index.json, ...), a GGUF file, or the name
    /// of an installed model (`octet models list`); without it, the small demo model that ships with octet
    #[arg(long, value_name = "DIR|NAME")]
    model: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda
    #[arg(long, default_value_t)]
    device: Device,
    /// Memory settings by size of the GPU: auto, 16gb, 12gb, cpu
    #[arg(long, default_value_t)]
    preset: OffloadPreset,
    /// VRAM to take at most, as in 12GB
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    vram: Option<u64>,
    /// RAM for experts and KV cache at most, as in 8GB
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    ram: Option<u64>,
    /// RAM to pin for the GPU at most, as in 8GB (default: half of the RAM on Windows, else all that
    /// experts take)
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    pinned_ram: Option<u64>,
    /// Experts per layer kept on the GPU (attention always is)
    #[arg(long, value_name = "K", value_parser = whole, allow_negative_numbers = true)]
    experts_on_gpu: Option<usize>,
    /// Experts that are not on the GPU: auto, fetch, cpu
    #[arg(long, default_value_t)]
    misses: Misses,
    /// Predicted experts of the next layer to fetch ahead: 0, 1 or 2 (default: 2, or 0 where the CPU
    /// computes what is not on the GPU, from RAM that holds everything)
    #[arg(long, value_name = "N", value_parser = prefetch, allow_negative_numbers = true)]
    prefetch: Option<usize>,
    /// Which expert is evicted when slots are short: global, layer
    #[arg(long, default_value = "global", value_parser = eviction, value_name = "LRU")]
    eviction: Eviction,
    /// Worker threads (default: one per physical core); more than the machine has cores is slower
    #[arg(long, value_name = "T", value_parser = threads, allow_negative_numbers = true)]
    threads: Option<u16>,
    /// Context length in tokens
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    ctx: Option<usize>,
    /// f32 activations everywhere: slower, the reference for tests
    #[arg(long)]
    exact: bool,
    /// Load even if it does not fit
    #[arg(long)]
    force: bool,
    /// tokenizer.json or a GGUF file, if the model has none of its own
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

impl EngineArgs {
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            plan: PlanRequest {
                device: self.device,
                preset: self.preset,
                vram_budget: self.vram,
                ram_budget: self.ram,
                pinned_ram: self.pinned_ram,
                experts_on_gpu: self.experts_on_gpu,
                ctx: self.ctx,
                misses: self.misses,
                prefetch: self.prefetch,
                eviction: self.eviction,
                force: self.force,
                gpu_backend_available: cuda_is_available(),
                ..PlanRequest::default()
            },
            threads: self.threads.map(usize::from),
            exact: self.exact,
            tokenizer: self.tokenizer.clone(),
            ..LoadOptions::default()
        }
    }

    /// The tokenizer's file, if one was given.
    pub fn tokenizer(&self) -> Option<&Path> {
        self.tokenizer.as_deref()
    }

    /// Whether it is the demo model that is asked for.
    pub fn is_demo(&self) -> bool {
        self.model.is_none()
    }

    /// The folder, or the name of an installed model, that was given.
    pub fn model(&self) -> Option<&Path> {
        self.model.as_deref()
    }

    /// The number of threads that was asked for.
    pub fn threads(&self) -> Option<u16> {
        self.threads
    }
}

/// How tokens are chosen.
#[derive(Args)]
pub struct SamplingArgs {
    /// 0: always the likeliest token
    #[arg(long, value_name = "T", value_parser = fraction, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the likeliest tokens that make up this share
    #[arg(long, value_name = "P", value_parser = fraction, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep this many likeliest tokens (0: all)
    #[arg(long, value_name = "K", value_parser = whole, allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Drop tokens less likely than this share of the likeliest
    #[arg(long, value_name = "P", value_parser = fraction, allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Above 1: repeat less
    #[arg(long, value_name = "R", value_parser = fraction, allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// The same seed gives the same answer
    #[arg(long, value_name = "S", value_parser = seed, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Most new tokens
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    max_new_tokens: Option<usize>,
    /// Text or special token that ends the answer; can be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on where the model would end
    #[arg(long)]
    ignore_eos: bool,
}

impl SamplingArgs {
    /// A request for `input`, of at most `most` new tokens unless the user said otherwise.
    pub fn request(&self, input: Input, most: Option<usize>) -> anyhow::Result<Request> {
        let default = SamplingParams::default();
        let sampling = SamplingParams {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_p: self.top_p.unwrap_or(default.top_p),
            top_k: self.top_k.unwrap_or(default.top_k),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self
                .repetition_penalty
                .unwrap_or(default.repetition_penalty),
            seed: self.seed,
            ..default
        };
        sampling.validate().map_err(as_option)?;
        let max_new_tokens = self.max_new_tokens.or(most);
        Ok(Request {
            input,
            sampling,
            max_new_tokens,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            began_at_ms: None,
        })
    }
}

#[derive(Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", value_parser = tokens, allow_hyphen_values = true)]
    pub tokens: Tokens,
    /// File to write: tensor "logits", f32 (len, vocab)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub input: InputArgs,
    /// Day on which the conversation began, for chat templates that name it (default: today)
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = date)]
    pub date: Option<i64>,
    /// Print JSON at the end instead of text as it comes
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct InputArgs {
    /// A message to answer, laid out as the model's chat format wants it
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// Text to go on from; special tokens in it stand for themselves, and BOS is put before it
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Conversation: a JSON list of {"role": "...", "content": "..."}; - reads standard input
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// Token ids, separated by commas; needs no tokenizer
    #[arg(long, value_name = "IDS", value_parser = tokens, allow_hyphen_values = true)]
    tokens: Option<Tokens>,
}

impl InputArgs {
    pub fn input(&self) -> anyhow::Result<Input> {
        if let Some(text) = &self.message {
            return Ok(Input::Messages(vec![Message::new(Role::User, text)]));
        }
        match (&self.prompt, &self.messages, &self.tokens) {
            (Some(text), _, _) => Ok(Input::Prompt(text.clone())),
            (_, Some(path), _) => Ok(Input::Messages(read_messages(path)?)),
            (_, _, Some(Tokens(ids))) => Ok(Input::Tokens(ids.clone())),
            _ => {
                let what = "give --message, --prompt, --messages or --tokens";
                Err(UsageError(what.into()).into())
            }
        }
    }
}

#[derive(Args)]
pub struct TokenizeArgs {
    /// tokenizer.json, a folder that holds it, or a GGUF file
    #[arg(long, value_name = "FILE")]
    pub tokenizer: PathBuf,
    #[command(flatten)]
    pub input: TextArgs,
    /// Day on which the conversation began, for chat templates that name it (default: today)
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = date)]
    pub date: Option<i64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct TextArgs {
    /// Conversation: a JSON list of {"role": "...", "content": "..."}; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub messages: Option<PathBuf>,
    /// Text in which special tokens stand for themselves, as in generate --prompt; without the BOS
    /// that is put before it there
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
}

#[derive(Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// System text
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
}

#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Tokens of the prompt
    #[arg(long, value_name = "P", default_value_t = 512, value_parser = positive, allow_negative_numbers = true)]
    pub prompt_tokens: usize,
    /// Tokens decoded behind it
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = whole, allow_negative_numbers = true)]
    pub new_tokens: usize,
    /// Runs; medians are printed
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = positive, allow_negative_numbers = true)]
    pub repeat: usize,
    /// Seed of the random tokens
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = seed, allow_negative_numbers = true)]
    pub seed: u64,
    /// Probability with which a decoded token keeps an expert of the token before, in the second
    /// of the two figures (0: leave that one out)
    ///
    /// Real text keeps 40 to 60 % of experts from token to token; random weights route almost
    /// uniformly, so that caches look worse on them. The first figure is the model's own routing.
    #[arg(long, value_name = "P", default_value_t = 0.5, value_parser = probability, allow_negative_numbers = true)]
    pub routing_reuse: f32,
    /// Measure how fast this machine computes an expert and copies one to the GPU, remember it for
    /// later runs, and print it
    #[arg(long)]
    pub calibrate: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct SynthArgs {
    /// A Mixtral config.json
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Folder to write, new or empty; with --format gguf a new file
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// hqq: the demo's layout, a folder; gguf: one file without a vocabulary
    #[arg(long, value_name = "FORMAT", default_value = "hqq")]
    pub format: SynthFormat,
    /// With --format gguf: type of the experts' matrices, as in Q4_K or IQ3_XXS
    #[arg(long = "type", value_name = "TYPE", default_value = "Q4_K", value_parser = tensor_type)]
    pub experts: TensorType,
    /// With --format gguf: type of the attention matrices
    #[arg(long, value_name = "TYPE", default_value = "Q4_K", value_parser = tensor_type)]
    pub attention_type: TensorType,
    /// With --format gguf: type of the output matrix
    #[arg(long, value_name = "TYPE", default_value = "Q6_K", value_parser = tensor_type)]
    pub output_type: TensorType,
    /// Layers, if not as many as the config says
    #[arg(long, value_name = "L", value_parser = layers, allow_negative_numbers = true)]
    pub layers: Option<usize>,
    /// The same seed gives the same bytes
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = seed, allow_negative_numbers = true)]
    pub seed: u64,
    /// Bits of an expert's weight: 2, 3, 4 or 8
    #[arg(long, value_name = "B", allow_negative_numbers = true, value_parser = bits, default_value = "2")]
    pub expert_bits: Bits,
    /// Expert weights that share a scale, at most: the largest size that divides every matrix
    #[arg(long, value_name = "G", default_value_t = 16, value_parser = positive, allow_negative_numbers = true)]
    pub expert_group: usize,
    /// Bits of an attention weight: 2, 3, 4 or 8
    #[arg(long, value_name = "B", allow_negative_numbers = true, value_parser = bits, default_value = "4")]
    pub attention_bits: Bits,
    /// Attention weights that share a scale, at most, likewise
    #[arg(long, value_name = "G", default_value_t = 64, value_parser = positive, allow_negative_numbers = true)]
    pub attention_group: usize,
}

/// Formats of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SynthFormat {
    Hqq,
    Gguf,
}

fn tensor_type(text: &str) -> Result<TensorType, String> {
    let named = |ty: &TensorType| ty.name().eq_ignore_ascii_case(text);
    TensorType::ALL.into_iter().find(named).ok_or_else(|| {
        let names: Vec<&str> = TensorType::ALL.iter().map(|ty| ty.name()).collect();
        format!("give one of {}", names.join(", "))
    })
}

#[derive(Args)]
pub struct QuantizeArgs {
    /// Folder of the float model, as transformers saves it
    #[arg(long, value_name = "DIR")]
    pub source: PathBuf,
    /// Folder to write; new, empty, or left by a run of the same command that did not end
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Bits of an expert's weight: 2, 3, 4 or 8
    #[arg(long, value_name = "B", allow_negative_numbers = true, value_parser = bits, default_value = "2")]
    pub expert_bits: Bits,
    /// Expert weights that share a scale
    #[arg(long, value_name = "G", default_value_t = 16, value_parser = positive, allow_negative_numbers = true)]
    pub expert_group: usize,
    /// Expert scales that share a scale of their own (0: scales stay f16)
    #[arg(long, value_name = "S", default_value_t = 128, value_parser = whole, allow_negative_numbers = true)]
    pub expert_scale_group: usize,
    /// Bits of an attention weight: 2, 3, 4 or 8
    #[arg(long, value_name = "B", allow_negative_numbers = true, value_parser = bits, default_value = "4")]
    pub attention_bits: Bits,
    /// Attention weights that share a scale
    #[arg(long, value_name = "G", default_value_t = 64, value_parser = positive, allow_negative_numbers = true)]
    pub attention_group: usize,
    /// Attention scales that share a scale of their own (0: scales stay f16)
    #[arg(long, value_name = "S", default_value_t = 256, value_parser = whole, allow_negative_numbers = true)]
    pub attention_scale_group: usize,
    /// Worker threads (default: one per logical core; fewer where memory would pass 3.5 GB)
    #[arg(long, value_name = "T", value_parser = threads, allow_negative_numbers = true)]
    pub threads: Option<u16>,
    /// Plain rounding in place of HQQ's solver, for comparison
    #[arg(long)]
    pub round_to_nearest: bool,
    /// Check everything, show sizes and a measured estimate of the time, write nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct ModelsArgs {
    #[command(subcommand)]
    pub command: ModelsCommand,
}

#[derive(Subcommand)]
pub enum ModelsCommand {
    /// Show installed models, unfinished downloads, and models to download
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Download a model, or resume a download
    ///
    /// Files that are already here are not downloaded again. Ctrl-C stops; the same command resumes.
    /// HF_ENDPOINT names another hub, HF_TOKEN an access token, HF_HOME or HF_HUB_CACHE the folder.
    Pull {
        /// Repository on the hub, as in owner/name; without it, the recommended model
        #[arg(value_name = "OWNER/NAME", value_parser = repository)]
        name: Option<String>,
        /// Show what it is, its size and how it would run here; download nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Check every byte of a model against what was published
    Verify {
        /// As `octet models list` shows it, or the part after the slash
        name: String,
        /// Download bad files again
        #[arg(long)]
        repair: bool,
    },
    /// Delete a model, remove a linked folder from the list, or cancel an unfinished download
    Remove {
        /// As `octet models list` shows it, or the part after the slash
        name: String,
    },
    /// Add a folder with a model to the list; its files stay where they are
    Import {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Copy the files into the models folder
        #[arg(long)]
        copy: bool,
    },
}

/// Token ids, in a type of their own so that clap takes them as one value.
#[derive(Clone)]
pub struct Tokens(pub Vec<TokenId>);

fn tokens(text: &str) -> Result<Tokens, String> {
    let one = |part: &str| match part.trim().parse() {
        Ok(id) => Ok(TokenId(id)),
        Err(_) => Err(format!(
            "{:?} is not a token id; write ids as in 1,22557,28725",
            shorten(part)
        )),
    };
    text.split(',')
        .map(one)
        .collect::<Result<_, _>>()
        .map(Tokens)
}

/// A whole number within bounds, or what to give instead.
fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    text: &str,
    least: T,
    most: Option<T>,
) -> Result<T, String> {
    let in_bounds = |n: &T| *n >= least && most.as_ref().is_none_or(|most| n <= most);
    let parsed = text.parse().ok().filter(in_bounds);
    parsed.ok_or_else(|| match &most {
        Some(most) => format!("give a whole number from {least} to {most}"),
        None => format!("give a whole number, {least} or more"),
    })
}

fn whole(text: &str) -> Result<usize, String> {
    number(text, 0, None)
}

/// The beginning of a day here, in milliseconds since 1970.
fn date(text: &str) -> Result<i64, String> {
    let day: Result<Date, _> = text.parse();
    let began = day.and_then(|day| day.to_zoned(TimeZone::system()));
    began
        .map(|began| began.timestamp().as_millisecond())
        .map_err(|_| "give a day, as in 2026-11-27".to_owned())
}

fn positive(text: &str) -> Result<usize, String> {
    number(text, 1, None)
}

fn prefetch(text: &str) -> Result<usize, String> {
    number(text, 0, Some(2))
}

/// The bounds are those of a model's config.json.
fn layers(text: &str) -> Result<usize, String> {
    number(text, 1, Some(1024))
}

fn threads(text: &str) -> Result<u16, String> {
    number(text, 1, Some(1024))
}

fn bits(text: &str) -> Result<Bits, String> {
    let all = [Bits::B2, Bits::B3, Bits::B4, Bits::B8];
    let known = all.into_iter().find(|b| b.count().to_string() == text);
    known.ok_or_else(|| "choose 2, 3, 4 or 8".to_owned())
}

fn seed(text: &str) -> Result<u64, String> {
    number(text, 0, None)
}

fn repository(text: &str) -> Result<String, String> {
    let name: RepoName = text
        .parse()
        .map_err(|error: ModelsError| error.to_string())?;
    Ok(name.as_str().to_owned())
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

/// Any number; its range is the engine's.
fn fraction(text: &str) -> Result<f32, String> {
    let parsed = text.trim().parse().ok();
    parsed.ok_or_else(|| "give a number, as in 0.7".to_owned())
}

/// A sampling parameter by the name of its option.
fn as_option(error: SamplingError) -> UsageError {
    UsageError(match error {
        SamplingError::Parameter {
            name,
            value,
            expected,
        } => format!("--{} is {value}; give {expected}", name.replace('_', "-")),
        other => other.to_string(),
    })
}

fn probability(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err("give a probability from 0 to 1, as in 0.5".into()),
    }
}

fn eviction(text: &str) -> Result<Eviction, String> {
    match text {
        "global" => Ok(Eviction::Global),
        "layer" => Ok(Eviction::Layer),
        _ => Err("choose global (all layers share the slots) or layer (each has its own)".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn probabilities_are_from_0_to_1() {
        assert_eq!(probability("0.5"), Ok(0.5));
        assert_eq!((probability("0"), probability("1")), (Ok(0.0), Ok(1.0)));
        for text in ["1.01", "-0.1", "NaN", "half", ""] {
            assert!(probability(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_with_the_bounds() {
        assert_eq!((whole("0"), positive("1")), (Ok(0), Ok(1)));
        assert_eq!((prefetch("2"), threads("1024")), (Ok(2), Ok(1024)));
        for (refused, bounds) in [
            (whole("-1"), "0 or more"),
            (positive("0"), "1 or more"),
            (prefetch("3"), "0 to 2"),
            (layers("2000"), "1 to 1024"),
            (positive("1e3"), "whole number"),
        ] {
            let message = refused.expect_err("refused");
            assert!(message.contains(bounds), "{message}");
        }
    }

    #[test]
    fn days_are_read_or_refused() {
        let (one, next) = (date("2026-11-27"), date("2026-11-28"));
        let apart = next.expect("a day") - one.expect("a day");
        assert!((23..=25).contains(&(apart / 3_600_000)), "{apart}");
        for text in ["27.11.2026", "2026-13-01", "", "today"] {
            assert!(date(text).expect_err("refused").contains("as in"), "{text}");
        }
    }

    #[test]
    fn token_lists_are_read_or_refused_with_the_reason() {
        let ids = tokens("1, 2,3").expect("ids");
        assert_eq!(ids.0, [TokenId(1), TokenId(2), TokenId(3)]);
        assert!(tokens("1,x").err().expect("refused").contains("\"x\""));
        assert!(tokens("").is_err() && tokens("-1").is_err());
        let long = tokens(&"x".repeat(100_000)).err().expect("refused");
        assert!(long.len() < 200, "{long}");
    }
}
