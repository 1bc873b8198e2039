//! The filter `tojson` as transformers defines it: Python's `json.dumps` with keys in their own
//! order and every character as it is, unless its arguments say otherwise.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::bounds::pay;
use super::{AllArgs, Args, failed, filtered};

/// Values in values; Python gives up at a thousand too.
const MAX_DEPTH: usize = 1000;

/// Characters that are paid for together.
const BLOCK: usize = 4096;

pub(super) fn to_json(state: &mut State<'_, '_>, args: AllArgs) -> Result<Value, Error> {
    let (value, args) = filtered("tojson", args)?;
    let args = Args::bind(
        "tojson",
        &args,
        &["ensure_ascii", "indent", "separators", "sort_keys"],
    )?;
    let indent = match args.get(1) {
        Some(indent) if indent.as_str().is_some() => Some(args.text(1)?.to_string()),
        Some(_) => {
            pay(state, args.width(1)?)?;
            Some(" ".repeat(args.width(1)?))
        }
        None => None,
    };
    let between = if indent.is_some() { "," } else { ", " };
    let mut separators = [between.to_owned(), ": ".to_owned()];
    if let Some(given) = args.get(2) {
        let given: Vec<Value> = given.try_iter()?.collect();
        let texts: Option<Vec<&str>> = given.iter().map(Value::as_str).collect();
        let Some([between, colon]) = texts.as_deref() else {
            return Err(args.wrong(2, "two texts"));
        };
        separators = [between, colon].map(|text| (*text).to_owned());
    }
    let mut writer = Writer {
        state,
        ascii: args.flag(0),
        sorted: args.flag(3),
        indent,
        separators,
        text: String::new(),
        paid: 0,
    };
    writer.value(&value, 0)?;
    let text = writer.text;
    Ok(Value::from(text))
}

struct Writer<'a, 't, 'e> {
    state: &'a State<'t, 'e>,
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: [String; 2],
    text: String,
    paid: usize,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(failed("tojson: values are nested too deep"));
        }
        self.pay(0)?;
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self
                .text
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                let mut items = value.try_iter()?.peekable();
                if items.peek().is_none() {
                    self.text.push_str("[]");
                    return Ok(());
                }
                self.text.push('[');
                for (place, item) in items.enumerate() {
                    self.next(place, depth + 1)?;
                    self.value(&item, depth + 1)?;
                }
                self.line(depth)?;
                self.text.push(']');
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    self.pay(16)?;
                    entries.push((name(&key)?, value.get_item(&key)?));
                }
                if entries.is_empty() {
                    self.text.push_str("{}");
                    return Ok(());
                }
                if self.sorted {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.text.push('{');
                for (place, (key, item)) in entries.iter().enumerate() {
                    self.next(place, depth + 1)?;
                    self.string(key)?;
                    self.text.push_str(&self.separators[1]);
                    self.value(item, depth + 1)?;
                }
                self.line(depth)?;
                self.text.push('}');
            }
            kind => {
                let what = format!("tojson: {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::BadSerialization, what));
            }
        }
        Ok(())
    }

    /// Pays for what was written since, and for `more` bytes.
    fn pay(&mut self, more: usize) -> Result<(), Error> {
        let owed = self.text.len() - self.paid;
        if owed + more >= BLOCK || more > 0 {
            pay(self.state, owed + more)?;
            self.paid = self.text.len();
        }
        // A step, so that what writes nothing ends too.
        self.state.consume_fuel(1)
    }

    /// What comes before an item.
    fn next(&mut self, place: usize, depth: usize) -> Result<(), Error> {
        if place > 0 {
            self.text.push_str(&self.separators[0]);
        }
        self.line(depth)
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            pay(self.state, indent.len().saturating_mul(depth))?;
            self.text.push('\n');
            for _ in 0..depth {
                self.text.push_str(indent);
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.pay(text.len())?;
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\x08' => self.text.push_str("\\b"),
                '\x0c' => self.text.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a `String` cannot fail.
                        let _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
        Ok(())
    }
}

/// A dict's key as JSON has it.
fn name(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::None => "null".to_owned(),
        ValueKind::Number => number(key),
        kind => return Err(failed(format!("tojson: {kind} cannot be a key"))),
    })
}

/// A number as Python writes it: `1.0`, `1e-05`, `NaN`.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    if float.is_nan() {
        return "NaN".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let text = format!("{float:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, power) = match exponent.strip_prefix('-') {
                Some(power) => ('-', power),
                None => ('+', exponent),
            };
            let digits = digits.strip_suffix(".0").unwrap_or(digits);
            format!("{digits}e{sign}{power:0>2}")
        }
        None => text,
    }
}
