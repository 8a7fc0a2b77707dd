//! Which versions of a model serve.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

/// What an operator says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum VersionPolicy {
    /// Every version there is.
    #[default]
    All,
    /// So many of the highest numbers.
    Latest(u32),
    /// These.
    Specific(BTreeSet<u64>),
}

impl VersionPolicy {
    /// Those of `versions` that serve.
    pub(super) fn of(&self, versions: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
        let mut all: BTreeSet<u64> = versions.into_iter().collect();
        match self {
            VersionPolicy::All => {}
            VersionPolicy::Latest(count) => {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                while all.len() > count {
                    all.pop_first();
                }
            }
            VersionPolicy::Specific(wanted) => all.retain(|it| wanted.contains(it)),
        }
        all
    }
}

impl fmt::Display for VersionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VersionPolicy::All => write!(f, "all"),
            VersionPolicy::Latest(count) => write!(f, "the latest {count}"),
            VersionPolicy::Specific(wanted) => {
                let wanted: Vec<_> = wanted.iter().map(u64::to_string).collect();
                write!(f, "{}", wanted.join(", "))
            }
        }
    }
}

impl TryFrom<toml::Value> for VersionPolicy {
    type Error = String;

    fn try_from(written: toml::Value) -> Result<VersionPolicy, String> {
        let wrong = || {
            format!(
                "versions = {written}: give \"all\", {{ latest = 1 }}, or a list such as [1, 3]"
            )
        };
        let from_1 = |it: &toml::Value| {
            it.as_integer().and_then(|it| u64::try_from(it).ok()).filter(|it| *it > 0)
        };
        match &written {
            toml::Value::String(word) if word == "all" => Ok(VersionPolicy::All),
            toml::Value::Table(table) if table.len() == 1 => table
                .get("latest")
                .and_then(from_1)
                .and_then(|count| u32::try_from(count).ok())
                .map(VersionPolicy::Latest)
                .ok_or_else(wrong),
            toml::Value::Array(all) if !all.is_empty() => {
                let all: Option<BTreeSet<u64>> = all.iter().map(from_1).collect();
                all.map(VersionPolicy::Specific).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        versions: VersionPolicy,
    }

    fn policy(written: &str) -> Result<VersionPolicy, String> {
        let text = format!("versions = {written}");
        toml::from_str::<File>(&text).map(|it| it.versions).map_err(|error| error.to_string())
    }

    #[test]
    fn it_keeps_all_the_latest_or_those_that_are_named() {
        for (written, kept) in [
            ("'all'", &[1, 2, 5, 9][..]),
            ("{ latest = 1 }", &[9]),
            ("{ latest = 2 }", &[5, 9]),
            ("{ latest = 4294967295 }", &[1, 2, 5, 9]),
            ("[2, 1, 7]", &[1, 2]),
        ] {
            let of = policy(written).unwrap().of([9, 1, 5, 2]);
            assert_eq!(of, kept.iter().copied().collect(), "{written}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused_with_what_would() {
        for written in
            ["'latest'", "1", "[]", "[0]", "[-1]", "['1']", "{ latest = 0 }", "{ last = 1 }", "{}"]
        {
            let told = policy(written).unwrap_err();
            assert!(told.contains("{ latest = 1 }"), "{written}: {told}");
        }
    }
}
