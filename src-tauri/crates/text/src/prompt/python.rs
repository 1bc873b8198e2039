//! What templates take from Python: methods of its strings, dicts and lists, the `%` of strings,
//! and the tests that Jinja2 answers by what Python's values can do.
//!
//! `minijinja_contrib::pycompat` has a part of the methods; what it lacks or answers otherwise is
//! here. Whatever makes a text longer than its arguments pays for it first ([`bounds`]).

pub(super) mod bounds;
mod json;
mod text;

use minijinja::formatting::FormatStyle;
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use self::bounds::{check, pay, text_of};

/// Names under which the template's program calls [`remainder`], [`sum`] and [`joined`]; no template
/// can.
pub(super) const REMAINDER: &str = "%";
pub(super) const SUM: &str = "+";
pub(super) const JOINED: &str = "~";

/// Makes `environment` answer as Jinja2 does.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(method);
    environment.add_function(REMAINDER, remainder);
    environment.add_function(JOINED, joined);
    environment.add_function(SUM, sum);
    environment.add_function(bounds::LIST, bounds::list);
    environment.add_function(bounds::TUPLE, bounds::tuple);
    environment.add_function(bounds::MAP, bounds::map);
    // They make lists of lists, and are not what chat templates are made of.
    for filter in [
        "batch", "slice", "zip", "chain", "groupby", "pprint", "lines", "split",
    ] {
        environment.remove_filter(filter);
    }
    environment.add_filter("string", string);
    environment.add_filter("upper", upper);
    environment.add_filter("lower", lower);
    environment.add_filter("capitalize", capitalize);
    environment.add_filter("trim", trim);
    environment.add_filter("join", join);
    environment.add_filter("format", format);
    environment.add_filter("tojson", json::to_json);
    environment.add_filter("indent", indent);
    environment.add_filter("replace", replace);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", is_callable);
}

/// All arguments of a filter, named ones too.
type AllArgs = Rest<ValueOrKwargs>;

/// What is filtered, and the other arguments.
fn filtered(name: &str, args: AllArgs) -> Result<(Value, Vec<Value>), Error> {
    let mut args = args.into_values();
    if args.is_empty() {
        return Err(failed(format!("{name}: nothing to work on")));
    }
    let value = args.remove(0);
    Ok((value, args))
}

fn indent(state: &mut State<'_, '_>, args: AllArgs) -> Result<Value, Error> {
    let (value, args) = filtered("indent", args)?;
    text::indent(state, &text_of(state, &value)?, &args)
}

fn replace(state: &mut State<'_, '_>, args: AllArgs) -> Result<Value, Error> {
    let (value, args) = filtered("replace", args)?;
    let args = Args::bind("replace", &args, &["old", "new", "count"])?;
    let old = text_of(state, &args.required(0)?)?;
    let new = text_of(state, &args.required(1)?)?;
    let most = usize::try_from(args.integer(2)?.unwrap_or(-1)).unwrap_or(usize::MAX);
    text::replace(state, &text_of(state, &value)?, &old, &new, most)
}

fn string(state: &mut State<'_, '_>, value: &Value) -> Result<Value, Error> {
    text_of(state, value).map(Value::from)
}

/// A filter that is a method of text.
fn as_method(
    state: &mut State<'_, '_>,
    filter: &str,
    method: &str,
    args: AllArgs,
) -> Result<Value, Error> {
    let (value, args) = filtered(filter, args)?;
    let text = text_of(state, &value)?;
    let answer = text::call(state, &text, method, &args)?;
    answer.ok_or_else(|| failed(format!("{filter}: no such method")))
}

fn upper(state: &mut State<'_, '_>, args: AllArgs) -> Result<Value, Error> {
    as_method(state, "upper", "upper", args)
}

fn lower(state: &mut State<'_, '_>, args: AllArgs) -> Result<Value, Error> {
    as_method(state, "lower", "lower", args)
}

