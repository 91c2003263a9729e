//! Label expressions: a column, or a comparison of a column.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::spec::spec;
use super::{DataError, number};

/// Where labels come from: `COLUMN` (above 0 is class 1), or `COLUMN OP OPERAND` with `> >= < <= == !=`.
///
/// A number compares as a number; `==` and `!=` also take text, quoted where it looks like a number. A column name that
/// holds an operator or blanks at its ends is written in double quotes.
///
/// ```
/// use gradwire::data::LabelExpr;
/// let label: LabelExpr = "arr_delay>15".parse()?;
/// assert_eq!((label.column.as_str(), label.to_string().as_str()), ("arr_delay", "arr_delay > 15"));
/// assert!("colour > red".parse::<LabelExpr>().is_err());
/// # Ok::<(), gradwire::data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelExpr {
    /// The column.
    pub column: String,
    /// The comparison, if any.
    pub test: Option<LabelTest>,
}

/// A comparison with a constant.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelTest {
    /// The operator.
    pub op: Comparison,
    /// What is compared with.
    pub operand: Operand,
}

/// An operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the operators")]
pub enum Comparison {
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Equal,
    NotEqual,
}

/// The constant of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// Cells must be numbers.
    Number(f64),
    /// Cells are compared byte for byte.
    Text(String),
}

use Comparison::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};

/// Longer spellings first, so that `>=` is not read as `>`.
const OPERATORS: [(&str, Comparison); 6] =
    [(">=", GreaterEqual), ("<=", LessEqual), ("==", Equal), ("!=", NotEqual), (">", Greater), ("<", Less)];

impl Comparison {
    fn holds<T: PartialOrd + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Greater => left > right,
            GreaterEqual => left >= right,
            Less => left < right,
            LessEqual => left <= right,
            Equal => left == right,
            NotEqual => left != right,
        }
    }
}

impl LabelExpr {
    /// The label of a cell, 0 or 1; `None` when a number was needed and is not there.
    #[inline]
    pub(super) fn eval(&self, cell: &[u8]) -> Option<f32> {
        let holds = match &self.test {
            None => number::whole_f64(cell)? > 0.0,
            Some(LabelTest { op, operand: Operand::Number(operand) }) => {
                op.holds(&number::whole_f64(cell)?, operand)
            }
            Some(LabelTest { op, operand: Operand::Text(operand) }) => op.holds(cell, operand.as_bytes()),
        };
        Some(if holds { 1.0 } else { 0.0 })
    }
}

impl FromStr for LabelExpr {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let fault = |what: &str| {
            spec(format!("the label {text:?} {what}; write COLUMN or COLUMN > 15, COLUMN == yes"))
        };
        let trimmed = text.trim();
        let (column, rest) = match trimmed.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or_else(|| fault("has an open quote"))?,
            None => {
                let end = trimmed.find(['<', '>', '=', '!']).unwrap_or(trimmed.len());
                (trimmed[..end].trim_end(), &trimmed[end..])
            }
        };
        if column.is_empty() {
            return Err(fault("names no column"));
        }
        let rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(Self { column: column.to_owned(), test: None });
        }
        let (op, operand) = OPERATORS
            .iter()
            .find_map(|(spelling, op)| Some((*op, rest.strip_prefix(spelling)?.trim())))
            .ok_or_else(|| fault("has no operator after the column (> >= < <= == !=)"))?;
        let operand = parse_operand(operand)
            .ok_or_else(|| fault("has no value, or an open quote, after the operator"))?;
        if matches!(operand, Operand::Text(_)) && !matches!(op, Equal | NotEqual) {
            return Err(fault("compares the order of text; text takes == and != only"));
        }
        Ok(Self { column: column.to_owned(), test: Some(LabelTest { op, operand }) })
    }
}

