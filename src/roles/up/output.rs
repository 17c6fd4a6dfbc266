//! [`Output`]: the one writer of all that is shown. Nobody waits for it, so that a terminal that stands still stops nothing.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::lines::{Line, Prefix};
use crate::telemetry;

/// How many lines wait to be written at most. Further ones are left out and counted.
const MOST_LINES: usize = 1024;

/// How many bytes are written at once at most, as far as lines go.
const MOST_BYTES: usize = 64 * 1024;

/// How long the end waits for what is still to be written.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Who speaks where it is `svc up` itself.
const OWN_NAME: &str = "up";

/// What is shown, in order: lines to standard error, the table of what runs where to standard output. A clone is the same.
#[derive(Clone)]
pub(super) struct Output {
    pieces: Sender<Piece>,
    shared: Arc<Shared>,
}

struct Shared {
    own: Prefix,
    width: usize,
    is_coloured: bool,
    names: Vec<String>,
    left_out: AtomicU64,
    writer: Mutex<Option<JoinHandle<()>>>,
}

enum Piece {
    /// With its end.
    Line(Vec<u8>),
    Table(String),
    End,
}

impl Output {
    /// Starts the writer. The names of those who will speak give the width of what stands before each line, and colours.
    pub(super) fn start<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<String> = names.map(str::to_owned).collect();
        let width = names.iter().map(String::len).max().unwrap_or_default();
        let (pieces, to_write) = mpsc::channel(MOST_LINES);
        let shared = Arc::new(Shared {
            own: Prefix::new(OWN_NAME, width, None),
            width,
            is_coloured: telemetry::is_coloured(),
            names,
            left_out: AtomicU64::new(0),
            writer: Mutex::default(),
        });
        let writer = spawn_blocking({
            let shared = shared.clone();
            move || write(to_write, &shared)
        });
        *shared.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        Self { pieces, shared }
    }

    /// Whether there are colours.
    pub(super) fn is_coloured(&self) -> bool {
        self.shared.is_coloured
    }

    /// What stands before the lines of this one.
    pub(super) fn prefix(&self, name: &str) -> Prefix {
        let number = self.shared.names.iter().position(|known| known == name);
        let colour = number.filter(|_| self.shared.is_coloured);
        Prefix::new(name, self.shared.width, colour)
    }

    /// Shows a line.
    pub(super) fn line(&self, prefix: &Prefix, line: &Line<'_>) {
        self.put(Piece::Line(prefix.before(line)));
    }

    /// Shows a line of our own.
    pub(super) fn say(&self, text: &str) {
        let bytes = text.as_bytes();
        self.line(&self.shared.own, &Line { bytes, cut: 0 });
    }

    /// Shows a text on standard output.
    pub(super) fn show(&self, text: String) {
        self.put(Piece::Table(text));
    }

    /// Waits until all is written, or nobody reads it. Nothing is shown after that.
    pub(super) async fn end(&self) {
        let writer = {
            let mut writer = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.take()
        };
        if self.pieces.send_timeout(Piece::End, END_LIMIT).await.is_ok()
            && let Some(writer) = writer
        {
            // Late, or it has ended in a panic: there is nobody to tell.
            let _ = timeout(END_LIMIT, writer).await;
        }
    }

    fn put(&self, piece: Piece) {
        if self.pieces.try_send(piece).is_err() {
            self.shared.left_out.fetch_add(1, Relaxed);
        }
    }
}

/// Writes what comes, as much at once as is there. What cannot be written, say to a full disk, is lost.
fn write(mut pieces: Receiver<Piece>, shared: &Shared) {
    let mut lines = Vec::new();
    loop {
        let piece = match pieces.try_recv() {
            Ok(piece) => Some(piece),
            Err(TryRecvError::Empty) => {
                flush(&mut lines, shared);
                pieces.blocking_recv()
            }
            Err(TryRecvError::Disconnected) => None,
        };
        match piece {
            Some(Piece::Line(line)) => lines.extend_from_slice(&line),
            Some(Piece::Table(text)) => {
                flush(&mut lines, shared);
                let mut output = io::stdout().lock();
                let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
            }
            Some(Piece::End) | None => {
                flush(&mut lines, shared);
                return;
            }
        }
        if lines.len() >= MOST_BYTES {
            flush(&mut lines, shared);
        }
    }
}

fn flush(lines: &mut Vec<u8>, shared: &Shared) {
    let left_out = shared.left_out.swap(0, Relaxed);
    if left_out > 0 {
        let said = format!("{left_out} lines were left out: they came faster than they were read");
        let bytes = said.as_bytes();
        lines.extend(shared.own.before(&Line { bytes, cut: 0 }));
    }
    if !lines.is_empty() {
        let _ = io::stderr().lock().write_all(lines);
        lines.clear();
    }
}
