//! Headers made byte by byte, with what the writer does not write.
#![allow(clippy::unwrap_used)]

mod common;

use common::raw::{ARRAY, Raw, STRING, string};
use octet_gguf::{Array, HeaderError, Value};

#[test]
fn values_of_every_type_are_read() {
    let raw = Raw::default()
        .key("u8", 0, &[200])
        .key("i8", 1, &[0xfe])
        .key("u16", 2, &[1, 2])
        .key("i16", 3, &[0xff, 0xff])
        .key("u32", 4, &u32::MAX.to_le_bytes())
        .key("i32", 5, &(-3_i32).to_le_bytes())
        .key("f32", 6, &1.5_f32.to_le_bytes())
        .key("bool", 7, &[1])
        .key("string", STRING, &string("x"))
        .key("u64", 10, &u64::MAX.to_le_bytes())
        .key("i64", 11, &i64::MIN.to_le_bytes())
        .key("f64", 12, &0.1_f64.to_le_bytes())
        .array("bools", 7, 2, &[0, 1])
        .array("i8s", 1, 3, &[0xff, 0, 1])
        .array("i64s", 11, 1, &i64::MAX.to_le_bytes())
        .array("strings", STRING, 2, &[string("a"), string("")].concat());
    let bytes = raw.bytes();
    let header = raw.parse(0).unwrap();
    let metadata = header.metadata(&bytes);
    let value = |key| metadata.value(key).unwrap();
    let integers = [
        ("u8", 200),
        ("i8", -2),
        ("u16", 513),
        ("i16", -1),
        ("u32", u32::MAX.into()),
        ("i32", -3),
        ("u64", u64::MAX.into()),
        ("i64", i64::MIN.into()),
    ];
    for (key, expected) in integers {
        assert_eq!(value(key), Value::Integer(expected), "{key}");
    }
    assert_eq!(value("f32"), Value::Float(1.5));
    assert_eq!(value("f64"), Value::Float(0.1));
    assert_eq!(value("bool"), Value::Bool(true));
    assert_eq!(value("string"), Value::String(b"x"));
    let items = |key| metadata.require::<Array<'_>>(key).unwrap().iter();
    assert!(items("bools").eq([false, true].map(Value::Bool)));
    assert!(items("i8s").eq([-1, 0, 1].map(Value::Integer)));
    assert!(items("i64s").eq([Value::Integer(i64::MAX.into())]));
    assert!(items("strings").eq([Value::String(b"a"), Value::String(b"")]));
}

#[test]
fn tensors_may_lie_in_any_order_and_with_gaps() {
    let raw = Raw::default()
        .tensor("b", &[8], 0, 64)
        .tensor("a", &[4], 0, 160)
        .tensor("c", &[1], 0, 0);
    let header = raw.parse(160 + 16).unwrap();
    let start = |name: &str| header.tensors[name].span.start - header.data_start;
    assert_eq!([start("a"), start("b"), start("c")], [160, 64, 0]);
    // The last one need not be padded, but it has to be there.
    let error = raw.parse(160 + 15).unwrap_err();
    assert!(
        matches!(&error, HeaderError::OutOfFile { tensor, .. } if tensor == "a"),
        "{error}"
    );
}

#[test]
fn any_integer_may_say_the_alignment() {
    let parse = |ty, value: &[u8]| {
        let raw = Raw::default().key("general.alignment", ty, value);
        raw.parse(1 << 20).map(|header| header.alignment)
    };
    assert_eq!(parse(4, &64_u32.to_le_bytes()), Ok(64));
    assert_eq!(parse(10, &8_u64.to_le_bytes()), Ok(8));
    assert_eq!(parse(2, &[0, 16]), Ok(4096));
    for (ty, value, found) in [
        (4, &4_u32.to_le_bytes()[..], "4"),
        (5, &(-32_i32).to_le_bytes(), "-32"),
        (10, &(1_u64 << 32).to_le_bytes(), "4294967296"),
        (6, &32_f32.to_le_bytes(), "no integer"),
    ] {
        let error = parse(ty, value).unwrap_err();
        assert_eq!(
            error,
            HeaderError::Alignment {
                found: found.to_owned()
            }
        );
    }
}

#[test]
fn refusals_name_the_key_or_tensor() {
    let new = Raw::default;
    let cases = [
        (
            new().array("flags", 7, 3, &[0, 1, 2]),
            "`flags` holds a truth value",
        ),
        (
            new().array("list", 4, 1 << 24, &[]),
            "its 16777216 items in `list`",
        ),
        (
            new().array("list", 4, (1 << 24) + 1, &[]),
            "16777217 items in `list`",
        ),
        (
            new().array("list", ARRAY, 0, &[]),
            "`list` is an array of arrays",
        ),
        (
            new().array("list", 13, 0, &[]),
            "`list` has a value of type 13",
        ),
        (
            new().array("list", STRING, 1, &[9, 0, 0, 0, 0, 0, 0, 0, b'x']),
            "the array `list`",
        ),
        (new().key("", 0, &[0]), "name of key 0 has 0 bytes"),
        (
            new().key("k", 0, &[0]).key("k", 0, &[1]),
            "key `k` is given twice",
        ),
        (new().tensor("", &[1], 0, 0), "name of tensor 0 has 0 bytes"),
        (new().tensor("t", &[], 0, 0), "`t` has 0 dimensions"),
        (
            new().tensor("t", &[4, 0], 0, 0),
            "`t` has the dimensions [4, 0]",
        ),
        (
            new().tensor("t", &[4], 19, 0),
            "`t`: type IQ1_S (19) is not supported",
        ),
        (
            new().tensor("t", &[33], 2, 0),
            "`t` has rows of 33, which Q4_0 cannot",
        ),
        (
            new().tensor("t", &[4], 0, 8),
            "`t` begins at 8, no multiple of 32",
        ),
        (new().tensor("t", &[4], 0, 64), "cut off in tensor `t`"),
        (
            new().tensor("t", &[12], 0, 0).tensor("s", &[4], 0, 32),
            "tensors `t` and `s` overlap",
        ),
        (
            new().tensor("t", &[4], 0, 0).tensor("s", &[4], 0, 0),
            "overlap",
        ),
    ];
    for (raw, words) in cases {
        let message = raw.parse(64).expect_err(words).to_string();
        assert!(message.contains(words), "{words}: {message}");
    }
}
