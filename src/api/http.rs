//! HTTP/1.1 as far as this API needs it, on bytes that have already been read: request heads and the writing of answers.
//!
//! What is not understood is refused: `Transfer-Encoding` in a request (nothing to smuggle behind), an `Origin` header or a foreign `Host`
//! (a browser may reach the socket through `ssh -L`). Bytes after a request are not looked at: the answer then closes the connection.

use serde::Serialize;

use super::error::{ApiError, Code};

/// Request line and headers together.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// A request with more is refused.
pub const HEADERS_MAX: usize = 48;

/// What is kept of a request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub method: String,
    /// Path and query as sent; begins with `/`.
    pub target: String,
    /// `Content-Type: application/json` (parameters are ignored).
    pub json: bool,
    pub keep_alive: bool,
    /// Bytes of the head, the blank line included.
    pub head_bytes: usize,
    pub body_bytes: usize,
}

/// Looks for a complete head at the beginning of `bytes`; `None` when more is needed.
///
/// # Errors
/// The request must be refused and the connection closed.
pub fn parse_head(bytes: &[u8]) -> Result<Option<Head>, ApiError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(&bytes[..bytes.len().min(HEAD_BYTES_MAX)]) {
        Ok(httparse::Status::Complete(head_bytes)) => read_head(&request, head_bytes)?,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => {
            return Err(ApiError::new(Code::RequestTooLarge, format!("request head above {HEAD_BYTES_MAX} bytes")));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(ApiError::new(Code::RequestTooLarge, format!("more than {HEADERS_MAX} request headers")));
        }
        Err(error) => return Err(invalid(format!("no HTTP/1.1 request: {error}"))),
    };
    Ok(Some(head))
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::RequestInvalid, message)
}

fn read_head(request: &httparse::Request<'_, '_>, head_bytes: usize) -> Result<Head, ApiError> {
    let method = request.method.unwrap_or_default().to_owned();
    let target = request.path.unwrap_or_default().to_owned();
    if !target.starts_with('/') {
        return Err(invalid("the request target must be a path"));
    }
    let http_11 = request.version == Some(1);
    let mut head = Head { method, target, json: false, keep_alive: http_11, head_bytes, body_bytes: 0 };
    let (mut host, mut length) = (None, None);
    for header in request.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or("\u{fffd}").trim();
        let name = header.name;
        if name.eq_ignore_ascii_case("host") {
            once(&mut host, value, "Host")?;
        } else if name.eq_ignore_ascii_case("content-length") {
            once(&mut length, value, "Content-Length")?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(invalid("Transfer-Encoding is not accepted").hint("send the body with Content-Length"));
        } else if name.eq_ignore_ascii_case("origin") {
            return Err(ApiError::new(
                Code::RequestOrigin,
                "requests of web pages (with an Origin header) are refused",
            ));
        } else if name.eq_ignore_ascii_case("content-type") {
            head.json = is_json(value);
        } else if name.eq_ignore_ascii_case("connection") {
            head.keep_alive = keep_alive(value, head.keep_alive);
        }
    }
    match host {
        Some(host) => check_host(host)?,
        None if http_11 => return Err(invalid("an HTTP/1.1 request needs a Host header").hint("Host: localhost")),
        None => {}
    }
    head.body_bytes = length.map_or(Ok(0), body_length)?;
    Ok(head)
}

fn once<'a>(slot: &mut Option<&'a str>, value: &'a str, name: &str) -> Result<(), ApiError> {
    if slot.replace(value).is_some() {
        return Err(invalid(format!("{name} is given twice")));
    }
    Ok(())
}

fn check_host(host: &str) -> Result<(), ApiError> {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let port_is_number = !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    if name.eq_ignore_ascii_case("localhost") && port_is_number {
        return Ok(());
    }
    Err(ApiError::new(Code::RequestHost, "requests for another Host than localhost are refused")
        .hint("address the API as http://localhost/"))
}

fn body_length(text: &str) -> Result<usize, ApiError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<usize>() {
        Ok(bytes) if digits && bytes <= BODY_BYTES_MAX => Ok(bytes),
        Ok(_) | Err(_) if digits => {
            Err(ApiError::new(Code::RequestTooLarge, format!("request body above {BODY_BYTES_MAX} bytes")))
        }
        Ok(_) | Err(_) => Err(invalid("Content-Length is not a number")),
    }
}

fn is_json(value: &str) -> bool {
    let media = value.split(';').next().unwrap_or_default();
    media.trim().eq_ignore_ascii_case("application/json")
}

fn keep_alive(value: &str, before: bool) -> bool {
    let mut options = value.split(',').map(str::trim);
    if options.clone().any(|option| option.eq_ignore_ascii_case("close")) {
        return false;
    }
    before || options.any(|option| option.eq_ignore_ascii_case("keep-alive"))
}

/// One whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    /// The `Allow` header that 405 must carry.
    pub allow: Option<&'static str>,
    pub body: Vec<u8>,
}

/// Prometheus text format 0.0.4.
pub const CONTENT_METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
pub const CONTENT_TEXT: &str = "text/plain; charset=utf-8";
pub const CONTENT_JSON: &str = "application/json";

/// The head of a stream: its end is the end of the connection.
pub const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: application/x-ndjson\r\n\
    Cache-Control: no-store\r\n\
    Connection: close\r\n\r\n";

impl Response {
    /// `value` as one line of JSON.
    #[must_use]
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        // Our own types hold no map with keys that are not strings, the one thing serde_json refuses.
        let mut body = serde_json::to_vec(value).unwrap_or_else(|error| {
            log::error!("api: an answer cannot be written as JSON: {error}");
            Vec::new()
        });
        body.push(b'\n');
        Self { status, content_type: CONTENT_JSON, allow: None, body }
    }

    #[must_use]
    pub fn text(status: u16, content_type: &'static str, text: String) -> Self {
        Self { status, content_type, allow: None, body: text.into_bytes() }
    }

    /// Head and body, ready for the socket.
    #[must_use]
    pub fn into_bytes(self, after: After) -> Vec<u8> {
        let allow = self.allow.map_or_else(String::new, |allow| format!("Allow: {allow}\r\n"));
        let connection = match after {
            After::KeepAlive => "keep-alive",
            After::Close => "close",
        };
        let mut bytes = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\nConnection: {connection}\r\n\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            self.body.len(),
        )
        .into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    KeepAlive,
    Close,
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
