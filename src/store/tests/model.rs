//! Random requests against a naive map of rows, one vector each.

use gradwire_kernels as kernels;
use gradwire_kernels::RowLayout;
use proptest::prelude::*;

use super::*;
use crate::store::initial;

/// The naive store: one partition, every row alone.
struct Model {
    schema: TableSchema,
    layout: RowLayout,
    rows: BTreeMap<u64, Vec<u32>>,
}

impl Model {
    fn new(schema: &TableSchema) -> Model {
        let layout = RowLayout::new(&schema.rule, schema.dim as usize, schema.dtype);
        Model { schema: schema.clone(), layout, rows: BTreeMap::new() }
    }

    fn dim(&self) -> usize {
        self.schema.dim as usize
    }

    fn fresh(&self, key: u64) -> Vec<u32> {
        let mut row = vec![0; self.layout.words()];
        if let Init::Uniform { scale } = self.schema.init {
            let mut values = vec![0.0; self.dim()];
            initial::uniform(self.schema.seed, key, scale, &mut values);
            kernels::write_values(Isa::Scalar, &self.schema.rule, &self.layout, &mut row, &values);
        }
        row
    }

    fn push(&mut self, keys: &[u64], gradients: &[f32]) {
        for (key, gradient) in keys.iter().zip(gradients.chunks_exact(self.dim())) {
            let mut row = self.rows.remove(key).unwrap_or_else(|| self.fresh(*key));
            let words = row.len();
            kernels::update_rows(
                Isa::Scalar,
                &self.schema.rule,
                &self.layout,
                &mut row,
                words,
                &[0],
                gradient,
            );
            self.rows.insert(*key, row);
        }
    }

    fn assign(&mut self, keys: &[u64], values: &[f32]) {
        for (key, values) in keys.iter().zip(values.chunks_exact(self.dim())) {
            let mut row = vec![0; self.layout.words()];
            kernels::write_values(Isa::Scalar, &self.schema.rule, &self.layout, &mut row, values);
            self.rows.insert(*key, row);
        }
    }