fn capitalize(state: &mut State<'_, '_>, args: AllArgs) -> Result<Value, Error> {
    as_method(state, "capitalize", "capitalize", args)
}

fn trim(state: &mut State<'_, '_>, args: AllArgs) -> Result<Value, Error> {
    as_method(state, "trim", "strip", args)
}

/// The filter `join`, of whatever can be written as text.
fn join(state: &mut State<'_, '_>, args: AllArgs) -> Result<Value, Error> {
    let (value, args) = filtered("join", args)?;
    let args = Args::bind("join", &args, &["d", "attribute"])?;
    let between = match args.get(0) {
        Some(between) => text_of(state, between)?,
        None => String::new(),
    };
    let mut joined = String::new();
    for (place, item) in value.try_iter()?.enumerate() {
        let item = match args.get(1) {
            Some(attribute) => item.get_item(attribute)?,
            None => item,
        };
        let item = text_of(state, &item)?;
        let between = if place == 0 { "" } else { &between };
        pay(state, between.len() + item.len() + 16)?;
        joined.push_str(between);
        joined.push_str(&item);
    }
    Ok(Value::from(joined))
}

/// `a ~ b`.
fn joined(state: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    let (a, b) = (text_of(state, a)?, text_of(state, b)?);
    pay(state, a.len() + b.len())?;
    Ok(Value::from(a + &b))
}

/// The filter `format`: `%` with arguments that are not in a tuple.
fn format(state: &mut State<'_, '_>, args: AllArgs) -> Result<Value, Error> {
    let (value, args) = filtered("format", args)?;
    let format = text_of(state, &value)?;
    formatted(state, FormatStyle::Printf, &format, &args)
}

fn formatted(
    state: &State<'_, '_>,
    style: FormatStyle,
    format: &str,
    args: &[Value],
) -> Result<Value, Error> {
    text::check_format(state, format, args)?;
    let mut longest = 0;
    for arg in args {
        check(state, arg)?;
        longest = longest.max(arg.as_str().map_or(0, str::len));
    }
    // Each field may name the longest.
    let fields = format.matches(['{', '%']).count();
    pay(state, format.len() + fields.saturating_mul(longest))?;
    minijinja::formatting::format(style, format, args).map(Value::from)
}

/// A whole number, or the default (0) where there is none in it.
fn int(args: AllArgs) -> Result<Value, Error> {
    let (value, args) = filtered("int", args)?;
    let args = Args::bind("int", &args, &["default", "base"])?;
    let base = u32::try_from(args.integer(1)?.unwrap_or(10)).unwrap_or(0);
    if !(2..=36).contains(&base) {
        return Err(args.wrong(1, "a base from 2 to 36"));
    }
    let number = match value.as_str().map(str::trim) {
        Some(text) => match i128::from_str_radix(text, base) {
            Ok(number) => Some(number),
            Err(_) => text.parse().ok().and_then(truncated),
        },
        None if value.is_integer() || value.kind() == ValueKind::Bool => value.try_into().ok(),
        None => f64::try_from(value).ok().and_then(truncated),
    };
    Ok(match number {
        Some(number) => Value::from(number),
        None => args.given_or(0, Value::from(0)),
    })
}

fn truncated(number: f64) -> Option<i128> {
    number.is_finite().then_some(number.trunc() as i128)
}

/// A number with a fraction, or the default (0.0) where there is none in it.
fn float(args: AllArgs) -> Result<Value, Error> {
    let (value, args) = filtered("float", args)?;
    let args = Args::bind("float", &args, &["default"])?;
    let number = match value.as_str().map(str::trim) {
        Some(text) => text.parse().ok(),
        None => f64::try_from(value).ok(),
    };
    Ok(match number {
        Some(number) => Value::from(number),
        None => args.given_or(0, Value::from(0.0)),
    })
}

