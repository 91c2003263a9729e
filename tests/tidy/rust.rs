//! Just enough of Rust's syntax to ask questions of it: code without comments and literals, attributes, paths.
//!
//! This is not a parser. It keeps lines where they are, so that findings have line numbers, and errs towards seeing
//! code where there may be none.

/// The text with comments and the insides of literals replaced by spaces; lines stay where they were.
pub(crate) fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let before = at.checked_sub(1).map_or(b' ', |index| bytes[index]);
        let (skip, keep) = if rest.starts_with(b"//") {
            (rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()), 0)
        } else if rest.starts_with(b"/*") {
            (block_comment(rest), 0)
        } else if rest[0] == b'"' {
            (quoted(rest, b'"'), 1)
        } else if rest[0] == b'\'' && is_char_literal(rest) {
            (quoted(rest, b'\''), 1)
        } else if rest[0] == b'r' && (!is_word(before) || before == b'b' || before == b'c') {
            (raw_string(rest).unwrap_or(0), 1)
        } else {
            (0, 0)
        };
        if skip == 0 {
            at += 1;
            continue;
        }
        let inside = at + keep..(at + skip - keep).max(at + keep).min(bytes.len());
        for byte in &mut out[inside] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += skip;
    }
    // Only whole characters were replaced, by ASCII; the lossy form cannot lose anything.
    String::from_utf8_lossy(&out).into_owned()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Tells `'x'` and `'\n'` from the lifetime `'x`.
fn is_char_literal(rest: &[u8]) -> bool {
    match rest {
        [_, b'\\', ..] | [_, _, b'\'', ..] => true,
        [_, lead, ..] if !lead.is_ascii() => rest.iter().take(6).skip(2).any(|&byte| byte == b'\''),
        _ => false,
    }
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = hashes + 2;
    let length = rest[body..].windows(end.len()).position(|window| window == end);
    Some(length.map_or(rest.len(), |length| body + length + end.len()))
}

/// The line, from 1, of a byte offset.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count()
}

/// Offsets where `word` stands with no letter, digit or underscore on either side.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = text.as_bytes();
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).map_or(b' ', |index| bytes[index]);
        let after = bytes.get(at + word.len()).copied().unwrap_or(b' ');
        let starts_as_word = is_word(word.as_bytes()[0]);
        let ends_as_word = is_word(word.as_bytes()[word.len() - 1]);
        !(starts_as_word && is_word(before) || ends_as_word && is_word(after))
    })
}

/// The offset just past the bracket that closes the one at `open`.
pub(crate) fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Byte ranges of the attributes, from `#` to past the `]`.
pub(crate) fn attributes(code: &str) -> Vec<(usize, usize)> {
    ["#[", "#!["]
        .into_iter()
        .flat_map(|start| code.match_indices(start).map(move |(at, _)| (at, at + start.len() - 1)))
        .map(|(at, open)| (at, closing(code, open)))
        .collect()
}

/// For every `#[cfg(test)]`: the byte range from the attribute to the end of its item, and the item's text.
fn test_items(code: &str) -> impl Iterator<Item = (usize, usize, &str)> {
    attributes(code).into_iter().filter_map(|(start, end)| {
        let attribute: String = code[start..end].split_whitespace().collect();
        let for_tests = attribute == "#[cfg(test)]" || attribute.starts_with("#[cfg(all(test,");
        for_tests.then(|| {
            let mut item = end;
            loop {
                item += code[item..].len() - code[item..].trim_start().len();
                match code[item..].starts_with("#[") {
                    true => item = closing(code, item + 1),
                    false => break,
                }
            }
            let stop = code[item..].find([';', '{']).map_or(code.len(), |at| item + at);
            let stop =
                if code[stop..].starts_with('{') { closing(code, stop) } else { code.len().min(stop + 1) };
            (start, stop, &code[item..stop])
        })
    })
}

