use super::*;

fn code(bytes: &[u8]) -> Code {
    parse_head(bytes).unwrap_err().code
}

fn head(text: &str) -> Head {
    parse_head(text.as_bytes()).unwrap().unwrap()
}

#[test]
fn a_request_of_curl_is_understood() {
    let text = "GET /v1/services HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n";
    let expected = Head {
        method: "GET".to_owned(),
        target: "/v1/services".to_owned(),
        json: false,
        keep_alive: true,
        head_bytes: text.len(),
        body_bytes: 0,
    };
    assert_eq!(head(text), expected);
}

#[test]
fn a_head_is_waited_for_byte_by_byte() {
    let text = b"POST /v1/services/a/stop HTTP/1.1\r\nhost: LOCALHOST:8080\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: 2\r\n\r\n{}";
    for end in 0..text.len() - 2 {
        assert_eq!(parse_head(&text[..end]).unwrap(), None, "{end}");
    }
    let head = parse_head(text).unwrap().unwrap();
    assert_eq!((head.json, head.body_bytes, head.head_bytes), (true, 2, text.len() - 2));
}

#[test]
fn web_pages_and_smugglers_are_refused() {
    assert_eq!(code(b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n"), Code::RequestOrigin);
    assert_eq!(code(b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"), Code::RequestInvalid);
    assert_eq!(code(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"), Code::RequestInvalid);
    assert_eq!(
        code(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"),
        Code::RequestInvalid
    );
    for host in
        ["evil.example", "localhost.evil.example", "localhost:", "localhost:80a", "127.0.0.1", "localhost:1:2", ""]
    {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(code(text.as_bytes()), Code::RequestHost, "{host}");
    }
    for target in ["http://localhost/v1", "*", "v1"] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(code(text.as_bytes()), Code::RequestInvalid, "{target}");
    }
}

#[test]
fn a_host_is_needed_except_by_http_1_0() {
    assert_eq!(code(b"GET /v1 HTTP/1.1\r\n\r\n"), Code::RequestInvalid);
    assert!(!head("GET /v1 HTTP/1.0\r\n\r\n").keep_alive);
    assert!(head("GET /v1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
    assert!(!head("GET /v1 HTTP/1.1\r\nHost: localhost\r\nConnection: foo, Close\r\n\r\n").keep_alive);
}

#[test]
fn sizes_end_where_the_limits_say() {
    let head_of = |filler: usize| format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(filler));
    let fixed = head_of(0).len();
    assert!(parse_head(head_of(HEAD_BYTES_MAX - fixed).as_bytes()).unwrap().is_some());
    assert_eq!(code(head_of(HEAD_BYTES_MAX - fixed + 1).as_bytes()), Code::RequestTooLarge);
    let body_of = |length: &str| format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    assert_eq!(head(&body_of(&BODY_BYTES_MAX.to_string())).body_bytes, BODY_BYTES_MAX);
    assert_eq!(code(body_of(&(BODY_BYTES_MAX + 1).to_string()).as_bytes()), Code::RequestTooLarge);
    assert_eq!(code(body_of("99999999999999999999999999").as_bytes()), Code::RequestTooLarge);
    for length in ["-1", "+1", "0x10", "", "1 1"] {
        assert_eq!(code(body_of(length).as_bytes()), Code::RequestInvalid, "{length}");
    }
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX));
    assert_eq!(code(many.as_bytes()), Code::RequestTooLarge);
}

#[test]
fn an_answer_says_its_length_and_what_follows() {
    let mut response = Response::text(405, CONTENT_TEXT, "no\n".to_owned());
    response.allow = Some("GET");
    let text = String::from_utf8(response.into_bytes(After::Close)).unwrap();
    assert_eq!(
        text,
        "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\nAllow: GET\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\nno\n"
    );
}