fn parse_operand(text: &str) -> Option<Operand> {
    for quote in ['"', '\''] {
        if let Some(quoted) = text.strip_prefix(quote) {
            return quoted.strip_suffix(quote).map(|inner| Operand::Text(inner.to_owned()));
        }
    }
    let number = number::whole_f64(text.as_bytes()).map(Operand::Number);
    number.or_else(|| (!text.is_empty()).then(|| Operand::Text(text.to_owned())))
}

impl fmt::Display for LabelExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.column.trim() == self.column && !self.column.contains(['<', '>', '=', '!', '"']);
        let quote = if plain { "" } else { "\"" };
        write!(f, "{quote}{}{quote}", self.column)?;
        let Some(LabelTest { op, operand }) = &self.test else { return Ok(()) };
        let spelling = OPERATORS.iter().find(|(_, other)| other == op).map_or("", |(spelling, _)| spelling);
        match operand {
            Operand::Number(number) => write!(f, " {spelling} {number}"),
            Operand::Text(text) => {
                // A quote may not be escaped, so the other kind goes around.
                let quote = if text.contains('"') { '\'' } else { '"' };
                write!(f, " {spelling} {quote}{text}{quote}")
            }
        }
    }
}

impl TryFrom<String> for LabelExpr {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        text.parse()
    }
}

impl From<LabelExpr> for String {
    fn from(label: LabelExpr) -> Self {
        label.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(expr: &str, cell: &str) -> Option<f32> {
        expr.parse::<LabelExpr>().unwrap().eval(cell.as_bytes())
    }

    #[test]
    fn every_operator_compares_numbers() {
        for (op, below, same, above) in [
            (">", 0., 0., 1.),
            (">=", 0., 1., 1.),
            ("<", 1., 0., 0.),
            ("<=", 1., 1., 0.),
            ("==", 0., 1., 0.),
            ("!=", 1., 0., 1.),
        ] {
            let expr = format!("x{op} 15");
            let got = ["14.5", "15.0", " 16"].map(|cell| eval(&expr, cell));
            assert_eq!(got, [below, same, above].map(Some), "{expr}");
        }
        assert_eq!(eval("x > -1e2", "-99"), Some(1.0));
        assert_eq!(eval("x > 15", "late"), None);
    }

    #[test]
    fn a_bare_column_is_positive_above_zero() {
        assert_eq!(
            ["-1", "0", "1", "0.2", "yes"].map(|cell| eval("x", cell)),
            [Some(0.), Some(0.), Some(1.), Some(1.), None]
        );
    }

    #[test]
    fn text_is_compared_byte_for_byte() {
        assert_eq!(eval("x == yes", "yes"), Some(1.0));
        assert_eq!(eval("x == yes", "Yes"), Some(0.0));
        assert_eq!(eval("x != 'a b'", "a b"), Some(0.0));
        assert_eq!(eval("x == \"1\"", "1.0"), Some(0.0));
        assert_eq!(eval("x == 1", "1.0"), Some(1.0));
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            "x",
            "arr delay > 15",
            "\"a>b\" == 3",
            "x == \"1\"",
            "x != 'say \"hi\"'",
            "\" x\" <= -0.5",
            "x == \"\"",
        ] {
            let label: LabelExpr = text.parse().unwrap();
            assert_eq!(label.to_string().parse::<LabelExpr>().unwrap(), label, "{text}");
        }
    }

    #[test]
    fn a_bad_expression_says_what_is_wrong() {
        for (text, wanted) in [
            ("", "names no column"),
            ("> 15", "names no column"),
            ("x >", "no value"),
            ("x = 15", "no operator"),
            ("x ! 15", "no operator"),
            ("x < red", "order of text"),
            ("\"x", "open quote"),
            ("x == \"a", "open quote"),
            ("\"x\" y", "no operator"),
        ] {
            let message = text.parse::<LabelExpr>().unwrap_err().to_string();
            assert!(message.contains(wanted), "{text}: {message}");
        }
    }
}
