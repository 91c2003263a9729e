//! The bundled data: flights out of New York City in 2013, late or not.

use super::{DataError, Dataset, FeatureSpec, Format, Source, Stream};

/// Made by `cluster-scripts/prepare-flights.py`; `flights.md` beside it says from what.
static FLIGHTS: &[u8] = include_bytes!("flights.csv.zst");

/// Late means more than 15 minutes at arrival. Seven categories and five crosses: 12 features a row.
pub fn flights_spec() -> Result<FeatureSpec, DataError> {
    Ok(FeatureSpec::new("arr_delay > 15")?
        .categorical("month,weekday,hour,carrier,origin,dest,tailnum")
        .cross("carrier:flight,origin:dest,carrier:dest,dest:hour,month:day"))
}

/// The flights as zstd-compressed csv with a header, for who wants the text.
#[must_use]
pub fn flights_csv() -> &'static [u8] {
    FLIGHTS
}

/// The flights as (training set, test set); the test set is every tenth row from the first.
pub fn flights() -> Result<(Dataset, Dataset), DataError> {
    let source = Source::Memory { name: "the bundled flights", bytes: FLIGHTS };
    let mut stream = Stream::open(vec![source], &Format::Csv(flights_spec()?))?;
    let mut all = Dataset::default();
    while let Some(block) = stream.next() {
        let block = block?;
        all.append(&block)?;
        stream.recycle(block);
    }
    all.split_every(10)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_bundled_flights_are_the_ones_the_references_were_computed_on() {
        let (train, test) = flights().unwrap();
        assert_eq!((train.len(), test.len()), (294_611, 32_735));
        assert_eq!(train.len() + test.len(), 327_346);
        let both = [train.examples(), test.examples()];
        let late: f64 = both.iter().flat_map(|part| &part.labels).map(|&label| f64::from(label)).sum();
        assert_eq!((late / 327_346.0 * 1000.0).round(), 237.0);
        let keys: HashSet<u64> = both.iter().flat_map(|part| part.rows.columns()).copied().collect();
        assert_eq!(keys.len(), 11_945);
        assert!(both.iter().all(|part| part.rows.values().is_none()));
        assert!(both.iter().all(|part| (0..part.len()).all(|row| part.rows.row(row).columns.len() == 12)));
    }
}
