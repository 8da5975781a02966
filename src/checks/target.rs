//! What can be probed: numeric addresses and `localhost`. Names are never looked up, because a resolver may block and needs
//! libraries that a static binary must not load.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::proto::ProbeTarget;

/// Longer targets are refused.
pub(super) const TARGET_BYTES_MAX: usize = 2048;

/// A target that has been understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) first: SocketAddr,
    /// Tried when the first one fails: `::1` for `localhost`.
    pub(super) second: Option<SocketAddr>,
    /// What is sent once connected; `None` when the connection is all that is asked for.
    pub(super) request: Option<Vec<u8>>,
}

/// The sentence is the answer of the probe.
pub(super) fn parse(target: &ProbeTarget) -> Result<Target, String> {
    let text = match target {
        ProbeTarget::Tcp(text) | ProbeTarget::Http(text) => text,
    };
    if text.len() > TARGET_BYTES_MAX {
        return Err(format!("the target is longer than {TARGET_BYTES_MAX} bytes"));
    }
    match target {
        ProbeTarget::Tcp(authority) => at(authority, None, None),
        ProbeTarget::Http(url) => http(url),
    }
}

fn http(url: &str) -> Result<Target, String> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(format!("{url:?} does not begin with http://"));
    };
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("the path {path:?} holds a space, a control character or one that is not ASCII"));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let version = env!("CARGO_PKG_VERSION");
    let request = format!(
        "GET {slash}{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nUser-Agent: mainstay/{version}\r\n\r\n"
    );
    at(authority, Some(80), Some(request.into_bytes()))
}

fn at(authority: &str, default_port: Option<u16>, request: Option<Vec<u8>>) -> Result<Target, String> {
    let refused = || format!("{authority:?} is not a numeric address or localhost, with a port");
    let (host, port) = match authority.rsplit_once(':') {
        // The last colon of `[::1]` is not that of a port.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| refused())?),
        Some(_) | None => (authority, default_port.ok_or_else(refused)?),
    };
    if port == 0 {
        return Err(refused());
    }
    if host == "localhost" {
        let first = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let second = Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port));
        return Ok(Target { first, second, request });
    }
    let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse().map(IpAddr::V6),
        None => host.parse().map(IpAddr::V4),
    };
    Ok(Target { first: SocketAddr::new(address.map_err(|_| refused())?, port), second: None, request })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> Result<Target, String> {
        parse(&ProbeTarget::Tcp(text.to_owned()))
    }

    fn request(url: &str) -> (SocketAddr, String) {
        let target = parse(&ProbeTarget::Http(url.to_owned())).unwrap();
        (target.first, String::from_utf8(target.request.unwrap()).unwrap())
    }

    #[test]
    fn numeric_addresses_and_localhost_are_understood() {
        assert_eq!(tcp("127.0.0.1:80").unwrap().first, "127.0.0.1:80".parse().unwrap());
        assert_eq!(tcp("[::1]:8080").unwrap().first, "[::1]:8080".parse().unwrap());
        let local = tcp("localhost:81").unwrap();
        assert_eq!(local.first, "127.0.0.1:81".parse().unwrap());
        assert_eq!(local.second, Some("[::1]:81".parse().unwrap()));
        assert_eq!(local.request, None);
    }

    #[test]
    fn everything_else_is_refused_with_a_sentence() {
        for text in
            ["", "80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "db:80", "::1:80", "[::1]", "a]:1"]
        {
            assert_eq!(tcp(text).unwrap_err(), format!("{text:?} is not a numeric address or localhost, with a port"));
        }
        assert_eq!(tcp(&"1".repeat(3000)).unwrap_err(), "the target is longer than 2048 bytes");
        let error = |url: &str| parse(&ProbeTarget::Http(url.to_owned())).unwrap_err();
        assert_eq!(error("https://127.0.0.1/"), "\"https://127.0.0.1/\" does not begin with http://");
        assert!(error("http://127.0.0.1/a b").contains("holds a space"));
        assert!(error("http://127.0.0.1/a\r\nX: y").contains("control character"));
        assert!(error("http://user@127.0.0.1/").contains("is not a numeric address"));
    }

    #[test]
    fn request_names_path_host_and_us() {
        let (address, text) = request("http://127.0.0.1:9001/healthz?deep=1#part");
        assert_eq!(address, "127.0.0.1:9001".parse().unwrap());
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            text,
            format!(
                "GET /healthz?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nConnection: close\r\nUser-Agent: mainstay/{version}\r\n\r\n"
            )
        );
        assert!(request("http://[::1]").1.starts_with("GET / HTTP/1.1\r\nHost: [::1]\r\n"));
        assert_eq!(request("http://[::1]").0, "[::1]:80".parse().unwrap());
        assert!(request("http://localhost:1?x").1.starts_with("GET /?x HTTP/1.1\r\nHost: localhost:1\r\n"));
    }
}
