//! The settings of a connection, as libpq finds them.
//!
//! A setting comes from the first of these places that has it: the connection string, the service file, the environment, the
//! default. A password that none of them has comes from the password file. Options that this client does not know are
//! refused, because an option that is ignored may be one that protects the connection. Only the options in [`IGNORED`]
//! are ignored: other drivers need them, and they change nothing here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Options that have no effect on this client, and are common in connection strings of other drivers.
const IGNORED: [&str; 17] = [
    "gssencmode",
    "gssdelegation",
    "gsslib",
    "krbsrvname",
    "sslcompression",
    "sslsni",
    "client_encoding",
    // Prisma
    "pgbouncer",
    "schema",
    "connection_limit",
    "pool_timeout",
    "socket_timeout",
    // sqlx, asyncpg, psycopg, SQLAlchemy
    "statement_cache_capacity",
    "statement_cache_size",
    "prepared_statement_cache_size",
    "prepare_threshold",
    "async_fallback",
];

/// Options that this client uses, with the variable of the environment that libpq has for them.
const KNOWN: [(&str, Option<&str>); 24] = [
    ("service", Some("PGSERVICE")),
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("port", Some("PGPORT")),
    ("user", Some("PGUSER")),
    ("password", Some("PGPASSWORD")),
    ("passfile", Some("PGPASSFILE")),
    ("dbname", Some("PGDATABASE")),
    ("options", Some("PGOPTIONS")),
    ("application_name", Some("PGAPPNAME")),
    ("fallback_application_name", None),
    ("sslmode", Some("PGSSLMODE")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS")),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("tcp_user_timeout", None),
    ("keepalives", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("keepalives_retries", None),
    ("keepalives_count", None),
];

/// The directories in which libpq and the packages of distributions look for the server's socket.
#[cfg(unix)]
const SOCKETS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// The largest size of a service or password file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A value and the place it came from.
#[derive(Clone)]
struct Setting {
    value: String,
    from: String,
}

/// The settings of a connection. `Debug` is not implemented, because a value may be a password.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    values: BTreeMap<String, Setting>,
    /// Options that were ignored.
    pub(crate) ignored: Vec<String>,
    /// Why the password file was not used.
    pub(crate) no_passfile: Option<String>,
}

impl Settings {
    /// Collects the settings. `source` says where the connection string is from, for messages.
    pub(crate) fn collect(dsn: &str, source: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings> {
        let mut settings = Settings::default();
        for (name, value) in parse(dsn)? {
            settings.put(&name, value, source)?;
        }
        if let Some(service) = settings.get("service").map(str::to_owned).or_else(|| env("PGSERVICE")) {
            let (file, entries) = read_service(&service, env)?;
            for (name, value) in entries {
                if name == "service" {
                    return Err(Error::invalid(format!("service \"{service}\" names another service"))
                        .detail(format!("The file is \"{}\".", file.display())));
                }
                if settings.get(&name).is_none() {
                    settings.put(&name, value, &format!("service \"{service}\" in \"{}\"", file.display()))?;
                }
            }
        }
        for (name, variable) in KNOWN {
            if let Some(variable) = variable
                && settings.get(name).is_none()
                && let Some(value) = env(variable)
            {
                settings.put(name, value, variable)?;
            }
        }
        settings.defaults(env);
        settings.password_file(env);
        Ok(settings)
    }

    fn put(&mut self, name: &str, value: String, from: &str) -> Result<()> {
        let name = match name {
            "dbname" | "database" => "dbname",
            "keepalives_count" => "keepalives_retries",
            // The short form of libpq's URLs, which other drivers use too.
            "ssl" => {
                let mode = match value.as_str() {
                    "true" | "1" => "require",
                    "false" | "0" => "disable",
                    mode => mode,
                };
                return self.put("sslmode", mode.to_owned(), from);
            }
            other => other,
        };
        if IGNORED.contains(&name) {
            self.ignored.push(name.to_owned());
            return Ok(());
        }
        if !KNOWN.iter().any(|(known, _)| *known == name) {
            let shown: String = name.chars().take(64).collect();
            let error = Error::invalid(format!("unknown connection option \"{shown}\""))
                .detail(format!("It is in the connection string's source: {from}."));
            return Err(match name {
                "sslcert" | "sslkey" | "sslpassword" => error.hint("Client certificates are not supported."),
                _ => error.hint(format!(
                    "The options are {}.",
                    KNOWN.map(|(known, _)| known).into_iter().collect::<Vec<_>>().join(", ")
                )),
            });
        }
        if value.contains('\0') {
            return Err(Error::invalid(format!("option \"{name}\" contains a NUL character")));
        }
        // As in libpq, an empty value counts as one that was not given.
        if !value.is_empty() {
            self.values.insert(name.to_owned(), Setting { value, from: from.to_owned() });
        }
        Ok(())
    }

    /// Sets what libpq assumes: the socket if there is one and else localhost, port 5432, the name of the user of the
    /// operating system, and a database of the user's name.
    fn defaults(&mut self, env: &dyn Fn(&str) -> Option<String>) {
        let mut put = |name: &str, value: String| {
            self.values.entry(name.to_owned()).or_insert_with(|| Setting { value, from: "the default".to_owned() });
        };
        put("port", "5432".to_owned());
        if let Some(user) = env("USER").or_else(|| env("LOGNAME")).or_else(|| env("USERNAME")) {
            put("user", user);
        }
        put("application_name", "pg_outbox".to_owned());
        // The loss of a server that does not close the connection is noticed within half a minute.
        put("keepalives_idle", "15".to_owned());
        put("keepalives_interval", "5".to_owned());
        put("keepalives_retries", "3".to_owned());
        if let Some(name) = self.values.get("fallback_application_name").cloned()
            && self.from("application_name") == Some("the default")
        {
            self.values.insert("application_name".to_owned(), name);
        }
        if let Some(user) = self.get("user").map(str::to_owned)
            && self.get("dbname").is_none()
        {
            self.values.insert("dbname".to_owned(), Setting { value: user, from: "the default".to_owned() });
        }
        if self.get("host").is_none() && self.get("hostaddr").is_none() {
            let host = default_host(self.get("port").unwrap_or("5432"));
            self.values.insert("host".to_owned(), Setting { value: host, from: "the default".to_owned() });
        }
    }

    /// Takes the password from the password file. libpq ignores a file that other users can read, and so does this client.
    fn password_file(&mut self, env: &dyn Fn(&str) -> Option<String>) {
        if self.get("password").is_some() {
            return;
        }
        let Some(path) = self.get("passfile").map(PathBuf::from).or_else(|| default_passfile(env)) else { return };
        let text = match read_private(&path) {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(why) => {
                self.no_passfile = Some(why);
                return;
            }
        };
        let first = |name: &str| self.get(name).unwrap_or_default().split(',').next().unwrap_or_default().to_owned();
        let host = match first("host") {
            host if host.is_empty() => first("hostaddr"),
            #[cfg(unix)]
            host if SOCKETS.contains(&host.as_str()) => "localhost".to_owned(),
            host => host,
        };
        let wanted = [host, first("port"), first("dbname"), first("user")];
        match find_password(&text, &wanted) {
            Some(password) => {
                let from = format!("\"{}\"", path.display());
                self.values.insert("password".to_owned(), Setting { value: password, from });
            }
            None => {
                self.no_passfile = Some(format!("The password file \"{}\" has no line for it.", path.display()));
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|setting| setting.value.as_str())
    }

    fn from(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|setting| setting.from.as_str())
    }

    /// Returns whether all hosts are directories of sockets, where TLS is neither used nor possible.
    pub(crate) fn only_sockets(&self) -> bool {
        self.get("hostaddr").is_none()
            && self.get("host").is_some_and(|hosts| hosts.split(',').all(|host| host.starts_with(['/', '@'])))
    }

    /// Returns the options of `tokio_postgres`, as a connection string of names and values.
    pub(crate) fn plain(&self) -> String {
        let ours = ["service", "passfile", "fallback_application_name", "sslmode", "sslrootcert"];
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
        self.values
            .iter()
            .filter(|(name, _)| !ours.contains(&name.as_str()))
            .map(|(name, setting)| format!("{name}='{}'", quoted(&setting.value)))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Returns the server, the database and the user, for the messages of errors. It contains no password.
    pub(crate) fn server(&self) -> String {
        let host = self.get("host").or_else(|| self.get("hostaddr")).unwrap_or_default();
        let mut text = format!("\"{host}\", port {}", self.get("port").unwrap_or_default());
        for (label, name) in [("database", "dbname"), ("user", "user")] {
            if let Some(value) = self.get(name) {
                text.push_str(&format!(", {label} \"{value}\""));
            }
        }
        text
    }

    /// Returns a sentence that says where host, user and password came from. It contains no password.
    pub(crate) fn sources(&self) -> String {
        let host = self.from("host").or_else(|| self.from("hostaddr")).unwrap_or("the default");
        let mut text = format!("The host is from {host}, the user from {}", self.from("user").unwrap_or("the default"));
        match self.from("password") {
            Some(from) => text.push_str(&format!(", the password from {from}.")),
            None => text.push_str("; there is no password."),
        }
        if let Some(why) = &self.no_passfile {
            text.push_str(&format!(" {why}"));
        }
        text
    }
}

/// Returns the directory of the socket of a server that runs on this machine, or `localhost`.
fn default_host(port: &str) -> String {
    #[cfg(unix)]
    for folder in SOCKETS {
        if Path::new(folder).join(format!(".s.PGSQL.{port}")).exists() {
            return folder.to_owned();
        }
    }
    let _ = port;
    "localhost".to_owned()
}

fn malformed(why: &str) -> Error {
    Error::invalid("malformed connection string")
        .detail(why)
        .hint("It looks like \"postgresql://user@host:5432/database?sslmode=verify-full\".")
}

/// Returns the names and values of a connection string in either form.
fn parse(dsn: &str) -> Result<Vec<(String, String)>> {
    if dsn.len() > 64 * 1024 {
        return Err(malformed("It is longer than 64 kB."));
    }
    match dsn.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'_') => {
            // SQLAlchemy and others name the driver behind a plus sign, as in postgresql+asyncpg.
            let (base, _) = scheme.split_once('+').unwrap_or((scheme, ""));
            if base != "postgresql" && base != "postgres" {
                return Err(malformed(&format!("The scheme is \"{scheme}\".")));
            }
            parse_url(rest)
        }
        _ => parse_words(dsn),
    }
}

/// Parses what follows the scheme: `user:password@host:port,host:port/database?name=value&name=value`.
fn parse_url(rest: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, database) = rest.split_once('/').map_or((rest, ""), |(authority, database)| (authority, database));
    let hosts = match authority.rsplit_once('@') {
        Some((user, hosts)) => {
            let (user, password) = user.split_once(':').map_or((user, None), |(user, password)| (user, Some(password)));
            if !user.is_empty() {
                found.push(("user".to_owned(), decode(user)?));
            }
            if let Some(password) = password {
                found.push(("password".to_owned(), decode(password)?));
            }
            hosts
        }
        None => authority,
    };
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for one in hosts.split(',') {
            // An address of IPv6 has brackets, because it contains colons.
            let (host, port) = match one.strip_prefix('[') {
                Some(v6) => {
                    let (host, port) = v6.split_once(']').ok_or_else(|| malformed("A \"[\" has no \"]\"."))?;
                    if !port.is_empty() && !port.starts_with(':') {
                        return Err(malformed("After \"]\", a port or nothing must follow."));
                    }
                    (host, port.strip_prefix(':').unwrap_or_default())
                }
                None => one.split_once(':').unwrap_or((one, "")),
            };
            if !port.is_empty() && port.parse::<u16>().is_err() {
                return Err(malformed(
                    "A port is not a number from 1 to 65535. A special character of a password is to be percent-encoded.",
                ));
            }
            names.push(decode(host)?);
            ports.push(port);
        }
        if names.iter().any(|name| !name.is_empty()) {
            found.push(("host".to_owned(), names.join(",")));
        }
        if ports.iter().any(|port| !port.is_empty()) {
            let all: Vec<&str> = ports.iter().map(|port| if port.is_empty() { "5432" } else { port }).collect();
            found.push(("port".to_owned(), all.join(",")));
        }
    }
    if !database.is_empty() {
        found.push(("dbname".to_owned(), decode(database)?));
    }
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| malformed("An option behind \"?\" has no value."))?;
        found.push((decode(name)?, decode(value)?));
    }
    Ok(found)
}

fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()].map(|b| b.and_then(|b| char::from(b).to_digit(16)));
        let [Some(high), Some(low)] = digits else {
            return Err(malformed("A \"%\" is not followed by two hexadecimal digits. A percent sign is written %25."));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|_| malformed("It is not UTF-8."))
}

/// Parses `name=value` and `name = 'va\'lue'`, separated by spaces.
fn parse_words(dsn: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = dsn.trim_start();
    while !rest.is_empty() {
        let (name, after) =
            rest.split_once('=').ok_or_else(|| malformed("A word has no \"=\", and the string is not a URL."))?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(malformed("A word has no \"=\", and the string is not a URL."));
        }
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut value = String::new();
        let mut end = after.len();
        let mut chars = after.char_indices().skip(usize::from(quoted));
        let mut closed = !quoted;
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => value.push(chars.next().map_or('\\', |(_, c)| c)),
                '\'' if quoted => {
                    end = at + 1;
                    closed = true;
                    break;
                }
                c if !quoted && c.is_whitespace() => {
                    end = at;
                    break;
                }
                c => value.push(c),
            }
        }
        if !closed {
            return Err(malformed("A quote is not closed."));
        }
        found.push((name.to_owned(), value));
        rest = after[end..].trim_start();
    }
    Ok(found)
}

