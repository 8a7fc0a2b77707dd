//! Tells whether a text is one statement that reads, without running it.

use crate::QueryError;

/// Longest statement, in bytes: ample for what people write, and parsed in no time.
const SQL_BYTES_MAX: usize = 64 << 10;

/// Checks that `sql` is one `SELECT`, `WITH`, `VALUES` or `EXPLAIN` statement. A `WITH` may still
/// write; SQLite refuses that itself, since the connection is read-only.
///
/// # Errors
///
/// [`QueryError::Refused`] says what else it is.
pub fn check(sql: &str) -> Result<(), QueryError> {
    if sql.len() > SQL_BYTES_MAX {
        return refuse(format!("it has {} bytes, the limit is {SQL_BYTES_MAX}", sql.len()));
    }
    if sql.contains('\0') {
        return refuse("it contains a NUL byte".to_owned());
    }
    let mut tokens = Tokens { rest: sql };
    let mut first = tokens.next();
    if first.is_some_and(|token| token.eq_ignore_ascii_case("EXPLAIN")) {
        first = tokens.next();
        if first.is_some_and(|token| token.eq_ignore_ascii_case("QUERY")) {
            // EXPLAIN QUERY PLAN
            tokens.next();
            first = tokens.next();
        }
    }
    match first {
        None | Some(";") => return refuse("it is empty".to_owned()),
        Some(word) => {
            let reads = ["SELECT", "WITH", "VALUES"];
            if !reads.iter().any(|keyword| word.eq_ignore_ascii_case(keyword)) {
                return refuse(format!("it begins with {word}"));
            }
        }
    }
    let mut ended = false;
    for token in tokens {
        if ended && token != ";" {
            return refuse("a second statement follows".to_owned());
        }
        ended |= token == ";";
    }
    Ok(())
}

fn refuse(reason: String) -> Result<(), QueryError> {
    Err(QueryError::Refused { reason })
}

/// The words, quoted strings and single signs of a statement, as SQLite cuts them; comments and
/// white space are skipped.
struct Tokens<'s> {
    rest: &'s str,
}

impl<'s> Iterator for Tokens<'s> {
    type Item = &'s str;

    fn next(&mut self) -> Option<&'s str> {
        self.skip_blank();
        let first = self.rest.chars().next()?;
        let length = match first {
            '\'' | '"' | '`' => quoted_bytes(self.rest, first),
            '[' => self.rest.find(']').map_or(self.rest.len(), |end| end + 1),
            _ if is_word(first) => self.rest.find(|c: char| !is_word(c)).unwrap_or(self.rest.len()),
            _ => first.len_utf8(),
        };
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(token)
    }
}

impl Tokens<'_> {
    fn skip_blank(&mut self) {
        loop {
            // A byte-order mark is white space to SQLite too.
            self.rest =
                self.rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{feff}');
            let end = if self.rest.starts_with("--") {
                self.rest.find('\n').map(|end| end + 1)
            } else if self.rest.starts_with("/*") {
                self.rest[2..].find("*/").map(|end| end + 4)
            } else {
                return;
            };
            // SQLite takes a comment without an end as one up to the end of the text.
            self.rest = &self.rest[end.unwrap_or(self.rest.len())..];
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Length of the quoted string that `text` begins with; a doubled quote stands for one.
fn quoted_bytes(text: &str, quote: char) -> usize {
    let mut at = 1;
    while let Some(end) = text[at..].find(quote) {
        at += end + 1;
        if !text[at..].starts_with(quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reading_statement_passes() {
        for sql in [
            "SELECT 1",
            "select 1;",
            "  -- note\n /* ; */ SELECT ';' ;; -- DROP TABLE runs; \n",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "VALUES (1), (2)",
            "EXPLAIN SELECT 1",
            "explain query plan select 1",
            "SELECT 'it''s; fine', \"a;b\", `c;d`, [e;f]",
            "SELECT(1)",
            "SELECT 1 /* never ends; DROP TABLE runs",
        ] {
            assert!(check(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        for (sql, reason) in [
            ("", "empty"),
            (" ; ", "empty"),
            ("-- only a note", "empty"),
            ("ATTACH 'x' AS y", "ATTACH"),
            ("/* SELECT */ ATTACH 'x' AS y", "ATTACH"),
            ("--SELECT\nPRAGMA writable_schema = 1", "PRAGMA"),
            ("EXPLAIN DELETE FROM runs", "DELETE"),
            ("EXPLAIN QUERY PLAN PRAGMA user_version", "PRAGMA"),
            ("EXPLAIN", "empty"),
            ("SELECT 1; DELETE FROM runs", "second"),
            ("SELECT 1;/**/SELECT 2", "second"),
            ("SELECT 'a'';'; DROP TABLE runs", "second"),
            ("SELECT [a;b]; DROP TABLE runs", "second"),
            ("SELECTED", "SELECTED"),
            ("(SELECT 1)", "("),
            ("SELECT 1\0; DROP TABLE runs", "NUL"),
        ] {
            let error = check(sql).expect_err(sql).to_string();
            assert!(error.contains(reason), "{sql}: {error}");
        }
        let long = format!("SELECT '{}'", "x".repeat(SQL_BYTES_MAX));
        assert!(check(&long).is_err());
    }
}