/// The value, or the default where it is undefined, or also where it is false.
fn default(args: AllArgs) -> Result<Value, Error> {
    let (value, args) = filtered("default", args)?;
    let args = Args::bind("default", &args, &["default_value", "boolean"])?;
    Ok(
        match value.is_undefined() || (args.flag(1) && !value.is_true()) {
            true => args.given_or(0, Value::from("")),
            false => value,
        },
    )
}

fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}

/// What has a length and can be indexed in Python: text and dicts too.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined => true,
        // A slice of a list is an iterable that knows its length.
        ValueKind::Iterable => value.len().is_some(),
        _ => false,
    }
}

fn failed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// A method of a value that has none in Rust.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if method == "format" {
            return formatted(state, FormatStyle::StrFormat, text, args);
        }
        return match text::call(state, text, method, args)? {
            Some(answer) => Ok(answer),
            None => pycompat::unknown_method_callback(state, value, method, args),
        };
    }
    let bind = |names: &[&'static str]| Args::bind(method, args, names);
    match (value.kind(), method) {
        (ValueKind::Map, "keys" | "values" | "items") => {
            bind(&[])?;
            let pair = |key: Value| -> Result<Value, Error> {
                let item = value.get_item(&key)?;
                Ok(match method {
                    "keys" => key,
                    "values" => item,
                    _ => Value::from(Tuple::from([key, item])),
                })
            };
            let pairs: Result<Vec<Value>, Error> = value.try_iter()?.map(pair).collect();
            Ok(Value::from(pairs?))
        }
        (ValueKind::Map | ValueKind::Seq | ValueKind::Iterable, "copy") => {
            bind(&[])?;
            Ok(value.clone())
        }
        (ValueKind::Seq | ValueKind::Iterable, "index" | "count") => {
            let wanted = bind(&["value"])?.required(0)?;
            let mut places = value
                .try_iter()?
                .enumerate()
                .filter(|(_, item)| *item == wanted);
            match method {
                "count" => Ok(Value::from(places.count())),
                _ => places
                    .next()
                    .map(|(place, _)| Value::from(place))
                    .ok_or_else(|| failed(format!("index: {wanted} is not in the list"))),
            }
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `a + b`: the library would chain long lists, which takes nothing until somebody reads them.
fn sum(state: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        pay(state, a.len() + b.len())?;
        return Ok(Value::from([a, b].concat()));
    }
    let is_list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    if is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple() {
        check(state, a)?;
        check(state, b)?;
        let items: Vec<Value> = a.try_iter()?.chain(b.try_iter()?).collect();
        pay(state, 32 * items.len())?;
        return Ok(match a.is_tuple() {
            true => Value::from(Tuple::from(items)),
            false => Value::from(items),
        });
    }
    let cannot = || failed(format!("cannot calculate {} + {}", a.kind(), b.kind()));
    if !is_number(a) || !is_number(b) {
        return Err(cannot());
    }
    if is_whole(a) && is_whole(b) {
        let (a, b) = (i128::try_from(a.clone())?, i128::try_from(b.clone())?);
        return a.checked_add(b).map(Value::from).ok_or_else(cannot);
    }
    let (a, b) = (f64::try_from(a.clone())?, f64::try_from(b.clone())?);
    Ok(Value::from(a + b))
}

fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

fn is_whole(value: &Value) -> bool {
    value.is_integer() || value.kind() == ValueKind::Bool
}

/// `a % b`: a remainder with the sign of `b`, or `a` with `b` put into it.
fn remainder(state: &mut State<'_, '_>, a: Value, b: Value) -> Result<Value, Error> {
    if let Some(format) = a.as_str() {
        let args: Vec<Value> = match b.is_tuple() {
            true => b.try_iter()?.collect(),
            false => vec![b],
        };
        return formatted(state, FormatStyle::Printf, format, &args);
    }
    let undefined = || failed(format!("cannot calculate {} % {}", a.kind(), b.kind()));
    if !is_number(&a) || !is_number(&b) {
        return Err(undefined());
    }
    if is_whole(&a) && is_whole(&b) {
        let (a, b) = (i128::try_from(a.clone())?, i128::try_from(b.clone())?);
        let rest = a
            .checked_rem(b)
            .ok_or_else(|| failed("cannot divide by zero"))?;
        let other_side = rest != 0 && (rest < 0) != (b < 0);
        return Ok(Value::from(if other_side { rest + b } else { rest }));
    }
    let (a, b) = (f64::try_from(a.clone())?, f64::try_from(b.clone())?);
    if b == 0.0 {
        return Err(failed("cannot divide by zero"));
    }
    let rest = a % b;
    let other_side = rest != 0.0 && (rest < 0.0) != (b < 0.0);
    Ok(Value::from(if other_side { rest + b } else { rest }))
}

/// The arguments of a call, by place or by name as Python takes them.
struct Args {
    method: String,
    names: Vec<&'static str>,
    values: Vec<Option<Value>>,
}

impl Args {
    fn bind(method: &str, args: &[Value], names: &[&'static str]) -> Result<Self, Error> {
        let (positional, by_name) = match args.split_last() {
            Some((last, rest)) if last.is_kwargs() => (rest, Some(Kwargs::try_from(last.clone())?)),
            _ => (args, None),
        };
        if positional.len() > names.len() {
            return Err(Error::new(
                ErrorKind::TooManyArguments,
                format!("{method} takes {} at most", names.len()),
            ));
        }
        let mut values: Vec<Option<Value>> = positional.iter().cloned().map(Some).collect();
        values.resize(names.len(), None);
        if let Some(by_name) = by_name {
            for (name, value) in names.iter().zip(&mut values) {
                if let Some(given) = by_name.get::<Option<Value>>(name)? {
                    *value = Some(given);
                }
            }
            by_name.assert_all_used()?;
        }
        Ok(Self {
            method: method.to_owned(),
            names: names.to_vec(),
            values,
        })
    }

    /// The value at `at`, if one other than `none` was given.
    fn get(&self, at: usize) -> Option<&Value> {
        self.values[at].as_ref().filter(|value| !value.is_none())
    }

    /// The value at `at`, be it `none`, or `other` if there is none.
    fn given_or(&self, at: usize, other: Value) -> Value {
        self.values[at].clone().unwrap_or(other)
    }

    fn required(&self, at: usize) -> Result<Value, Error> {
        let missing = || {
            let what = format!("{} needs {}", self.method, self.names[at]);
            Error::new(ErrorKind::MissingArgument, what)
        };
        self.values[at].clone().ok_or_else(missing)
    }

    fn wrong(&self, at: usize, expected: &str) -> Error {
        let found = self.values[at]
            .as_ref()
            .map_or(ValueKind::Undefined, Value::kind);
        let (method, name) = (&self.method, self.names[at]);
        failed(format!("{method}: {name} is {found}, expected {expected}"))
    }

    fn text(&self, at: usize) -> Result<std::sync::Arc<str>, Error> {
        self.required(at)?
            .to_str()
            .ok_or_else(|| self.wrong(at, "text"))
    }

    fn optional_text(&self, at: usize) -> Result<Option<std::sync::Arc<str>>, Error> {
        match self.get(at) {
            Some(_) => self.text(at).map(Some),
            None => Ok(None),
        }
    }

    fn integer(&self, at: usize) -> Result<Option<i64>, Error> {
        match self.get(at) {
            Some(value) => {
                let number = i64::try_from(value.clone());
                number
                    .map(Some)
                    .map_err(|_| self.wrong(at, "a whole number"))
            }
            None => Ok(None),
        }
    }

    /// A number of characters; a negative one counts as none, as in Python.
    fn width(&self, at: usize) -> Result<usize, Error> {
        self.required(at)?;
        Ok(usize::try_from(self.integer(at)?.unwrap_or(0)).unwrap_or(0))
    }

    fn flag(&self, at: usize) -> bool {
        self.get(at).is_some_and(Value::is_true)
    }
}
