//! Every kernel against naive code, bit by bit, on every instruction set.
//!
//! The oracles are plain loops over single floats, written from the documented formulas and not from the kernels.
//! All tests run all instruction sets that the CPU has; `every_instruction_set_is_counted` says which were skipped.

mod bucket;
mod codec;
mod dense;
mod formulas;
mod numbers;
mod oracle;
mod read;
mod update;

use gradwire_kernels::Isa;

/// The instruction sets of this CPU.
pub(crate) fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_supported()).collect()
}

#[test]
fn every_instruction_set_is_counted() {
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_supported()) {
        println!("skipped case: this CPU has no {}", isa.name());
    }
    assert!(isas().contains(&Isa::Scalar) && isas().contains(&Isa::Portable));
    assert!(isas().contains(&Isa::active()), "the forced instruction set is among the tested ones");
}
