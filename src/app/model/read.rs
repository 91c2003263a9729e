//! Reading a model: every byte of the file is outside input.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use super::{FORMAT, FORMAT_VERSION, KIND_LR, Model, ModelTable};
use crate::data::FeatureSpec;

/// Why a file is no model that this program can use.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// It cannot be read.
    #[error("cannot read model {}: {cause}; check the path", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It can be read and is wrong.
    #[error("{} is not a usable model: {reason}; give a file written by --model-out", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads and checks the model in `path`.
///
/// # Errors
/// [`ModelError`] names the file and what is wrong.
pub fn read(path: &Path) -> Result<Model, ModelError> {
    let bytes = fs::read(path).map_err(|cause| ModelError::Read { path: path.to_path_buf(), cause })?;
    parse(&bytes).map_err(|reason| ModelError::Invalid { path: path.to_path_buf(), reason })
}

/// Checks `bytes` and makes a model of them. Total: no input panics, and memory stays within twice the input.
///
/// # Errors
/// What is wrong, for a message that names the file.
pub fn parse(bytes: &[u8]) -> Result<Model, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let (_, header) =
        SafeTensors::read_metadata(bytes).map_err(|e| format!("its safetensors header is damaged ({e})"))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| format!("its tensors are damaged ({e})"))?;
    let metadata = Metadata(header.metadata().as_ref().ok_or("it has no metadata")?);
    let (table, features, kernel_version) = check_metadata(&metadata)?;

    let (shape, data) = tensor(&tensors, "keys", Dtype::U64, 1)?;
    let rows = shape[0];
    let keys: Vec<u64> = words::<8>(data).map(u64::from_le_bytes).collect();
    if let Some(i) = keys.windows(2).position(|pair| pair[0] >= pair[1]) {
        return Err(format!("its keys are not strictly increasing at index {}", i + 1));
    }
    if keys.last() == Some(&u64::MAX) {
        return Err("it has the reserved key 18446744073709551615".to_owned());
    }

    let (shape, data) = tensor(&tensors, "values", Dtype::F32, 2)?;
    if shape != [rows, table.dim] {
        return Err(format!("its values have shape {shape:?} where {:?} is due", [rows, table.dim]));
    }
    let values: Vec<f32> = words::<4>(data).map(f32::from_le_bytes).collect();
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        return Err(format!("the weight of key {} is {}", keys[i / table.dim], values[i]));
    }

    let (shape, data) = tensor(&tensors, "state", Dtype::U32, 2)?;
    if shape[0] != rows {
        return Err(format!("its state has {} rows where {rows} are due", shape[0]));
    }
    let state: Vec<u32> = words::<4>(data).map(u32::from_le_bytes).collect();

    Ok(Model { table, features, kernel_version, keys, values, state })
}

fn check_metadata(metadata: &Metadata<'_>) -> Result<(ModelTable, Option<FeatureSpec>, u32), String> {
    let format = metadata.text("format")?;
    if format != FORMAT {
        return Err(format!("its format is {format:?}, not {FORMAT:?}"));
    }
    let version = metadata.number("format_version")?;
    if version == 0 || version > FORMAT_VERSION {
        return Err(format!("its format version is {version}, this program reads 1 to {FORMAT_VERSION}"));
    }
    let kind = metadata.text("kind")?;
    if kind != KIND_LR {
        return Err(format!("it is a model of kind {kind:?}, this program knows {KIND_LR:?}"));
    }
    let table: ModelTable = metadata.json("table")?;
    if table.dim != 1 {
        return Err(format!("its table has dim {}, logistic regression has 1", table.dim));
    }
    if table.dtype != "f32" {
        return Err(format!("its table stores {:?}, this program reads \"f32\"", table.dtype));
    }
    table.optimizer.check().map_err(|e| e.to_string())?;
    Ok((table, metadata.json("features")?, metadata.number("kernel_version")?))
}

struct Metadata<'a>(&'a HashMap<String, String>);

impl Metadata<'_> {
    fn text(&self, name: &str) -> Result<&str, String> {
        self.0.get(name).map(String::as_str).ok_or_else(|| format!("its metadata lacks {name:?}"))
    }

    fn number(&self, name: &str) -> Result<u32, String> {
        let text = self.text(name)?;
        text.parse().map_err(|_| format!("its metadata {name:?} is {text:?}, not a number"))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, String> {
        serde_json::from_str(self.text(name)?).map_err(|e| format!("its metadata {name:?} is damaged ({e})"))
    }
}

fn tensor<'a>(
    tensors: &SafeTensors<'a>,
    name: &str,
    dtype: Dtype,
    axes: usize,
) -> Result<(Vec<usize>, &'a [u8]), String> {
    let view = tensors.tensor(name).map_err(|_| format!("it has no tensor {name:?}"))?;
    if view.dtype() != dtype || view.shape().len() != axes {
        return Err(format!(
            "its tensor {name:?} is {:?} with {} axes where {dtype:?} with {axes} is due",
            view.dtype(),
            view.shape().len()
        ));
    }
    // The crate has checked that shape and bytes agree.
    Ok((view.shape().to_vec(), view.data()))
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.as_chunks::<N>().0.iter().copied()
}
