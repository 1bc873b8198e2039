//! Opening files, sets of files and folders; reading and writing them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{fixture, folder, json, model};
use octet_gguf::{Array, Gguf, GgufError, GgufWriter, Span, TensorType, Value};

fn refusal(path: &Path) -> GgufError {
    Gguf::open(path).expect_err("opened")
}

/// Type names by tensor name, where a number in a name counts as any.
fn types(gguf: &Gguf) -> BTreeMap<String, Vec<String>> {
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, info) in gguf.tensors() {
        let parts: Vec<&str> = name.split('.').collect();
        let name = match parts.as_slice() {
            ["blk", _, rest @ ..] => format!("blk.*.{}", rest.join(".")),
            _ => name.clone(),
        };
        let types = types.entry(name).or_default();
        let ty = info.ty.to_string();
        if !types.contains(&ty) {
            types.push(ty);
            types.sort();
        }
    }
    types
}

#[test]
fn models_have_the_tensors_and_types_that_were_written() {
    let models = json("models/models.json");
    for (name, about) in models.as_object().unwrap() {
        let (gguf, _dir) = model(name);
        let expected: BTreeMap<String, Vec<String>> =
            serde_json::from_value(about["types"].clone()).unwrap();
        assert_eq!(types(&gguf), expected, "{name}");
        assert_eq!(gguf.len_bytes(), about["len_bytes"].as_u64().unwrap());
        for (tensor, info) in gguf.tensors() {
            assert_eq!(info.rows() * info.row_bytes(), info.span.len, "{tensor}");
            assert!(info.span.end() <= gguf.len_bytes(), "{tensor}");
            assert_eq!(gguf.bytes(info.span).len() as u64, info.span.len);
        }
    }
}

#[test]
fn other_wrappings_open() {
    let align_64 = Gguf::open(&fixture("variants/align-64.gguf")).unwrap();
    assert!(align_64.tensors().values().all(|t| t.span.start % 64 == 0));
    let old_names = Gguf::open(&fixture("variants/old-names.gguf")).unwrap();
    let expert = old_names.tensor("blk.0.ffn_down.7.weight").unwrap();
    assert_eq!((expert.k(), expert.rows()), (96, 160));
    assert_eq!(expert.ty, TensorType::Q4_0);
}

#[test]
fn version_2_is_read_like_version_3() {
    let mut bytes = fs::read(fixture("hostile/valid.gguf")).unwrap();
    bytes[4] = 2;
    let len = bytes.len() as u64;
    let (gguf, _dir) = common::open_bytes(&bytes, len).unwrap();
    assert_eq!(gguf.files()[0].version(), 2);
    assert_eq!(gguf.tensors().len(), 13);
}

#[test]
fn any_part_of_a_split_model_opens_all_of_it() {
    let whole = |n: u32| {
        let gguf = Gguf::open(&fixture(&format!("variants/split-0000{n}-of-00003.gguf"))).unwrap();
        assert_eq!(gguf.files().len(), 3);
        gguf
    };
    let first = whole(1);
    assert_eq!(first.tensors().len(), 23);
    // The metadata is in the first part only, whichever was given.
    for n in [1, 2, 3] {
        let gguf = whole(n);
        assert_eq!(gguf.tensors(), first.tensors());
        assert_eq!(gguf.metadata().require("llama.block_count"), Ok(2_u32));
        assert!(gguf.path().ends_with("split-00001-of-00003.gguf"));
    }
    // A layer's matrices lie in different files.
    let file = |name: &str| first.tensor(name).unwrap().span.file;
    assert_eq!(file("blk.0.ffn_down_exps.weight"), 0);
    assert_eq!(file("blk.0.ffn_up_exps.weight"), 1);
    assert_eq!(file("blk.1.ffn_up_exps.weight"), 2);
    // And hold what the same model in one file would: its first norm begins with these bytes.
    let norm = first.tensor("blk.0.ffn_norm.weight").unwrap();
    let from_file = fs::read(first.files()[1].path()).unwrap();
    let start = norm.span.start as usize;
    assert_eq!(
        first.bytes(norm.span),
        &from_file[start..start + norm.span.len as usize]
    );
}

