//! From flags to sources and formats of data.

use super::args::{FormatArgs, FormatName};
use super::failure::Failure;
use crate::data::{FeatureSpec, Format, Source};

/// Endings that say csv; compression comes after them.
const CSV_ENDINGS: [&str; 3] = [".csv", ".csv.gz", ".csv.zst"];

/// The format of `sources`: as flags say, else as the model's data had it, else as the names tell.
pub(super) fn format(
    args: &FormatArgs,
    sources: &[Source],
    model: Option<Option<&FeatureSpec>>,
) -> Result<Format, Failure> {
    let described = [
        ("--label", args.label.is_some()),
        ("--categorical", !args.categorical.is_empty()),
        ("--numeric", !args.numeric.is_empty()),
        ("--cross", !args.cross.is_empty()),
        ("--delimiter", args.delimiter.is_some()),
    ];
    let column_flag = described.iter().find(|(_, given)| *given).map(|(flag, _)| *flag);
    let csv = match (args.format, column_flag, model) {
        (Some(FormatName::Libsvm), Some(flag), _) => {
            return Err(Failure::usage(format!(
                "{flag} describes columns and libsvm has none; leave it out, or give --format csv"
            )));
        }
        (Some(name), ..) => name == FormatName::Csv,
        (None, Some(_), _) => true,
        (None, None, Some(features)) => features.is_some(),
        (None, None, None) => sources.iter().any(has_csv_name),
    };
    if !csv {
        return match model {
            Some(Some(_)) => Err(Failure::usage(
                "the model was trained on csv, its keys are no libsvm indices; give csv data of the same columns",
            )),
            _ => Ok(Format::Libsvm),
        };
    }
    match (column_flag, model) {
        (None, Some(Some(features))) => Ok(Format::Csv(features.clone())),
        (_, Some(None)) => Err(Failure::usage(
            "the model was trained on libsvm, its keys are no csv columns; give libsvm data",
        )),
        (_, known) => {
            let features = features(args)?;
            if known.flatten().is_some_and(|f| *f != features) {
                return Err(Failure::usage(
                    "--label, --categorical, --numeric, --cross or --delimiter differ from those the model was \
                     trained with; leave them out to use the model's",
                ));
            }
            Ok(Format::Csv(features))
        }
    }
}

/// What the model file keeps of a format.
pub(super) fn features_of(format: &Format) -> Option<FeatureSpec> {
    match format {
        Format::Libsvm | Format::LibsvmMaybeLabelled => None,
        Format::Csv(features) => Some(features.clone()),
    }
}

fn features(args: &FormatArgs) -> Result<FeatureSpec, Failure> {
    let Some(label) = &args.label else {
        return Err(Failure::usage("csv data needs --label, a column or a comparison such as 'delay > 15'"));
    };
    let mut features = FeatureSpec::new(label)?;
    features.categorical.clone_from(&args.categorical);
    features.numeric.clone_from(&args.numeric);
    for cross in &args.cross {
        features = features.cross(cross);
    }
    if let Some(delimiter) = &args.delimiter {
        features = features.delimiter(delimiter)?;
    }
    features.check()?;
    Ok(features)
}

fn has_csv_name(source: &Source) -> bool {
    let name = source.name();
    CSV_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> FormatArgs {
        FormatArgs {
            format: None,
            label: None,
            categorical: vec![],
            numeric: vec![],
            cross: vec![],
            delimiter: None,
        }
    }

    fn described() -> FormatArgs {
        FormatArgs { label: Some("late > 1".into()), categorical: vec!["a".into()], ..none() }
    }

    fn sources(list: &str) -> Vec<Source> {
        Source::list(list).unwrap()
    }

    fn usage(result: Result<Format, Failure>) -> String {
        let failure = result.unwrap_err();
        assert_eq!(failure.code(), 2);
        failure.line()
    }

    #[test]
    fn names_and_flags_tell_the_format() {
        assert_eq!(format(&none(), &sources("a.svm"), None).unwrap(), Format::Libsvm);
        assert!(matches!(format(&described(), &sources("-"), None), Ok(Format::Csv(_))));
        assert!(usage(format(&none(), &sources("a.csv.gz"), None)).contains("--label"));
        let forced = FormatArgs { format: Some(FormatName::Libsvm), ..described() };
        assert!(usage(format(&forced, &sources("a.csv"), None)).contains("--label describes columns"));
    }

    #[test]
    fn a_model_brings_its_own_columns() {
        let trained = format(&described(), &sources("a.csv"), None).unwrap();
        let features = features_of(&trained).unwrap();
        assert_eq!(format(&none(), &sources("any"), Some(Some(&features))).unwrap(), trained);
        assert_eq!(format(&none(), &sources("a.csv"), Some(None)).unwrap(), Format::Libsvm);
        assert!(usage(format(&described(), &sources("a.csv"), Some(None))).contains("libsvm"));
        let other = FormatArgs { numeric: vec!["b".into()], ..described() };
        assert!(usage(format(&other, &sources("a.csv"), Some(Some(&features)))).contains("differ"));
        let libsvm = FormatArgs { format: Some(FormatName::Libsvm), ..none() };
        assert!(usage(format(&libsvm, &sources("a"), Some(Some(&features)))).contains("csv"));
    }
}