    fn pull(&self, keys: &[u64]) -> (Vec<f32>, Vec<bool>) {
        let mut out = vec![0.0; keys.len() * self.dim()];
        for (key, out) in keys.iter().zip(out.chunks_exact_mut(self.dim())) {
            let row = self.rows.get(key).cloned().unwrap_or_else(|| self.fresh(*key));
            kernels::read_rows(Isa::Scalar, &self.schema.rule, &self.layout, &row, row.len(), &[0], out);
        }
        (out, keys.iter().map(|key| self.rows.contains_key(key)).collect())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push,
    Pull,
    Erase,
    Assign,
    Import,
    PushCached,
    PullCached,
    Export,
}

fn step() -> impl Strategy<Value = (Step, u64, usize)> {
    let what = prop_oneof![
        6 => Just(Step::Push),
        3 => Just(Step::Pull),
        3 => Just(Step::Erase),
        1 => Just(Step::Assign),
        1 => Just(Step::Import),
        4 => Just(Step::PushCached),
        3 => Just(Step::PullCached),
        1 => Just(Step::Export),
    ];
    // Few seeds, so that lists come again.
    (what, 0_u64..12, prop_oneof![Just(0_usize), 1_usize..80, 500_usize..3000])
}

fn rules() -> impl Strategy<Value = Rule> {
    prop::sample::select(vec![
        Rule::Sgd { lr: 0.1 },
        Rule::Momentum { lr: 0.1, momentum: 0.9 },
        Rule::Nesterov { lr: 0.1, momentum: 0.9 },
        Rule::Adagrad { lr: 0.1, epsilon: 1e-6 },
        Rule::RowAdagrad { lr: 0.1, epsilon: 1e-6 },
        Rule::Adam { lr: 0.01, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 },
        FTRL,
        Rule::Add,
        Rule::Assign,
        Rule::Max,
    ])
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn run(schema: TableSchema, space: u64, steps: &[(Step, u64, usize)], isa: Isa) -> BTreeMap<u64, Vec<u32>> {
    let mut model = Model::new(&schema);
    let dim = model.dim();
    let mut store = Store::new(StoreConfig { isa, ..StoreConfig::new(64 << 20, 99) });
    store.create_table(TABLE, schema, &[PARTITION]).expect("a valid table");
    let session = SessionId(1);
    for (n, (step, seed, count)) in steps.iter().enumerate() {
        let mut random = Random(*seed);
        let keys = random.keys(*count, space);
        random.0 ^= n as u64;
        let values = random.values(keys.len() * dim);
        match step {
            Step::Push => {
                store.push(TABLE, PARTITION, &keys, &values).expect("a push");
                model.push(&keys, &values);
            }
            Step::Pull => {
                let (got, found) = pull(&mut store, &keys, dim);
                let (want, there) = model.pull(&keys);
                assert_eq!((bits(&got), found), (bits(&want), there), "step {n}");
            }
            Step::Erase => {
                let erased = store.erase(TABLE, PARTITION, &keys).expect("an erase");
                let there = keys.iter().filter(|key| model.rows.remove(key).is_some()).count();
                assert_eq!(erased, there as u64, "step {n}");
            }
            Step::Assign => {
                store.assign(TABLE, PARTITION, &keys, &values).expect("an assignment");
                model.assign(&keys, &values);
            }
            Step::Import => {
                let words = model.layout.words();
                let mut rows = BTreeMap::new();
                // Unsorted, and every key twice: the last one stays.
                let twice: Vec<u64> = keys.iter().rev().chain(&keys).copied().collect();
                let mut raw = Vec::new();
                for key in &twice {
                    let row: Vec<u32> = (0..words).map(|_| (random.next() as f32).to_bits()).collect();
                    raw.extend_from_slice(&row);
                    rows.insert(*key, row);
                }
                store.import(TABLE, PARTITION, &twice, &raw).expect("an import");
                model.rows.extend(rows);
            }
            Step::PushCached => {
                let digest = Digest::of(&keys);
                let outcome = store.push_cached(TABLE, PARTITION, session, digest, &values);
                if outcome == Err(Refusal::UnknownKeyList) {
                    assert_eq!(store.learn_keys(session, TABLE, PARTITION, &keys), Ok(digest));
                    store.push_cached(TABLE, PARTITION, session, digest, &values).expect("a hit");
                } else {
                    outcome.expect("a hit");
                }
                model.push(&keys, &values);
            }
            Step::PullCached => {
                let digest = store.learn_keys(session, TABLE, PARTITION, &keys).expect("good keys");
                let mut got = vec![0.0; keys.len() * dim];
                let mut found = vec![0; keys.len().div_ceil(64)];
                store.pull_cached(TABLE, PARTITION, session, digest, &mut got, &mut found).expect("a hit");
                let (want, there) = model.pull(&keys);
                let found: Vec<bool> = (0..keys.len()).map(|i| found[i / 64] >> (i % 64) & 1 == 1).collect();
                assert_eq!((bits(&got), found), (bits(&want), there), "step {n}");
            }
            Step::Export => assert_eq!(export_all(&mut store, 1 + count / 7), model.rows, "step {n}"),
        }
        assert_eq!(store.len(TABLE, PARTITION), Ok(model.rows.len() as u64), "step {n}");
    }
    assert_eq!(export_all(&mut store, 100), model.rows);
    store.end_session(session);
    assert!(store.drop_table(TABLE));
    assert_eq!(store.bytes_used(), 0, "what was charged is released");
    model.rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_sparse_table_behaves_as_a_map_of_rows(
        rule in rules(),
        dim in prop_oneof![3 => Just(1_u32), 2 => 2_u32..6, 1 => 7_u32..40],
        bf16: bool,
        uniform: bool,
        space in prop_oneof![Just(300_u64), Just(20_000), Just(u64::MAX)],
        steps in prop::collection::vec(step(), 1..25),
        isa in prop::sample::select(isas()),
    ) {
        let schema = TableSchema {
            dtype: if bf16 { Dtype::Bf16 } else { Dtype::F32 },
            init: if uniform { Init::Uniform { scale: 0.3 } } else { Init::Zero },
            ..sparse(dim, rule)
        };
        run(schema, space, &steps, isa);
    }
}

#[test]
fn every_instruction_set_leaves_the_same_bits() {
    let mut random = Random(8);
    let steps: Vec<_> = (0..40)
        .map(|n| {
            let step = match n % 5 {
                0 | 1 => Step::Push,
                2 => Step::PushCached,
                3 => Step::Pull,
                _ => Step::Erase,
            };
            (step, random.next() % 20, (random.next() % 900) as usize)
        })
        .collect();
    for (dim, rule) in [(1, FTRL), (1, Rule::Add), (8, Rule::Adagrad { lr: 0.1, epsilon: 1e-6 })] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let schema = TableSchema { dtype, init: Init::Uniform { scale: 0.5 }, ..sparse(dim, rule) };
            let results: Vec<_> =
                isas().into_iter().map(|isa| run(schema.clone(), 5_000, &steps, isa)).collect();
            assert!(results.iter().all(|rows| *rows == results[0]));
            assert!(!results[0].is_empty());
        }
    }
}
