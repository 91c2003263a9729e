//! Which columns of a table become which features, and where the label comes from.

use serde::{Deserialize, Serialize};

use super::{DataError, LabelExpr};

/// What to make of the columns of delimited text. A model file carries it as JSON, so that `predict` reads new data as the
/// training did.
///
/// Missing cells (empty, or `NA`): a categorical or crossed cell is a category like any other, each spelling its own; a
/// numeric one leaves the feature out; a row without a label is skipped and counted.
///
/// ```
/// use gradwire::data::FeatureSpec;
/// let spec = FeatureSpec::new("delay > 15")?.categorical("carrier,dest").cross("carrier:dest").numeric("miles");
/// spec.check()?;
/// let json = r#"{"label":"delay > 15","categorical":["carrier","dest"],"numeric":["miles"],"cross":[["carrier","dest"]],"delimiter":","}"#;
/// assert_eq!(serde_json::to_string(&spec)?, json);
/// assert_eq!(serde_json::from_str::<FeatureSpec>(json)?, spec);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureSpec {
    /// The label; `None` reads every row with label 0, and needs no label column.
    pub label: Option<LabelExpr>,
    /// Columns whose cells are categories: one feature with value 1 for each.
    #[serde(default)]
    pub categorical: Vec<String>,
    /// Columns whose cells are numbers: one feature a column, with that value.
    #[serde(default)]
    pub numeric: Vec<String>,
    /// Groups of columns whose cells together are one category.
    #[serde(default)]
    pub cross: Vec<Vec<String>>,
    /// What separates cells: one ASCII character.
    #[serde(default = "comma")]
    pub delimiter: char,
}

fn comma() -> char {
    ','
}

impl FeatureSpec {
    /// A specification with this label expression and no features yet.
    pub fn new(label: &str) -> Result<Self, DataError> {
        Ok(Self {
            label: Some(label.parse()?),
            categorical: Vec::new(),
            numeric: Vec::new(),
            cross: Vec::new(),
            delimiter: comma(),
        })
    }

    /// Adds the categorical columns `A,B`.
    #[must_use]
    pub fn categorical(mut self, columns: &str) -> Self {
        self.categorical.extend(columns.split(',').map(str::to_owned));
        self
    }

    /// Adds the numeric columns `A,B`.
    #[must_use]
    pub fn numeric(mut self, columns: &str) -> Self {
        self.numeric.extend(columns.split(',').map(str::to_owned));
        self
    }

    /// Adds the crosses `A:B,C:D:E`.
    #[must_use]
    pub fn cross(mut self, crosses: &str) -> Self {
        let split = |cross: &str| cross.split(':').map(str::to_owned).collect();
        self.cross.extend(crosses.split(',').map(split));
        self
    }

    /// Sets the delimiter: one character, or `\t`.
    pub fn delimiter(mut self, delimiter: &str) -> Result<Self, DataError> {
        let mut characters = delimiter.chars();
        self.delimiter = match (delimiter, characters.next(), characters.next()) {
            ("\\t", ..) => '\t',
            (_, Some(character), None) => character,
            _ => {
                return Err(spec(format!(
                    "the delimiter {delimiter:?} is not one character; write , or \\t"
                )));
            }
        };
        Ok(self)
    }

    /// The same without a label, for data that has none.
    #[must_use]
    pub fn without_label(mut self) -> Self {
        self.label = None;
        self
    }

    /// Refuses a specification that cannot work on any file.
    pub fn check(&self) -> Result<(), DataError> {
        if !self.delimiter.is_ascii() || matches!(self.delimiter, '"' | '\r' | '\n' | '\0') {
            let delimiter = self.delimiter;
            return Err(spec(format!(
                "{delimiter:?} cannot separate cells; use one ASCII character such as , or \\t"
            )));
        }
        if self.categorical.is_empty() && self.numeric.is_empty() && self.cross.is_empty() {
            return Err(spec(
                "no column is a feature; name some with --categorical, --numeric or --cross".to_owned(),
            ));
        }
        let fields = || {
            let single = self.categorical.iter().chain(&self.numeric).map(std::slice::from_ref);
            single.chain(self.cross.iter().map(Vec::as_slice))
        };
        for (at, columns) in fields().enumerate() {
            let name = columns.join(":");
            let crossed = at >= self.categorical.len() + self.numeric.len();
            if columns.iter().any(String::is_empty) {
                return Err(spec(format!("the feature {name:?} has an empty column name; write A,B or A:B")));
            }
            if crossed && columns.len() < 2 {
                return Err(spec(format!(
                    "the cross {name:?} has one column; write A:B, or use --categorical {name}"
                )));
            }
            let repeats = |column: &String| columns.iter().filter(|other| *other == column).count() > 1;
            if columns.iter().any(repeats) || fields().skip(at + 1).any(|other| other == columns) {
                return Err(spec(format!(
                    "the feature {name:?} repeats a column or is named twice; remove one"
                )));
            }
            if let Some(label) = &self.label
                && columns.contains(&label.column)
            {
                let what = format!(
                    "the label's column {:?} is also in the feature {name:?}; remove one",
                    label.column
                );
                return Err(spec(what));
            }
        }
        Ok(())
    }
}

pub(super) fn spec(what: String) -> DataError {
    DataError::Spec { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_that_cannot_work_is_refused_with_the_reason() {
        let new = || FeatureSpec::new("y").unwrap();
        let cases = [
            (new(), "no column is a feature"),
            (new().categorical("a,,b"), "empty column name"),
            (new().categorical("a,a"), "repeats a column or is named twice"),
            (new().categorical("a").numeric("a"), "repeats a column or is named twice"),
            (new().cross("a"), "has one column"),
            (new().cross("a:a"), "repeats a column"),
            (new().cross("a:b,a:b"), "named twice"),
            (new().categorical("y"), "label's column \"y\""),
            (new().cross("a:y"), "label's column \"y\""),
            (new().categorical("a").delimiter("\"").unwrap(), "cannot separate"),
            (new().categorical("a").delimiter("é").unwrap(), "cannot separate"),
        ];
        for (spec, wanted) in cases {
            let message = spec.check().unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
        assert!(new().delimiter("ab").unwrap_err().to_string().contains("not one character"));
        assert_eq!(new().delimiter("\\t").unwrap().delimiter, '\t');
        new().categorical("a,b").cross("a:b").without_label().check().unwrap();
    }
}
