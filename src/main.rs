//! The executable `svc`.

fn main() {}