/// Returns the entries of a service, and the file that has it: the user's file, else the system's.
fn read_service(service: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<(PathBuf, Vec<(String, String)>)> {
    let mut files = Vec::new();
    match env("PGSERVICEFILE") {
        Some(file) => files.push(PathBuf::from(file)),
        None => files.extend(env("HOME").map(|home| Path::new(&home).join(".pg_service.conf"))),
    }
    files.extend(env("PGSYSCONFDIR").map(|folder| Path::new(&folder).join("pg_service.conf")));
    for file in &files {
        if !file.exists() {
            continue;
        }
        let text = read_bounded(file).map_err(|error| {
            Error::invalid(format!("cannot read the service file \"{}\"", file.display())).detail(error)
        })?;
        if let Some(entries) = find_service(&text, service) {
            return Ok((file.clone(), entries));
        }
    }
    let looked: Vec<String> = files.iter().map(|file| format!("\"{}\"", file.display())).collect();
    Err(Error::invalid(format!("service \"{service}\" does not exist"))
        .detail(format!("It was looked for in {}.", looked.join(" and ")))
        .hint("PGSERVICEFILE names another file; a service begins with its name in brackets."))
}

fn find_service(text: &str, service: &str) -> Option<Vec<(String, String)>> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) == Some(service))?;
    Some(
        lines
            .take_while(|line| !line.starts_with('['))
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect(),
    )
}

