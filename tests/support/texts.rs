//! Texts that a careless encoder loses.

/// Every plane of Unicode, nothing, NUL, quotes, line separators, and 1 MiB.
pub(crate) fn difficult() -> Vec<String> {
    let planes = (0..=16).map(|plane| char::from_u32(plane * 0x1_0000 + 0x41).map_or("?".into(), String::from));
    let long = "\u{1D11E}".repeat(1024 * 1024 / 4);
    planes
        .chain([
            String::new(),
            "\0".into(),
            "\"\\/\n\u{2028}".into(),
            "\u{FFFD}\u{10FFFF}".into(),
            long,
        ])
        .collect()
}
