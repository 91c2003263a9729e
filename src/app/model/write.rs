//! Writing a model: the header by hand, in a fixed order, then the three tensors straight from memory.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;
use zerocopy::IntoBytes;

use super::{FORMAT, FORMAT_VERSION, KIND_LR, Model};
use crate::app::build;
use crate::app::publish::{PublishError, publish};

/// Writes `model` to `path`; a failure leaves what was there before.
///
/// # Errors
/// [`PublishError`] names the path and the cause.
pub fn write(model: &Model, path: &Path) -> Result<(), PublishError> {
    publish(path, |out| encode(model, out))
}

/// The file's bytes. The safetensors crate orders metadata by a random hash, which would give the same model other
/// bytes in each run, so the header is built here: 8 bytes of length, JSON padded with spaces to 8, then the data.
pub(super) fn encode(model: &Model, out: &mut impl Write) -> io::Result<()> {
    let header = header(model).map_err(io::Error::other)?;
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    // Little endian like the file; both supported processors are.
    const { assert!(cfg!(target_endian = "little")) };
    out.write_all(model.keys.as_bytes())?;
    out.write_all(model.values.as_bytes())?;
    out.write_all(model.state.as_bytes())
}

fn header(model: &Model) -> Result<String, serde_json::Error> {
    let n = model.keys.len();
    let keys_end = n * 8;
    let values_end = keys_end + model.values.len() * 4;
    let state_end = values_end + model.state.len() * 4;
    // serde_json keeps the members of an object sorted by name: one order for one model.
    let header = json!({
        "__metadata__": {
            "format": FORMAT,
            "format_version": FORMAT_VERSION.to_string(),
            "gradwire_version": build::VERSION,
            "commit": build::COMMIT,
            "kind": KIND_LR,
            "kernel_version": model.kernel_version.to_string(),
            "table": serde_json::to_string(&model.table)?,
            "features": serde_json::to_string(&model.features)?,
        },
        "keys": { "dtype": "U64", "shape": [n], "data_offsets": [0, keys_end] },
        "values": { "dtype": "F32", "shape": [n, model.table.dim], "data_offsets": [keys_end, values_end] },
        "state": { "dtype": "U32", "shape": [n, model.state_words()], "data_offsets": [values_end, state_end] },
    });
    let mut header = header.to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    Ok(header)
}