fn default_passfile(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if cfg!(windows) {
        return env("APPDATA").map(|folder| Path::new(&folder).join("postgresql/pgpass.conf"));
    }
    env("HOME").map(|home| Path::new(&home).join(".pgpass"))
}

/// Returns the text of a file that only its owner can read. `None` if there is no file; the error says why it is not used.
fn read_private(path: &Path) -> std::result::Result<Option<String>, String> {
    let Ok(about) = std::fs::metadata(path) else { return Ok(None) };
    if !about.is_file() {
        return Err(format!("The password file \"{}\" is not a plain file.", path.display()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if about.permissions().mode() & 0o077 != 0 {
            return Err(format!(
                "The password file \"{}\" was not used, because other users have access to it: run \"chmod 600\" on it.",
                path.display()
            ));
        }
    }
    read_bounded(path).map(Some).map_err(|error| format!("The password file cannot be read: {error}."))
}

fn read_bounded(path: &Path) -> std::result::Result<String, String> {
    let about = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if about.len() > MAX_FILE {
        return Err("it is larger than 1 MiB".to_owned());
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// Returns the password of the first line whose host, port, database and user match. `*` matches everything.
fn find_password(text: &str, wanted: &[String; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split_fields(line);
        let [host, port, database, user, password] = fields.as_slice() else { return None };
        let matches = [host, port, database, user]
            .iter()
            .zip(wanted)
            .all(|(field, wanted)| field.as_str() == "*" || *field == wanted);
        (matches && !password.is_empty()).then(|| password.clone())
    })
}

/// Splits a line of a password file at its first four colons. A backslash escapes a colon or a backslash.
fn split_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.trim_end_matches('\r').chars();
    while let Some(c) = chars.next() {
        let last = fields.len() - 1;
        match c {
            '\\' => fields[last].extend(chars.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            c => fields[last].push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(dsn: &str, variables: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        Settings::collect(dsn, "the connection string", &find)
    }

    fn shown(settings: &Settings) -> String {
        ["host", "port", "user", "password", "dbname"].map(|name| settings.get(name).unwrap_or("-")).join(" ")
    }

    #[test]
    fn both_forms_of_a_connection_string_have_the_same_settings() {
        for (dsn, expected) in [
            ("postgresql://app:s%40:x@db:5433/shop", "db 5433 app s@:x shop"),
            ("postgres+asyncpg://app@db/shop", "db 5432 app - shop"),
            ("postgresql://db", "db 5432 me - me"),
            ("postgresql://a@[::1]:7/d", "::1 7 a - d"),
            ("postgresql://a@one:1,two/d", "one,two 1,5432 a - d"),
            ("postgresql:///d?host=/run/pg&user=u", "/run/pg 5432 u - d"),
            ("host=db port = 5433 user='o\\'x' password='a b\\\\c' dbname=shop", "db 5433 o'x a b\\c shop"),
            ("host=db password=", "db 5432 me - me"),
        ] {
            assert_eq!(shown(&with(dsn, &[("USER", "me")]).unwrap()), expected, "{dsn}");
        }
    }

    #[test]
    fn malformed_strings_are_refused_without_showing_them() {
        for dsn in [
            "postgresql://a:geheim@h:port/d",
            "mysql://a:geheim@h/d",
            "postgresql://a:geheim%zz@h/d",
            "postgresql://a:geheim@[::1/d",
            "postgresql://a:geheim@h/d?sslmode",
            "geheim",
            "password='geheim",
            "host=h geheim",
        ] {
            let error = with(dsn, &[]).err().unwrap_or_else(|| panic!("{dsn}"));
            assert_eq!(error.code(), "22023", "{dsn}");
            assert!(!error.report().contains("geheim"), "{}", error.report());
        }
    }

    #[test]
    fn unknown_options_are_refused_and_harmless_ones_are_named() {
        let error = with("postgresql://h/d?sslcert=x", &[]).err().unwrap();
        assert_eq!(error.details().message, "unknown connection option \"sslcert\"");
        assert!(error.details().hint.as_deref().unwrap().contains("not supported"));
        let error = with("host=h pasword=x", &[]).err().unwrap();
        assert!(error.report().contains("\"pasword\"") && error.report().contains("channel_binding"));
        let settings = with("postgresql://h/d?pgbouncer=true&gssencmode=disable", &[]).unwrap();
        assert_eq!(settings.ignored, ["pgbouncer", "gssencmode"]);
    }

    #[test]
    fn the_environment_fills_what_is_missing() {
        let env = [("PGHOST", "h"), ("PGUSER", "u"), ("PGPASSWORD", "p"), ("PGDATABASE", "d"), ("PGPORT", "1")];
        assert_eq!(shown(&with("", &env).unwrap()), "h 1 u p d");
        assert_eq!(shown(&with("postgresql://x@y/z", &env).unwrap()), "y 1 x p z");
        let sources = with("host=y", &env).unwrap().sources();
        assert_eq!(
            sources,
            "The host is from the connection string, the user from PGUSER, the password from PGPASSWORD."
        );
    }

    #[test]
    fn a_line_of_the_password_file_matches_all_its_fields() {
        let text = "# comment\nh:1:d:u:one\n*:5432:d\\:x:*:two:2\nlocalhost:*:*:app:a\\\\b\n";
        let find = |fields: [&str; 4]| find_password(text, &fields.map(str::to_owned));
        assert_eq!(find(["h", "1", "d", "u"]).as_deref(), Some("one"));
        assert_eq!(find(["any", "5432", "d:x", "u"]).as_deref(), Some("two:2"));
        assert_eq!(find(["localhost", "7", "d", "app"]).as_deref(), Some("a\\b"));
        assert_eq!(find(["h", "2", "d", "u"]), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_password_file_that_others_can_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("pgpass-{}", std::process::id()));
        std::fs::write(&path, "h:*:*:u:secret\n").unwrap();
        let file = path.to_str().unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let settings = with("postgresql://u@h/d", &[("PGPASSFILE", file)]).unwrap();
        assert_eq!(settings.get("password"), None);
        assert!(settings.sources().contains("chmod 600"), "{}", settings.sources());
        mode(0o600);
        let settings = with("postgresql://u@h/d", &[("PGPASSFILE", file)]).unwrap();
        assert_eq!(settings.get("password"), Some("secret"));
        assert!(
            settings.sources().ends_with(&format!("the password from \"{file}\"."))
                && !settings.sources().contains("secret")
        );
        // Another user has no line, and the reason is told.
        let settings = with("postgresql://x@h/d", &[("PGPASSFILE", file)]).unwrap();
        assert!(settings.sources().contains("has no line"), "{}", settings.sources());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_service_has_the_settings_that_the_connection_string_lacks() {
        let path = std::env::temp_dir().join(format!("services-{}", std::process::id()));
        std::fs::write(&path, "[one]\nhost=a\n[shop]\n# comment\nhost = db\nport=7\n\n[two]\nhost=c\n").unwrap();
        let env = [("PGSERVICEFILE", path.to_str().unwrap()), ("USER", "me"), ("PGPORT", "9")];
        assert_eq!(shown(&with("service=shop", &env).unwrap()), "db 7 me - me");
        assert_eq!(shown(&with("postgresql://u@/d?service=shop", &env).unwrap()), "db 7 u - d");
        let error = with("service=none", &env).err().unwrap();
        assert!(error.report().contains("\"none\"") && error.report().contains("services-"), "{}", error.report());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn values_are_quoted_for_the_driver() {
        let settings = with("host=h user='a b' password='x\\'y\\\\z' dbname=d", &[]).unwrap();
        let config: tokio_postgres::Config = settings.plain().parse().unwrap();
        assert_eq!((config.get_user(), config.get_password()), (Some("a b"), Some("x'y\\z".as_bytes())));
    }
}
