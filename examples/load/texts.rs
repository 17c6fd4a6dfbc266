//! The texts of one run: each is its own, says where it is from, and can be told from all others.

use std::sync::Arc;

/// A text has room for its run, its client and its counter.
pub(crate) const FEWEST_BYTES: u64 = 32;

/// What a facade takes.
pub(crate) const MOST_BYTES: u64 = 1024 * 1024;

const PADDING: &str = "x";

/// Which text of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    /// From 0 on.
    pub(crate) client: usize,
    /// From 0 on, for each client.
    pub(crate) counter: usize,
}

/// Makes the texts of a run, and knows them again.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    prefix: String,
    bytes: usize,
    /// As long as a text.
    padding: Arc<str>,
}

impl Texts {
    /// Those of a new run, of this many bytes each.
    pub(crate) fn new(bytes: usize) -> Texts {
        Texts {
            prefix: format!("load-{:08x}-", fastrand::u32(..)),
            bytes,
            padding: PADDING.repeat(bytes).into(),
        }
    }

    /// What each of them begins with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The text of this id: the run, the client, the counter, and padding. JSON writes it as it is.
    pub(crate) fn text(&self, id: Id) -> String {
        let mut text = self.name(id);
        let padding = self.bytes.saturating_sub(text.len());
        text.push_str(self.padding.get(..padding).unwrap_or_default());
        text
    }

    /// What tells the text of this id from all others: all of it but the padding.
    pub(crate) fn name(&self, id: Id) -> String {
        format!("{}{}-{}-", self.prefix, id.client, id.counter)
    }

    /// Which text this is; none where it is no text of this run, whole and unchanged.
    pub(crate) fn id(&self, text: &str) -> Option<Id> {
        let (client, rest) = text.strip_prefix(&self.prefix)?.split_once('-')?;
        let (counter, padding) = rest.split_once('-')?;
        let id = Id {
            client: client.parse().ok()?,
            counter: counter.parse().ok()?,
        };
        let is_whole = text.len() == self.bytes && self.padding.starts_with(padding);
        // A number can be written in several ways.
        (is_whole && text.starts_with(&self.name(id))).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_the_length_asked_for_and_is_known_again() {
        for bytes in [FEWEST_BYTES, 100, MOST_BYTES] {
            let bytes = usize::try_from(bytes).unwrap();
            let texts = Texts::new(bytes);
            for (client, counter) in [(0, 0), (7, 12), (999, 9_999_999_999)] {
                let id = Id { client, counter };
                let text = texts.text(id);
                assert_eq!(text.len(), bytes, "{id:?}");
                assert_eq!(texts.id(&text), Some(id));
                assert_eq!(serde_json::to_string(&text).unwrap(), format!("\"{text}\""));
            }
        }
    }

    #[test]
    fn what_is_not_wholly_a_text_of_this_run_is_none() {
        let texts = Texts::new(40);
        let text = texts.text(Id { client: 3, counter: 5 });
        let (cut, _) = text.split_at(39);
        let longer = format!("{text}x");
        let changed = text.replacen("xx", "xy", 1);
        let padded_counter = text.replacen("-5-x", "-05-", 1);
        let mut other_run = Texts::new(40);
        while other_run.prefix == texts.prefix {
            other_run = Texts::new(40);
        }
        let of_other_run = other_run.text(Id { client: 3, counter: 5 });
        for other in [
            "",
            "never",
            texts.prefix(),
            cut,
            &longer,
            &changed,
            &padded_counter,
            &of_other_run,
        ] {
            assert_eq!(texts.id(other), None, "{other:?}");
        }
    }
}
