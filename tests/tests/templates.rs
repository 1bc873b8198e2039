//! Chat templates, against what Jinja2 made of them.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use octet_engine::prompt::{ChatOptions, Message, PromptError, Role};
use octet_engine::tokenizer::{TokenId, Tokenizer};
use octet_tests::fixture;
use serde_json::{Value, json};

/// The day that `tests/templates/compare.py` recorded, at noon in UTC: the same day nearly
/// everywhere.
const NOON: i64 = 1_795_780_800_000;

fn recorded(name: &str) -> Value {
    let path = fixture("templates").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A tokenizer of one token a byte and some special tokens, so that ids give back the text.
struct Bytes {
    tokenizer: Tokenizer,
    specials: Vec<String>,
    /// Kept while messages may name it.
    folder: tempfile::TempDir,
}

impl Bytes {
    fn new(template: &str, specials: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
        write("tokenizer.json", &byte_tokenizer(specials).to_string()).unwrap();
        write("tokenizer_config.json", &config.to_string()).unwrap();
        write("chat_template.jinja", template).unwrap();
        Self {
            tokenizer: Tokenizer::open(folder.path()).unwrap(),
            specials: specials.to_vec(),
            folder,
        }
    }

    fn plain(template: &str) -> Self {
        Self::new(template, &["<unk>", "<s>", "</s>"].map(str::to_owned))
    }

    fn render(&self, messages: &[Message]) -> Result<String, PromptError> {
        let options = ChatOptions {
            began_at_ms: Some(NOON),
            ..ChatOptions::default()
        };
        let ids = self.tokenizer.encode_chat_with(messages, &options)?;
        Ok(self.text(&ids))
    }

    fn text(&self, ids: &[TokenId]) -> String {
        let mut bytes = Vec::new();
        for id in ids {
            match u8::try_from(id.0) {
                Ok(byte) => bytes.push(byte),
                Err(_) => bytes.extend(self.specials[id.0 as usize - 256].as_bytes()),
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    fn file(&self) -> String {
        self.folder
            .path()
            .join("chat_template.jinja")
            .display()
            .to_string()
    }
}

fn byte_tokenizer(specials: &[String]) -> Value {
    // GPT-2's names of bytes: printable ones stand for themselves, the others come after 255.
    let mut hidden = 0x100;
    let mut vocab = serde_json::Map::new();
    for byte in 0..256_u32 {
        let code = match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte,
            _ => {
                hidden += 1;
                hidden - 1
            }
        };
        vocab.insert(char::from_u32(code).unwrap().to_string(), byte.into());
    }
    let special = |(place, content): (usize, &String)| {
        json!({"id": 256 + place, "content": content, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                       "use_regex": false});
    json!({
        "version": "1.0", "pre_tokenizer": bytes, "decoder": bytes,
        "added_tokens": specials.iter().enumerate().map(special).collect::<Vec<_>>(),
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}

fn user(content: &str) -> Message {
    Message::new(Role::User, content)
}

fn assistant(content: &str) -> Message {
    Message::new(Role::Assistant, content)
}

fn system(content: &str) -> Message {
    Message::new(Role::System, content)
}

/// `{{ messages }}` and its like: `expression` between marks that no space is trimmed from.
fn value_of(expression: &str) -> Result<String, PromptError> {
    Bytes::plain(&format!("[{{{{ {expression} }}}}]")).render(&[user("Hi")])
}

#[test]
fn every_construct_gives_what_jinja2_gives() {
    let messages = [
        system("Be brief."),
        user("a <b> \"c\""),
        assistant("é"),
        user("d"),
    ];
    let cases = recorded("constructs.json");
    let mut differing = 0;
    for case in cases.as_array().unwrap() {
        let template = case["template"].as_str().unwrap();
        let found = Bytes::plain(template).render(&messages);
        let found = found.unwrap_or_else(|error| format!("error: {error}"));
        if found != case["text"] {
            println!(
                "{template}\n  Jinja2: {}\n  octet:  {found:?}",
                case["text"]
            );
            differing += 1;
        }
    }
    assert_eq!(differing, 0, "of {}", cases.as_array().unwrap().len());
}

#[test]
fn published_templates_give_what_jinja2_gives() {
    let recorded = recorded("recorded.json");
    let conversations = recorded["conversations"].as_object().unwrap();
    let templates = recorded["templates"].as_object().unwrap();
    assert!(templates.len() >= 8 && conversations.len() >= 12);
    for (name, of) in templates {
        let source = std::fs::read_to_string(fixture("templates").join(name)).unwrap();
        let specials: Vec<String> = serde_json::from_value(of["specials"].clone()).unwrap();
        let tokenizer = Bytes::new(&source, &specials);
        for (title, messages) in conversations {
            let messages: Vec<Message> = serde_json::from_value(messages.clone()).unwrap();
            let found = tokenizer
                .render(&messages)
                .map_err(|error| error.to_string());
            assert_eq!(
                found.as_deref().ok(),
                of["texts"][title].as_str(),
                "{name}: {title}: {found:?}"
            );
        }
    }
}

#[test]
fn a_templates_own_place_for_the_system_text_is_followed() {
    let own = "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}\
               {% set first = '<<SYS>>' + messages[0].content + '<</SYS>>' %}{% else %}\
               {% set rest = messages %}{% set first = '' %}{% endif %}{{ bos_token }}\
               {% for m in rest %}{% if m.role == 'user' %}\
               [INST] {{ (first if loop.first else '') + m.content }} [/INST]\
               {% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";
    let own = Bytes::plain(own);
    assert!(own.tokenizer.uses_own_template());
    let text = own.render(&[system("Be brief."), user("Hi")]).unwrap();
    assert_eq!(text, "<s>[INST] <<SYS>>Be brief.<</SYS>>Hi [/INST]");

    // One that refuses the system text, or drops it, is the built-in format, which has it.
    let bare = |system: &str| {
        format!(
            "{{{{ bos_token }}}}{{% for m in messages %}}{{% if m.role == 'user' %}}[INST] \
             {{{{ m.content }}}} [/INST]{{% elif m.role == 'assistant' %}}{{{{ m.content + \
             eos_token }}}}{{% else %}}{system}{{% endif %}}{{% endfor %}}"
        )
    };
    for other in ["{{ raise_exception('no') }}", ""] {
        let built_in = Bytes::plain(&bare(other));
        assert!(!built_in.tokenizer.uses_own_template(), "{other}");
        let text = built_in.render(&[system("Be brief."), user("Hi")]).unwrap();
        assert_eq!(text, "<s> [INST] Be brief.\n\nHi [/INST]");
    }
    assert!(
        Bytes::plain(&bare("<{{ m.content }}>"))
            .tokenizer
            .uses_own_template()
    );
}

#[test]
fn turns_in_a_row_are_left_alone_where_the_template_takes_them() {
    let row = [
        user("a"),
        user("b"),
        assistant("c"),
        assistant("d"),
        user("e"),
    ];
    let takes = Bytes::plain("{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}");
    assert_eq!(takes.render(&row).unwrap(), "<u>a<u>b<a>c<a>d<u>e");
    let refuses = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
                   {{ raise_exception('take turns') }}{% endif %}<{{ m.content }}>{% endfor %}";
    let refuses = Bytes::plain(refuses);
    assert_eq!(refuses.render(&row).unwrap(), "<a\n\nb><c\n\nd><e>");
    // What cannot be mended by that is the template's own refusal.
    let error = refuses
        .render(&[assistant("a"), user("b"), user("c")])
        .unwrap_err();
    assert!(
        matches!(error, PromptError::TemplateRefused { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("take turns"), "{error}");
    // The built-in format's templates refuse them, or take them likewise.
    let mixtral = |check: &str| {
        let template = "{{ bos_token }}{% for m in messages %}CHECK{% if m.role == 'user' %}\
                        [INST] {{ m.content }} [/INST]{% elif m.role == 'assistant' %}\
                        {{ m.content + eos_token }}{% endif %}{% endfor %}";
        Bytes::plain(&template.replace("CHECK", check))
    };
    let takes = mixtral("");
    assert!(!takes.tokenizer.uses_own_template());
    assert_eq!(
        takes.render(&row).unwrap(),
        "<s>[INST] a [/INST][INST] b [/INST]c</s>d</s>[INST] e [/INST]"
    );
    let built_in = mixtral(
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}\
         {% endif %}",
    );
    assert!(!built_in.tokenizer.uses_own_template());
    assert_eq!(
        built_in.render(&row).unwrap(),
        "<s> [INST] a\n\nb [/INST] c\n\nd</s> [INST] e [/INST]"
    );
    assert_eq!(
        built_in
            .render(&[user("a"), user(""), assistant("c"), assistant(" d")])
            .unwrap(),
        "<s> [INST] a [/INST] c\n\n d"
    );
}

#[test]
fn the_date_is_the_day_on_which_the_conversation_began() {
    let bytes = Bytes::plain("{{ strftime_now('%Y-%m-%d %B') }}");
    let on = |began_at_ms| {
        let options = ChatOptions {
            began_at_ms,
            ..ChatOptions::default()
        };
        let ids = bytes
            .tokenizer
            .encode_chat_with(&[user("x")], &options)
            .unwrap();
        bytes.text(&ids)
    };
    assert_eq!(on(Some(NOON)), "2026-11-27 November");
    assert_eq!(on(Some(NOON - 86_400_000 * 30)), "2026-10-28 October");
    assert!(on(None).starts_with("20"), "today: {}", on(None));
    let wrong = value_of("strftime_now('%!')").unwrap_err().to_string();
    assert!(wrong.contains("strftime_now"), "{wrong}");
}

#[test]
fn errors_name_the_file_and_a_way_out() {
    let error = |template: &str| {
        let bytes = Bytes::plain(template);
        let error = bytes.render(&[user("Hi")]).unwrap_err().to_string();
        assert!(error.contains(&bytes.file()), "{error}");
        error
    };
    let syntax = error("line one\n{% if %}");
    assert!(syntax.contains("chat_template:2"), "{syntax}");
    assert!(syntax.contains("remove it to use the built-in"), "{syntax}");
    let unknown = error("{{ messages[0].content.frobnicate() }}");
    assert!(unknown.contains("frobnicate"), "{unknown}");
    let refused = error("{{ raise_exception('only\n haiku') }}");
    assert!(
        refused.contains("only haiku") && refused.contains("change them"),
        "{refused}"
    );
    // A template in tokenizer_config.json names that.
    let folder = tempfile::tempdir().unwrap();
    let specials = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let write = |name: &str, json: &Value| {
        std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    };
    write("tokenizer.json", &byte_tokenizer(&specials));
    write(
        "tokenizer_config.json",
        &json!({"chat_template": "{{ x.y.z }}"}),
    );
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let error = tokenizer
        .encode_chat(&[user("Hi")])
        .unwrap_err()
        .to_string();
    assert!(error.contains("tokenizer_config.json"), "{error}");
}

/// Peak memory of this process so far, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// A few dozen doublings asked for gigabytes; each of these did, or would without its bound.
#[test]
fn templates_that_grow_without_end_are_stopped_early() {
    let before = peak_bytes();
    let times = |n: usize, step: &str| step.repeat(n);
    let start = "{% set s = namespace(t='ab', l=['ab'], d={}) %}";
    for (growing, end) in [
        ("{% set s.t = s.t + s.t %}", "{{ s.t }}"),
        ("{% set s.t = s.t ~ s.t %}", "{{ s.t }}"),
        ("{% set s.t = s.t * 2 %}", "{{ s.t }}"),
        ("{% set s.t = [s.t, s.t] | join %}", "{{ s.t }}"),
        ("{% set s.t = s.t.join([s.t, s.t]) %}", "{{ s.t }}"),
        ("{% set s.t = s.t.replace('a', 'aa') %}", "{{ s.t }}"),
        ("{% set s.t = s.t | replace('b', 'bb') %}", "{{ s.t }}"),
        ("{% set s.t = '%s%s' % (s.t, s.t) %}", "{{ s.t }}"),
        ("{% set s.t = '{0}{0}'.format(s.t) %}", "{{ s.t }}"),
        ("{% set s.t %}{{ s.t }}{{ s.t }}{% endset %}", "{{ s.t }}"),
        ("{% set s.l = s.l + s.l %}", "{{ s.l | length }}{{ s.l }}"),
        ("{% set s.l = s.l * 2 %}", "{{ s.l }}"),
        ("{% set s.l = [s.l, s.l] %}", "{{ s.l }}"),
        ("{% set s.l = [s.l, s.l] %}", "{{ s.l | tojson }}"),
        ("{% set s.l = [s.l, s.l] %}", "{{ s.l | string | length }}"),
        ("{% set s.l = [s.l, s.l] %}", "{{ '' ~ s.l }}"),
        ("{% set s.l = [s.l, s.l] %}", "{{ '%s' % s.l }}"),
        ("{% set s.l = [s.l, s.l] %}", "{{ '{}'.format(s.l) }}"),
        ("{% set s.l = [s.l, s.l] %}", "{{ s.l | join }}"),
        (
            "{% set s.l = [s.l, s.l] %}",
            "{{ s.l | tojson(indent=2) | length }}",
        ),
        (
            "{% set s.d = {'a': s.d, 'b': s.d} %}",
            "{{ s.d | tojson }}{{ s.d }}",
        ),
        ("{% set s.l = [s.l, s.l] %}", "{{ s.l == [s.l, 1] }}"),
        ("{% set s.d = namespace(a=s.d, b=s.d) %}", "{{ '' ~ s.d }}"),
    ] {
        let template = format!("{start}{}{end}", times(48, growing));
        match Bytes::plain(&template).render(&[user("Hi")]) {
            Ok(text) => assert!(text.len() < 1 << 20, "{growing}{end}: {} bytes", text.len()),
            Err(error) => {
                let error = error.to_string();
                assert!(error.len() < 1000, "{growing}{end}: {error}");
            }
        }
    }
    for alone in [
        "'x' * 4000000000",
        "'x'.ljust(4000000000)",
        "'x'.center(4000000000, 'y')",
        "'7'.zfill(4000000000)",
        "'%4000000000d' % 7",
        "'%*d' % (400000000, 7)",
        "'{:4000000000}'.format(7)",
        "'{:{}}'.format(7, 400000000)",
        "'%.4000000000f' % 1.5",
        "'a\nb' | indent(4000000000)",
        "[[[1]]] | tojson(indent=4000000000)",
        "range(4000000000) | list",
        "([0] * 100000000) | tojson",
        "([0] * 100000000) | map('string') | join",
    ] {
        let error = value_of(alone).unwrap_err().to_string();
        assert!(error.len() < 1000, "{alone}: {error}");
    }
    if let (Some(before), Some(after)) = (before, peak_bytes()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 400 << 20, "peak memory grew by {grown} bytes");
    }
}

#[test]
fn a_long_conversation_is_within_the_bounds() {
    let source = std::fs::read_to_string(fixture("templates").join("Qwen3-Coder.jinja")).unwrap();
    let tokenizer = Bytes::plain(&source);
    let text = "word ".repeat(400);
    let messages: Vec<Message> = (0..401)
        .map(|turn| match turn % 2 {
            0 => user(&text),
            _ => assistant(&text),
        })
        .collect();
    assert!(tokenizer.render(&messages).unwrap().len() > 401 * text.trim().len());
}

#[test]
fn the_golden_cases_of_constructs_are_all_there() {
    // A file that was written without its cases would make every test above pass.
    let cases = recorded("constructs.json");
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 50, "{}", cases.len());
    assert!(cases.iter().all(|case| case["text"].is_string()));
    assert!(Path::new(&fixture("templates")).join("README.md").is_file());
}
