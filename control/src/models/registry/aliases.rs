//! Other names of models.

use std::collections::BTreeMap;

use super::{Entries, Entry, Models};

impl Models {
    /// The model that `name` is an alias of. The name of a model that serves is none.
    pub(super) fn aliased(&self, name: &str) -> Option<String> {
        let entries = self.entries();
        let serves = |entry: &Entry| entry.state.profile().is_some();
        if entries.iter().any(|(key, entry)| key.0 == name && serves(entry)) {
            return None;
        }
        let has = |entry: &Entry| {
            entry.state.profile().is_some_and(|it| it.metadata.aliases.iter().any(|it| it == name))
        };
        entries.iter().find(|(_, entry)| has(entry)).map(|(key, _)| key.0.clone())
    }
}

/// Looks whether the names that a model answers to are free.
pub(super) fn check_aliases(
    entries: &Entries,
    name: &str,
    aliases: &[String],
) -> Result<(), String> {
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for ((other, _), entry) in entries.iter().filter(|(key, _)| key.0 != name) {
        if !entry.is_gone() {
            taken.insert(other, other);
        }
        if let Some(profile) = entry.state.profile() {
            taken.extend(profile.metadata.aliases.iter().map(|alias| (alias.as_str(), &**other)));
        }
    }
    let of_alias = taken.get(name).filter(|owner| **owner != name);
    if let Some(owner) = of_alias {
        return Err(format!("its name is an alias of the model {owner}: rename one of them"));
    }
    for (at, alias) in aliases.iter().enumerate() {
        if alias == name || aliases.iter().take(at).any(|it| it == alias) {
            return Err(format!("aliases: {alias:?} is there twice: it names this model already"));
        }
        match taken.get(alias.as_str()) {
            Some(owner) if owner == alias => {
                return Err(format!("aliases: {alias:?} is a model of its own"));
            }
            Some(owner) => return Err(format!("aliases: {alias:?} is one of the model {owner}")),
            None => {}
        }
    }
    Ok(())
}
