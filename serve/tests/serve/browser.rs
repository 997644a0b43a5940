//! A browser without eyes: requests over a connection each, a jar of cookies, and the forms of a page.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Returns the hidden fields of the form that posts to a path, the one that has all of these fields.
    pub(crate) fn form(&self, path: &str, with: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
        let opening = format!("action=\"{path}\"");
        self.body.split("<form").skip(1).find_map(|form| {
            let form = form.split("</form>").next()?;
            if !form.split('>').next()?.contains(&opening) {
                return None;
            }
            let mut fields = BTreeMap::new();
            for input in form.split("<input type=\"hidden\"").skip(1) {
                let tag = input.split('>').next()?;
                let part = |name: &str| Some(unescaped(tag.split_once(&format!("{name}=\""))?.1.split('"').next()?));
                fields.insert(part("name")?, part("value").unwrap_or_default());
            }
            with.iter().all(|(name, value)| fields.get(*name).is_some_and(|known| known == value)).then_some(fields)
        })
    }
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// A browser of one person.
#[derive(Clone, Debug)]
pub(crate) struct Browser {
    pub(crate) server: SocketAddr,
    pub(crate) host: String,
    pub(crate) cookies: BTreeMap<String, String>,
    /// Headers of every request.
    pub(crate) headers: Vec<(String, String)>,
}

impl Browser {
    pub(crate) fn new(server: SocketAddr) -> Browser {
        Browser { server, host: server.to_string(), cookies: BTreeMap::new(), headers: Vec::new() }
    }

    /// Logs in with a token.
    pub(crate) async fn logged_in(server: SocketAddr, token: &str, name: &str) -> Browser {
        let mut browser = Browser::new(server);
        let form = browser.get("/login").await.form("/login", &[]).expect("a form");
        let form_token = form["form_token"].clone();
        let answer = browser.post("/login", &[("form_token", &form_token), ("token", token), ("name", name)]).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{}", answer.body);
        browser
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body =
            fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect::<Vec<_>>().join("&");
        self.send("POST", path, Some(&body)).await
    }

    /// Sends the form of a page, with some more fields, and follows it to the page that it leads to.
    pub(crate) async fn submit(
        &mut self,
        page: &Answer,
        path: &str,
        with: &[(&str, &str)],
        more: &[(&str, &str)],
    ) -> Answer {
        let form = page.form(path, with).unwrap_or_else(|| panic!("no form for {path} with {with:?} in {}", page.body));
        let fields: Vec<(&str, &str)> =
            form.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(more.iter().copied()).collect();
        let answer = self.post(path, &fields).await;
        if answer.status != 303 {
            return answer;
        }
        let to = answer.header("location").to_owned();
        self.get(&to).await
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, body: Option<&str>) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.host);
        if !self.cookies.is_empty() {
            let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            head += &format!("Cookie: {}\r\n", cookies.join("; "));
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = body {
            head += &format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", body.len());
        }
        let mut stream = TcpStream::connect(self.server).await.expect("the server listens");
        stream.write_all(format!("{head}\r\n{}", body.unwrap_or_default()).as_bytes()).await.expect("a request");
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).await.expect("an answer");
        let answer = parsed(&String::from_utf8(raw).expect("text"));
        for (_, cookie) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
            let (name, value) = cookie.split(';').next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}

fn parsed(raw: &str) -> Answer {
    let (head, body) = raw.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let answer = Answer { status, headers, body: body.to_owned() };
    assert_ne!(answer.header("transfer-encoding"), "chunked", "answers here have a length");
    answer
}

pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
