//! What a coordinator tells whoever runs it: a few lines a second, however many peers misbehave.

use std::time::{Duration, Instant};

/// Lines told in each [`SPAN`].
const MOST: usize = 10;
const SPAN: Duration = Duration::from_secs(1);

/// Lines to be told.
#[derive(Debug, Default)]
pub(super) struct News {
    lines: Vec<String>,
    since: Option<Instant>,
    told: usize,
    left_out: usize,
}

impl News {
    pub(super) fn add(&mut self, line: String) {
        if self.told + self.lines.len() < MOST {
            self.lines.push(line);
        } else {
            self.left_out += 1;
        }
    }

    /// Tells what came. Once a second it says how much it has left out.
    pub(super) fn tell(&mut self, say: &mut impl FnMut(&str)) {
        for line in self.lines.drain(..) {
            self.since.get_or_insert_with(Instant::now);
            self.told += 1;
            say(&line);
        }
        if self.since.is_some_and(|since| since.elapsed() >= SPAN) {
            if self.left_out > 0 {
                say(&format!("and {} more such lines", self.left_out));
            }
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_becomes_a_few_and_a_count() {
        let mut news = News::default();
        (0..1000).for_each(|line| news.add(line.to_string()));
        let mut told = Vec::new();
        news.tell(&mut |line: &str| told.push(line.to_owned()));
        assert_eq!(told.len(), MOST);
        news.since = Instant::now().checked_sub(SPAN);
        news.tell(&mut |line: &str| told.push(line.to_owned()));
        assert_eq!(told[MOST], "and 990 more such lines");
        news.add("again".to_owned());
        news.tell(&mut |line: &str| told.push(line.to_owned()));
        assert_eq!(told[MOST + 1], "again");
    }
}
