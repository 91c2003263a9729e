use std::fs;

use proptest::prelude::*;

use super::write::encode;
use super::*;

fn sample() -> Model {
    Model {
        table: ModelTable { name: "w".into(), dim: 1, dtype: "f32".into(), optimizer: Solver::FTRL },
        features: None,
        kernel_version: gradwire_kernels::KERNEL_VERSION,
        keys: vec![0, 7, u64::MAX - 1],
        values: vec![0.5, -0.0, 1e-40],
        state: vec![1, 2, 3, 4, 5, u32::MAX],
    }
}

fn bytes(model: &Model) -> Vec<u8> {
    let mut out = Vec::new();
    encode(model, &mut out).unwrap();
    out
}

#[test]
fn a_model_comes_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&sample(), &path).unwrap();
    assert_eq!(read(&path).unwrap(), sample());
}

#[test]
fn the_same_model_has_the_same_bytes() {
    assert_eq!(bytes(&sample()), bytes(&sample()));
}

#[test]
fn an_empty_model_comes_back_empty() {
    let empty = Model { keys: vec![], values: vec![], state: vec![], ..sample() };
    assert_eq!(parse(&bytes(&empty)).unwrap(), empty);
}

#[test]
fn lookups_give_zero_for_absent_keys() {
    let mut out = [9.0; 5];
    sample().lookup(&[0, 3, 7, 8, u64::MAX - 1], &mut out);
    assert_eq!(out, [0.5, 0.0, 0.0, 0.0, 1e-40]);
}

/// `tests/data/model_v1.safetensors` was written by the first release of the format and is never rewritten.
#[test]
fn a_model_of_version_1_is_still_read() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/model_v1.safetensors");
    assert_eq!(read(&path).unwrap(), sample());
}

#[test]
fn every_truncation_is_refused() {
    let whole = bytes(&sample());
    for cut in 0..whole.len() {
        assert!(parse(&whole[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_model_that_contradicts_itself_is_refused_with_the_reason() {
    let refused = |model: Model| parse(&bytes(&model)).unwrap_err();
    let unsorted = refused(Model { keys: vec![7, 7, 8], ..sample() });
    assert!(unsorted.contains("strictly increasing"), "{unsorted}");
    let reserved = refused(Model { keys: vec![1, 2, u64::MAX], ..sample() });
    assert!(reserved.contains("reserved"), "{reserved}");
    let infinite = refused(Model { values: vec![0.0, f32::INFINITY, 0.0], ..sample() });
    assert!(infinite.contains("key 7 is inf"), "{infinite}");
    let wide = ModelTable { dim: 2, ..sample().table };
    assert!(refused(Model { table: wide, values: vec![0.0; 6], ..sample() }).contains("dim 2"));
    let rate = ModelTable { optimizer: Solver::Sgd { lr: -1.0, l2: 0.0 }, ..sample().table };
    assert!(refused(Model { table: rate, ..sample() }).contains("lr"));
}

#[test]
fn a_newer_format_and_another_kind_of_file_are_named() {
    let text = |from: &str, to: &str| {
        let whole = bytes(&sample());
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        [&whole[..at], to.as_bytes(), &whole[at + from.len()..]].concat()
    };
    let newer = parse(&text("\"format_version\":\"1\"", "\"format_version\":\"9\"")).unwrap_err();
    assert!(newer.contains("version is 9"), "{newer}");
    let other = parse(&text("gradwire-model", "somebodys-file")).unwrap_err();
    assert!(other.contains("somebodys-file"), "{other}");
    assert!(parse(b"label,a,b\n1,2,3\n").unwrap_err().contains("header"));
}

#[test]
fn a_missing_file_is_named() {
    let error = read(std::path::Path::new("no/such/model")).unwrap_err().to_string();
    assert!(error.contains("no/such/model") && error.contains("check the path"), "{error}");
    assert!(fs::metadata("no/such/model").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_bytes_give_a_sound_model_or_an_error(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut damaged = bytes(&sample());
        for (at, byte) in edits {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        if let Ok(model) = parse(&damaged) {
            prop_assert_eq!(model.keys.len(), model.values.len());
            prop_assert!(model.keys.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(model.values.iter().all(|v| v.is_finite()));
            prop_assert_eq!(model.state_words() * model.keys.len(), model.state.len());
        }
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse(&noise).is_err());
    }
}
