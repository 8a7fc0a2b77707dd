//! The TOML of a model, in which some keys change and all else stays.

use anyhow::Context;
use toml_edit::{DocumentMut, Item, Table, value};

use crate::failure::Failure;

/// Batches of one row are none.
pub(super) const BATCH_MAX: &str = "batch.max";

/// How long a batch waits, in microseconds.
pub(super) const DELAY: &str = "batch.delay_us";

/// A model's TOML.
#[derive(Debug)]
pub(super) struct Config(DocumentMut);

impl Config {
    pub(super) fn read(text: &str) -> Result<Config, Failure> {
        let document = text.parse().context("read the TOML that the server tells of the model")?;
        Ok(Config(document))
    }

    fn item(&self, key: &str) -> Option<&Item> {
        match key.split_once('.') {
            Some((table, key)) => self.0.get(table)?.get(key),
            None => self.0.get(key),
        }
    }

    /// A number, if it says one.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.item(key)?.as_integer().and_then(|number| u64::try_from(number).ok())
    }

    /// Whether it says that rows may be computed together.
    pub(super) fn has_batches(&self) -> bool {
        let is_off = self.item("batch.enabled").and_then(Item::as_bool) == Some(false);
        self.0.contains_key("batch") && !is_off
    }

    /// The text with other values for these keys.
    pub(super) fn with<'k>(
        &self,
        changed: impl IntoIterator<Item = (&'k str, u64)>,
    ) -> Result<String, Failure> {
        let mut document = self.0.clone();
        for (key, number) in changed {
            if key == BATCH_MAX {
                set(&mut document, "batch.enabled", value(number > 1))?;
            }
            if key != BATCH_MAX || number > 1 {
                set(&mut document, key, value(i64::try_from(number).unwrap_or(i64::MAX)))?;
            }
        }
        Ok(document.to_string())
    }
}

fn set(document: &mut DocumentMut, key: &str, item: Item) -> Result<(), Failure> {
    let Some((table, key)) = key.split_once('.') else {
        put(document.as_table_mut(), key, item);
        return Ok(());
    };
    let within = document.entry(table).or_insert_with(|| Item::Table(Table::new()));
    let within = within.as_table_like_mut();
    let within = within.with_context(|| format!("[{table}] of the model's TOML is no table"))?;
    match within.get_mut(key) {
        Some(old) => replace(old, item),
        None => drop(within.insert(key, item)),
    }
    Ok(())
}

fn put(table: &mut Table, key: &str, item: Item) {
    match table.get_mut(key) {
        Some(old) => replace(old, item),
        None => drop(table.insert(key, item)),
    }
}

/// Another value, with the comments of the old one.
fn replace(old: &mut Item, mut new: Item) {
    if let (Some(old), Some(new)) = (old.as_value(), new.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    *old = new;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_change_and_all_else_stays() {
        let text =
            "# mine\ninstances = 2 # two\n\n[picture]\ninput = 'x'\n\n[batch]\nmax = 8 # b\n";
        let config = Config::read(text).unwrap();
        assert_eq!((config.number("instances"), config.number("batch.max")), (Some(2), Some(8)));
        assert_eq!(config.number("threads"), None);
        assert!(config.has_batches());
        assert_eq!(config.with([]).unwrap(), text);
        let changed = config.with([("instances", 4), ("batch.max", 16), ("gpu.streams", 3)]);
        let expected = "# mine\ninstances = 4 # two\n\n[picture]\ninput = 'x'\n\n[batch]\n\
                        max = 16 # b\nenabled = true\n\n[gpu]\nstreams = 3\n";
        assert_eq!(changed.unwrap(), expected);
        let off = config.with([("batch.max", 1)]).unwrap();
        assert!(off.contains("max = 8 # b\nenabled = false"), "{off}");
        assert!(!Config::read(&off).unwrap().has_batches());
    }

    #[test]
    fn a_toml_that_is_none_and_one_with_tables_in_a_line() {
        let empty = Config::read("").unwrap();
        assert!(!empty.has_batches());
        let made = empty.with([("threads", 2), ("batch.delay_us", 500)]).unwrap();
        assert_eq!(made, "threads = 2\n\n[batch]\ndelay_us = 500\n");
        let inline = Config::read("batch = { max = 4 }\n").unwrap();
        let changed = inline.with([("batch.max", 8)]).unwrap();
        assert!(changed.starts_with("batch = { max = 8"), "{changed}");
        assert!(Config::read("batch = 1").unwrap().with([("batch.max", 8)]).is_err());
    }
}