const PARTS: [&str; 3] = [
    "variants/split-00001-of-00003.gguf",
    "variants/split-00002-of-00003.gguf",
    "variants/split-00003-of-00003.gguf",
];

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let dir = folder(&[
        (PARTS[0], "m-00001-of-00003.gguf"),
        (PARTS[2], "m-00003-of-00003.gguf"),
    ]);
    let error = refusal(&dir.path().join("m-00003-of-00003.gguf"));
    let GgufError::PartMissing { path, count: 3 } = &error else {
        panic!("{error}");
    };
    assert!(path.ends_with("m-00002-of-00003.gguf"));

    fs::copy(fixture(PARTS[2]), dir.path().join("m-00002-of-00003.gguf")).unwrap();
    let error = refusal(&dir.path().join("m-00001-of-00003.gguf"));
    assert!(
        matches!(
            error,
            GgufError::PartConflict {
                key: "split.no",
                expected: 1,
                found: 2,
                ..
            }
        ),
        "{error}"
    );

    // A part under a name that does not say which it is, or says another.
    for name in [
        "other.gguf",
        "m-00002-of-00003.gguf",
        "m-00001-of-00002.gguf",
    ] {
        let dir = folder(&[(PARTS[0], name)]);
        let error = refusal(&dir.path().join(name));
        assert!(
            matches!(
                error,
                GgufError::PartName {
                    no: 0,
                    count: 3,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("`-00001-of-00003.gguf`"),
            "{error}"
        );
    }
}

#[test]
fn parts_with_too_few_tensors_or_one_twice_are_refused() {
    let part = |dir: &Path, no: u16, total: i32, tensors: &[&str]| {
        let mut writer = GgufWriter::new();
        writer
            .set("split.no", no)
            .set("split.count", 2_u16)
            .set("split.tensors.count", total);
        for name in tensors {
            writer.tensor(name, &[4], TensorType::F32, |out| out.write_all(&[0; 16]));
        }
        writer
            .write(&dir.join(format!("m-0000{}-of-00002.gguf", no + 1)))
            .unwrap();
    };
    let open = |total: i32, tensors: [&[&str]; 2]| {
        let dir = tempfile::tempdir().unwrap();
        part(dir.path(), 0, total, tensors[0]);
        part(dir.path(), 1, total, tensors[1]);
        Gguf::open(dir.path()).map(|gguf| gguf.tensors().len())
    };
    assert_eq!(open(3, [&["a"], &["b", "c"]]).unwrap(), 3);
    assert_eq!(open(2, [&[], &["b", "c"]]).unwrap(), 2);
    let error = open(4, [&["a"], &["b", "c"]]).unwrap_err();
    assert!(
        matches!(
            error,
            GgufError::PartTensors {
                expected: 4,
                found: 3,
                ..
            }
        ),
        "{error}"
    );
    let error = open(3, [&["a"], &["a", "c"]]).unwrap_err();
    assert!(matches!(error, GgufError::TensorTwice { .. }), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m-00001-of-05000.gguf");
    let mut many = GgufWriter::new();
    many.set("split.no", 0_u16).set("split.count", 5000_u16);
    many.write(&path).unwrap();
    let error = refusal(&path).to_string();
    assert!(
        error.contains("`split.count`: expected 1 to 1024, found 5000"),
        "{error}"
    );
    let error = open(-3, [&["a"], &["b", "c"]]).unwrap_err();
    assert!(
        error.to_string().contains("`split.tensors.count`"),
        "{error}"
    );
}

#[test]
fn a_folder_with_one_model_opens_it() {
    let dir = folder(&[
        ("hostile/valid.gguf", "model.gguf"),
        ("hostile/valid.gguf", "mmproj-model-f16.gguf"),
        ("hostile/magic.gguf", "._model.gguf"),
        ("tokenizer/vocab-mixtral.gguf", "vocabulary.gguf"),
        ("hostile/hostile.json", "README.md"),
    ]);
    let mut adapter = GgufWriter::new();
    adapter.set("general.type", "adapter");
    adapter.tensor("a", &[1], TensorType::F32, |out| out.write_all(&[0; 4]));
    adapter.write(&dir.path().join("lora.gguf")).unwrap();
    fs::create_dir(dir.path().join("folder.gguf")).unwrap();
    let gguf = Gguf::open(dir.path()).unwrap();
    assert_eq!(gguf.path(), dir.path().join("model.gguf"));

    let dir = folder(&[
        (PARTS[0], "m-00001-of-00003.gguf"),
        (PARTS[1], "m-00002-of-00003.gguf"),
        (PARTS[2], "m-00003-of-00003.gguf"),
    ]);
    assert_eq!(Gguf::open(dir.path()).unwrap().files().len(), 3);
}

#[test]
fn a_folder_with_another_number_of_models_is_refused() {
    // A damaged file counts: it may be the model, cut off.
    let dir = folder(&[
        ("hostile/valid.gguf", "b-Q4_K_M.gguf"),
        ("hostile/cut-300.gguf", "a-Q8_0.gguf"),
        (PARTS[1], "c-00002-of-00003.gguf"),
    ]);
    let error = refusal(dir.path());
    let GgufError::SeveralModels { candidates, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(
        candidates,
        &["a-Q8_0.gguf", "b-Q4_K_M.gguf", "c-00002-of-00003.gguf"]
    );
    assert!(
        error.to_string().contains("a-Q8_0.gguf, b-Q4_K_M.gguf"),
        "{error}"
    );

    let dir = folder(&[("tokenizer/vocab-gpt-2.gguf", "only-vocabulary.gguf")]);
    let error = refusal(dir.path());
    assert!(
        error.to_string().contains("only-vocabulary.gguf is none"),
        "{error}"
    );

    let missing = dir.path().join("nothing");
    assert!(matches!(refusal(&missing), GgufError::Missing { .. }));
    #[cfg(unix)]
    assert!(matches!(
        refusal(Path::new("/dev/null")),
        GgufError::NotAFile { .. }
    ));
}

#[test]
fn spans_are_read_in_place_by_copy_and_by_pieces() {
    let gguf = Gguf::open(&fixture("variants/align-64.gguf")).unwrap();
    for info in gguf.tensors().values() {
        let mapped = gguf.bytes(info.span);
        let mut copy = vec![0; mapped.len()];
        gguf.read(info.span, &mut copy).unwrap();
        assert_eq!(copy, mapped);
        let mut pieces = Vec::new();
        let granule = info.ty.block_bytes();
        gguf.read_pieces(info.span, granule, |piece| {
            assert_eq!(piece.len() % granule, 0);
            pieces.extend_from_slice(piece);
            Ok::<(), GgufError>(())
        })
        .unwrap();
        assert_eq!(pieces, mapped);
        // Advice changes nothing that can be seen.
        gguf.advise_will_need(info.span);
        gguf.bring_in(info.span);
        gguf.advise_dont_need(info.span);
        assert_eq!(gguf.bytes(info.span), copy);
    }
    let norm = gguf.tensor("output_norm.weight").unwrap();
    let values = gguf.read_f32(norm).unwrap().unwrap();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(bytes, gguf.bytes(norm.span));
    let quantized = gguf.tensor("output.weight").unwrap();
    assert_eq!(gguf.read_f32(quantized).unwrap(), None);
}

#[test]
fn long_spans_come_in_several_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let data: Vec<u8> = (0..34 * 20_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = GgufWriter::new();
    writer.tensor("w", &[32, 20_000], TensorType::Q8_0, |out| {
        out.write_all(&data)
    });
    writer.write(&path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let (mut pieces, mut read) = (0, Vec::new());
    let span = gguf.tensor("w").unwrap().span;
    gguf.read_pieces(span, 34, |piece| {
        assert_eq!(piece.len() % 34, 0);
        pieces += 1;
        read.extend_from_slice(piece);
        Ok::<(), GgufError>(())
    })
    .unwrap();
    assert!(pieces > 1);
    assert_eq!(read, data);
}

/// Windows keeps mapped files from being cut.
#[cfg(unix)]
#[test]
fn a_file_that_changed_or_went_gives_an_error() {
    let dir = folder(&[("hostile/valid.gguf", "m.gguf")]);
    let path = dir.path().join("m.gguf");
    let gguf = Gguf::open(&path).unwrap();
    let span = gguf.tensor("output.weight").unwrap().span;
    let mut buf = vec![0; span.len as usize];
    gguf.read(span, &mut buf).unwrap();
    gguf.files()[0].check_unchanged().unwrap();

    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let len = gguf.len_bytes();
    file.set_len(len + 1).unwrap();
    let error = gguf.read(span, &mut buf).unwrap_err();
    assert!(
        matches!(error, GgufError::Changed { expected_bytes, found_bytes, .. }
            if (expected_bytes, found_bytes) == (len, len + 1)),
        "{error}"
    );
    assert!(gguf.files()[0].check_unchanged().is_err());
    file.set_len(len).unwrap();
    gguf.read(span, &mut buf).unwrap();

    // Another file in its place: the open one is still read, and the change is told.
    fs::remove_file(&path).unwrap();
    gguf.read(span, &mut buf).unwrap();
    let error = gguf.files()[0].check_unchanged().unwrap_err();
    assert!(matches!(error, GgufError::Gone { .. }), "{error}");
    // Where the open one is of no use, the path is looked at.
    file.set_len(len + 1).unwrap();
    let error = gguf.read(span, &mut buf).unwrap_err();
    assert!(matches!(error, GgufError::Gone { .. }), "{error}");
    fs::copy(fixture("hostile/valid.gguf"), &path).unwrap();
    gguf.read(span, &mut buf).unwrap();
}

#[test]
fn what_is_written_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for alignment in [8, 32, 4096] {
        let mut writer = GgufWriter::new();
        writer
            .set_alignment(alignment)
            .set("general.architecture", "llama")
            .set("a.u16", 7_u16)
            .set("a.u32", 8_u32)
            .set("a.u64", u64::MAX)
            .set("a.i32", -9)
            .set("a.f32", 0.5_f32)
            .set("a.bool", true)
            .set("a.u32s", vec![1_u32, 2])
            .set("a.i32s", vec![-1, 2, 3])
            .set("a.f32s", vec![0.25_f32])
            .set("a.texts", vec!["é".to_owned(), String::new()])
            .tensor("q", &[256, 3, 2], TensorType::Q6_K, |out| {
                // In pieces, as a quantizer would.
                (0..6).try_for_each(|row| out.write_all(&[row; 210]))
            })
            .tensor("n", &[3], TensorType::F32, |out| out.write_all(&[1; 12]));
        writer.write(&path).unwrap();

        let gguf = Gguf::open(&path).unwrap();
        let metadata = gguf.metadata();
        assert_eq!(metadata.require("general.architecture"), Ok("llama"));
        assert_eq!(metadata.require::<u64>("a.u16"), Ok(7));
        assert_eq!(metadata.require::<u8>("a.u32"), Ok(8));
        assert_eq!(metadata.require::<u64>("a.u64"), Ok(u64::MAX));
        assert_eq!(metadata.require::<i64>("a.i32"), Ok(-9));
        assert_eq!(metadata.require::<f64>("a.f32"), Ok(0.5));
        assert_eq!(metadata.require::<bool>("a.bool"), Ok(true));
        let items = |key| metadata.require::<Array<'_>>(key).unwrap().iter();
        assert!(items("a.u32s").eq([1, 2].map(Value::Integer)));
        assert!(items("a.i32s").eq([-1, 2, 3].map(Value::Integer)));
        assert!(items("a.f32s").eq([Value::Float(0.25)]));
        assert!(items("a.texts").eq([Value::String("é".as_bytes()), Value::String(b"")]));

        let q = gguf.tensor("q").unwrap();
        assert_eq!(
            (q.ty, q.dims.as_slice()),
            (TensorType::Q6_K, &[256, 3, 2][..])
        );
        assert_eq!((q.k(), q.rows(), q.row_bytes()), (256, 6, 210));
        assert!(
            gguf.bytes(q.span)
                .iter()
                .enumerate()
                .all(|(n, &b)| b == (n / 210) as u8)
        );
        let n = gguf.tensor("n").unwrap();
        assert_eq!(gguf.bytes(n.span), [1; 12]);
        assert!([q, n].iter().all(|t| t.span.start % alignment == 0));
        assert_eq!(gguf.len_bytes() % alignment, 0);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_written_leaves_no_file() {
    type Change = fn(&mut GgufWriter<'_>);
    let cases: [(Change, &str); 9] = [
        (
            |w| {
                w.set("key", 1_u32);
            },
            "`key` is given twice",
        ),
        (
            |w| {
                w.set("", 1_u32);
            },
            "name of 0 bytes",
        ),
        (
            |w| {
                w.set_alignment(24);
            },
            "24 is no alignment",
        ),
        (
            |w| {
                w.tensor("w", &[1], TensorType::F32, |_| Ok(()));
            },
            "`w` is given twice",
        ),
        (
            |w| {
                w.tensor("v", &[33], TensorType::Q8_0, |_| Ok(()));
            },
            "[33]",
        ),
        (
            |w| {
                w.tensor("v", &[1, 0], TensorType::F32, |_| Ok(()));
            },
            "[1, 0]",
        ),
        (
            |w| {
                w.tensor("v", &[u64::MAX, 9], TensorType::F32, |_| Ok(()));
            },
            "cannot have",
        ),
        (
            |w| {
                w.tensor("v", &[2], TensorType::F32, |out| out.write_all(&[0; 7]));
            },
            "takes 8 bytes, and 7 were given",
        ),
        (
            |w| {
                w.tensor("v", &[2], TensorType::F32, |out| out.write_all(&[0; 9]));
            },
            "more bytes than the tensor has",
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, "what was there").unwrap();
    for (change, words) in cases {
        let mut writer = GgufWriter::new();
        writer.set("key", 1_u32);
        writer.tensor("w", &[1], TensorType::F32, |out| out.write_all(&[0; 4]));
        change(&mut writer);
        let error = writer.write(&path).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"what was there");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
    let nowhere = path.join("m.gguf");
    assert!(matches!(
        GgufWriter::new().write(&nowhere),
        Err(GgufError::Io { .. })
    ));
}

#[test]
fn an_open_model_may_be_shared_between_threads() {
    let gguf = Gguf::open(&fixture("hostile/valid.gguf")).unwrap();
    let (a, b) = std::thread::scope(|scope| {
        let read = || {
            let mut sum = 0_u64;
            for info in gguf.tensors().values() {
                let mut buf = vec![0; info.span.len as usize];
                gguf.read(info.span, &mut buf).unwrap();
                assert_eq!(buf, gguf.bytes(info.span));
                sum += buf.iter().map(|&byte| u64::from(byte)).sum::<u64>();
            }
            sum
        };
        let (a, b) = (scope.spawn(read), scope.spawn(read));
        (a.join().unwrap(), b.join().unwrap())
    });
    assert_eq!(a, b);
}

#[test]
fn parts_of_spans_stay_inside() {
    let span = Span {
        file: 1,
        start: 100,
        len: 50,
    };
    assert_eq!(
        span.part(10, 40),
        Span {
            file: 1,
            start: 110,
            len: 40
        }
    );
    for (offset, len) in [(11, 40), (u64::MAX, 2)] {
        assert!(std::panic::catch_unwind(|| span.part(offset, len)).is_err());
    }
}