/// Code with everything behind `#[cfg(test)]` replaced by spaces.
pub(crate) fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (start, end, _) in test_items(code) {
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Names of the modules in files of their own that are declared behind `#[cfg(test)]`.
pub(crate) fn test_modules_in_files(code: &str) -> Vec<String> {
    test_items(code)
        .filter_map(|(_, _, item)| {
            let declared = item.strip_suffix(';')?.split_once("mod ")?.1.trim();
            declared.bytes().all(is_word).then(|| declared.to_owned())
        })
        .collect()
}

/// Every `a::b::c` path with the offset where it starts; groups in `use` are spelt out, one path a leaf.
pub(crate) fn paths(code: &str) -> Vec<(usize, String)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let starts =
            is_word(bytes[at]) && !bytes[at].is_ascii_digit() && (at == 0 || !is_word(bytes[at - 1]));
        if !starts {
            at += 1;
            continue;
        }
        let (end, many) = path_at(code, at, "");
        found.extend(many.into_iter().map(|path| (at, path)).filter(|(_, path)| path.contains("::")));
        at = end.max(at + 1);
    }
    found
}

/// Reads one path or group at `at` (after spaces), under `prefix`; gives where it ended and the full paths.
fn path_at(code: &str, at: usize, prefix: &str) -> (usize, Vec<String>) {
    let bytes = code.as_bytes();
    let mut at = at + code[at..].len() - code[at..].trim_start().len();
    if bytes.get(at) == Some(&b'{') {
        let end = closing(code, at);
        let mut all = Vec::new();
        at += 1;
        while at + 1 < end {
            let (next, many) = path_at(code, at, prefix);
            all.extend(many);
            // Past a rename (`as x`) to the comma that separates the leaves.
            at = code[next..end].find(',').map_or(end, |comma| next + comma + 1);
        }
        return (end, all);
    }
    let word = bytes[at..].iter().take_while(|&&byte| is_word(byte) || byte == b'*').count();
    if word == 0 {
        return (at, Vec::new());
    }
    let path = match prefix {
        "" => code[at..at + word].to_owned(),
        _ => format!("{prefix}::{}", &code[at..at + word]),
    };
    let after = at + word;
    let gap = code[after..].len() - code[after..].trim_start().len();
    let next = after + gap;
    if code[next..].starts_with("::") && !code[next + 2..].starts_with('<') {
        return path_at(code, next + 2, &path);
    }
    (after, vec![path])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_stay() {
        let text = "let a = \"unsafe // \\\" x\"; // unsafe\n/* a /* unsafe */ b */ let b = r#\"unsafe \"q\" \"#;\n\
                    let c = '\"'; let d: &'static str = b\"unsafe\";\nunsafe {}";
        let code = code(text);
        assert_eq!(code.matches("unsafe").count(), 1, "{code}");
        assert_eq!(code.len(), text.len());
        assert_eq!(line_of(&code, words(&code, "unsafe").next().unwrap()), 4);
        assert!(code.contains("let d: &'static str"), "{code}");
    }

    #[test]
    fn test_items_are_cut_out_and_shipped_items_stay() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { {} } }\nfn c() {}\n#[cfg(test)] use x::y;\nfn d() {}";
        let rest = without_tests(&code(text));
        assert!(rest.contains("fn a") && rest.contains("fn c") && rest.contains("fn d"), "{rest}");
        assert!(!rest.contains("fn b") && !rest.contains("x::y"), "{rest}");
    }

    #[test]
    fn groups_in_use_become_whole_paths() {
        let text =
            "use crate::{wire::{ids::TableId, Header as H}, store};\nlet x = std::fs::read(a::<T>::b());";
        let paths: Vec<String> = paths(&code(text)).into_iter().map(|(_, path)| path).collect();
        for expected in ["crate::wire::ids::TableId", "crate::wire::Header", "crate::store", "std::fs::read"]
        {
            assert!(paths.iter().any(|path| path == expected), "{expected} missing in {paths:?}");
        }
    }

    #[test]
    fn words_need_borders() {
        assert_eq!(words("unsafe unsafe_code deny_unsafe unsafe", "unsafe").count(), 2);
        assert_eq!(words("vec![] myvec![] vec!()", "vec!").count(), 2);
    }
}
