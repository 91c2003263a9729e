//! What a job trains, and how its data is cut.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::JobError;

/// Most blocks an epoch: a coordinator looks through them for each lease.
pub const MAX_BLOCKS: u32 = 1 << 16;
/// Most epochs.
const MAX_EPOCHS: u32 = 100_000;
/// Most bytes of a job's name: its tables carry the id, so this bounds messages only.
const MAX_NAME_BYTES: usize = 128;
/// Most fields, and bytes of all: every job's are in the coordinator's record.
const MAX_FIELDS: usize = 4096;
const MAX_FIELDS_BYTES: usize = 256 << 10;

/// What every process of a job must have been given alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Passes over the data.
    pub epochs: u32,
    /// Seed of the blocks' order; none for the order of the data.
    pub seed: Option<u64>,
    /// Whether a first task comes before any block, such as the import of a model.
    pub prepare: bool,
    /// Everything else as (flag, value), such as `("--minibatch", "1000")`; compared in order, and shown when it differs.
    pub fields: Vec<(String, String)>,
}

/// How the first process to join cut the data; the others follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobPlan {
    /// Stored bytes a block, about.
    pub block_bytes: u64,
    /// Blocks an epoch.
    pub blocks: u32,
    /// How many fixed shares the blocks are dealt to; 0 leases them to whoever asks.
    pub parts: u32,
}

/// One of the fixed shares of a job: `1/2` is the first of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Which, from 1.
    pub index: u32,
    /// Of how many.
    pub count: u32,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Part {
    type Err = String;

    /// Reads `I/N`, with I from 1 to N.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "give I/N, part I of N with I from 1 to N, such as 1/2".to_owned();
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let part =
            Self { index: index.parse().map_err(|_| wrong())?, count: count.parse().map_err(|_| wrong())? };
        if part.is_valid() { Ok(part) } else { Err(wrong()) }
    }
}

impl Part {
    fn is_valid(self) -> bool {
        (1..=self.count).contains(&self.index) && self.count <= MAX_BLOCKS
    }

    /// Whether a block is in this share.
    #[must_use]
    pub fn has(self, block: u32) -> bool {
        block % self.count == self.index - 1
    }
}

pub(super) fn malformed(what: impl Into<String>) -> JobError {
    JobError::Malformed { what: what.into() }
}

pub(super) fn check_name(name: &str) -> Result<(), JobError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(malformed(format!(
            "a name of {} bytes; give 1 to {MAX_NAME_BYTES} plain ones",
            name.len()
        )));
    }
    Ok(())
}

impl JobSpec {
    pub(super) fn check(&self) -> Result<(), JobError> {
        if self.epochs == 0 || self.epochs > MAX_EPOCHS {
            return Err(malformed(format!("{} epochs, which are 1 to {MAX_EPOCHS}", self.epochs)));
        }
        let bytes: usize = self.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        if self.fields.len() > MAX_FIELDS || bytes > MAX_FIELDS_BYTES {
            return Err(malformed("more fields than fit"));
        }
        Ok(())
    }

    /// The first field that differs: its name, ours, the other's.
    pub(super) fn difference(&self, other: &Self) -> Option<(String, String, String)> {
        let shown = |spec: &Self| {
            let seed = spec.seed.map_or_else(|| "none, in file order".to_owned(), |seed| seed.to_string());
            let mut all = vec![("--epochs".to_owned(), spec.epochs.to_string()), ("--seed".to_owned(), seed)];
            all.extend(spec.fields.iter().cloned());
            all.push(("a first task".to_owned(), spec.prepare.to_string()));
            all
        };
        let (ours, theirs) = (shown(self), shown(other));
        let pair = ours.iter().zip(&theirs).find(|(a, b)| a != b);
        match pair {
            Some(((name, a), (other, b))) if name == other => Some((name.clone(), a.clone(), b.clone())),
            // Another list of fields: another kind of job, or another build.
            Some(((name, a), (other, b))) => {
                Some((name.clone(), a.clone(), format!("{other} {b} in its place")))
            }
            None if ours.len() != theirs.len() => {
                Some(("settings".to_owned(), ours.len().to_string(), theirs.len().to_string()))
            }
            None => None,
        }
    }
}

impl JobPlan {
    pub(super) fn check(&self, part: Option<Part>) -> Result<(), JobError> {
        if self.blocks == 0 || self.blocks > MAX_BLOCKS || self.block_bytes == 0 {
            return Err(malformed(format!("{} blocks of {} bytes", self.blocks, self.block_bytes)));
        }
        match part {
            None if self.parts == 0 => Ok(()),
            Some(part) if part.is_valid() && part.count == self.parts => Ok(()),
            _ => Err(malformed("a part that does not fit its plan")),
        }
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection in which each bit depends on all.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Where `block` stands in the order of `epoch`: blocks go out by rising place. No two of an epoch share one.
pub(super) fn place(seed: Option<u64>, epoch: u32, block: u32) -> u64 {
    match seed {
        None => u64::from(block),
        Some(seed) => mix(mix(mix(seed) ^ u64::from(epoch)) ^ u64::from(block)),
    }
}
