//! A blocking HTTP/1.1 GET, small enough to read: enough to ask a health endpoint, and with none
//! of the code under test in it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As sent: a chunked body is not decoded.
    pub(crate) body: String,
}

/// `GET path` on a connection of its own. `deadline` bounds the connect and each read.
///
/// # Errors
/// Nobody listens, the deadline passed, or the answer is no HTTP.
pub(crate) fn get(address: SocketAddr, path: &str, deadline: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, deadline)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;

    let mut reader = BufReader::new(stream);
    let status = read_line(&mut reader)?
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::other("the first line has no status"))?;
    let length = read_length(&mut reader)?;
    let mut body = Vec::new();
    match length {
        Some(length) => reader.take(length).read_to_end(&mut body)?,
        None => reader.read_to_end(&mut body)?,
    };
    let body = String::from_utf8(body).map_err(io::Error::other)?;
    Ok(Answer { status, body })
}

/// Reads the header fields and gives Content-Length where there is one.
fn read_length(reader: &mut impl BufRead) -> io::Result<Option<u64>> {
    let mut length = None;
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok(length);
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}
