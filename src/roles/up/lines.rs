//! The log of a child, line by line: each whole, of bounded length, behind the name of its instance.

use std::collections::VecDeque;

/// Longest line that is shown whole, in bytes.
const MOST_BYTES: usize = 8 * 1024;

/// How many lines are kept as last words, and how long each.
const MOST_WORDS: usize = 12;
const MOST_WORD_BYTES: usize = 512;

/// How a role begins to say why it failed: the causes, and what to do, stand below it.
const REPORT: &str = "svc: ";

/// How many lines are last words where there is no report.
const WITHOUT_REPORT: usize = 3;

/// Colours of names, as the parameter of a terminal's escape sequence: those that can be read on black and on white.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Cuts a stream into lines.
#[derive(Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// How many bytes of it are beyond the bound.
    cut: usize,
}

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) bytes: &'a [u8],
    /// How many bytes are not shown.
    pub(super) cut: usize,
}

impl Lines {
    /// Takes the next bytes of the stream, and hands on each line that is complete.
    pub(super) fn push(&mut self, bytes: &[u8], mut take: impl FnMut(Line<'_>)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            match part.split_last() {
                Some((b'\n', rest)) => {
                    self.add(rest);
                    self.hand_on(&mut take);
                }
                _ => self.add(part),
            }
        }
    }

    /// The stream has ended: what is left is a line, too.
    pub(super) fn end(&mut self, mut take: impl FnMut(Line<'_>)) {
        if !self.line.is_empty() {
            self.hand_on(&mut take);
        }
    }

    fn add(&mut self, part: &[u8]) {
        let free = MOST_BYTES - self.line.len();
        let (kept, cut) = part.split_at(free.min(part.len()));
        self.line.extend_from_slice(kept);
        self.cut += cut.len();
    }

    fn hand_on(&mut self, take: &mut impl FnMut(Line<'_>)) {
        take(Line {
            bytes: self.line.strip_suffix(b"\r").unwrap_or(&self.line),
            cut: self.cut,
        });
        self.line.clear();
        self.cut = 0;
    }
}

/// What stands before each line of an instance: `logging-1  | `.
#[derive(Clone, Debug)]
pub(super) struct Prefix {
    text: String,
    is_coloured: bool,
}

impl Prefix {
    /// The name, as wide as the longest one. `colour` counts the instances; without it, it has the terminal's own.
    pub(super) fn new(name: &str, width: usize, colour: Option<usize>) -> Self {
        let name = format!("{name:width$} | ");
        let colour = colour.and_then(|number| COLOURS.get(number % COLOURS.len()));
        Self {
            text: match colour {
                Some(colour) => format!("\x1b[{colour}m{name}\x1b[0m"),
                None => name,
            },
            is_coloured: colour.is_some(),
        }
    }

    /// The line as it is shown, with its end.
    pub(super) fn before(&self, line: &Line<'_>) -> Vec<u8> {
        let mut shown = self.text.as_bytes().to_vec();
        shown.extend_from_slice(line.bytes);
        if line.cut > 0 {
            // A colour that the line has begun would go on.
            let reset = if self.is_coloured { "\x1b[0m" } else { "" };
            shown.extend_from_slice(format!("{reset} … ({} more bytes)", line.cut).as_bytes());
        }
        shown.push(b'\n');
        shown
    }
}

/// The last lines of a process: why it ended.
#[derive(Default)]
pub(super) struct LastWords(VecDeque<String>);

impl LastWords {
    pub(super) fn add(&mut self, line: &Line<'_>) {
        if self.0.len() == MOST_WORDS {
            self.0.pop_front();
        }
        let kept = line.bytes.get(..MOST_WORD_BYTES).unwrap_or(line.bytes);
        self.0.push_back(String::from_utf8_lossy(kept).into_owned());
    }

    /// The report of a role that failed, else the last few lines.
    pub(super) fn lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        let report = self.0.iter().rposition(|line| line.starts_with(REPORT));
        let first = report.unwrap_or(self.0.len().saturating_sub(WITHOUT_REPORT));
        self.0
            .iter()
            .skip(first)
            .map(|line| line.strip_prefix(REPORT).unwrap_or(line).trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(line: &Line<'_>) -> (String, usize) {
        (String::from_utf8(line.bytes.to_vec()).unwrap(), line.cut)
    }

    fn cut(stream: &[u8], piece: usize) -> Vec<(String, usize)> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        for bytes in stream.chunks(piece) {
            lines.push(bytes, |line| all.push(owned(&line)));
        }
        lines.end(|line| all.push(owned(&line)));
        all
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let expected: Vec<_> = ["a", "", "bc", "d"].map(|line| (line.to_owned(), 0)).into();
        for piece in 1..12 {
            assert_eq!(cut(b"a\n\nbc\r\nd", piece), expected, "in pieces of {piece}");
        }
        assert!(cut(b"", 1).is_empty());
        assert_eq!(cut(b"a\n", 1).len(), 1);
    }

    #[test]
    fn a_line_of_megabytes_is_cut_and_the_next_one_is_whole() {
        let mut stream = vec![b'x'; 5_000_000];
        stream.extend_from_slice(b"\nnext\n");
        let lines = cut(&stream, 8000);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].0.len(), lines[0].1), (MOST_BYTES, 5_000_000 - MOST_BYTES));
        assert_eq!(lines[1], ("next".to_owned(), 0));
        let mut lines = Lines::default();
        stream.chunks(8000).for_each(|bytes| lines.push(bytes, |_| {}));
        assert!(lines.line.capacity() <= 2 * MOST_BYTES, "{}", lines.line.capacity());
    }

    #[test]
    fn a_prefix_is_as_wide_as_the_longest_name_and_coloured_only_if_asked() {
        let line = Line { bytes: b"text", cut: 0 };
        let plain = Prefix::new("up", 10, None).before(&line);
        assert_eq!(plain, b"up         | text\n");
        let coloured = Prefix::new("facade-1", 10, Some(COLOURS.len())).before(&line);
        assert_eq!(coloured, b"\x1b[36mfacade-1   | \x1b[0mtext\n");
    }

    #[test]
    fn what_was_cut_is_said_and_leaves_no_colour_behind() {
        let line = Line { bytes: b"te", cut: 2 };
        let plain = Prefix::new("up", 2, None).before(&line);
        assert_eq!(String::from_utf8(plain).unwrap(), "up | te … (2 more bytes)\n");
        let coloured = Prefix::new("up", 2, Some(1)).before(&line);
        assert!(
            String::from_utf8(coloured)
                .unwrap()
                .ends_with("te\x1b[0m … (2 more bytes)\n")
        );
    }

    #[test]
    fn last_words_are_the_report_else_the_last_lines() {
        let said = |lines: &[&str]| {
            let mut words = LastWords::default();
            for line in lines {
                let bytes = line.as_bytes();
                words.add(&Line { bytes, cut: 0 });
            }
            words.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(said(&[]).is_empty());
        assert_eq!(said(&["a", "b", "c", "d"]), ["b", "c", "d"]);
        let report = ["INFO ready", "svc: it failed", "  cause", "  what to do"];
        assert_eq!(said(&report), ["it failed", "cause", "what to do"]);
        let long = "x".repeat(10_000);
        assert_eq!(said(&vec![long.as_str(); 100])[0].len(), MOST_WORD_BYTES);
    }
}
