//! The walls inside this crate stand: its rooms have an order, and the wire ends in one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every source file below a folder.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|it| it == "rs") {
            into.push(path);
        }
    }
}

/// The rooms of this crate (the modules of its root), and the code of each without its comments.
fn rooms() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut rooms = BTreeMap::<String, String>::new();
    for file in files {
        let below = file.strip_prefix(&root).unwrap();
        let room = below.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        rooms.entry(room.to_owned()).or_default().extend(code.flat_map(|line| [line, "\n"]));
    }
    rooms.remove("lib");
    rooms.remove("main");
    assert!(rooms.len() > 8, "the crate was not understood: {:?}", rooms.keys());
    rooms
}

/// The rooms that code names.
fn named(code: &str, rooms: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        // `crate::{a::x, b}` names several.
        let list = after.strip_prefix('{').and_then(|it| it.split('}').next());
        for path in list.map_or(vec![after], |list| list.split(',').collect()) {
            let is_word = |it: char| it.is_alphanumeric() || it == '_';
            let name: String = path.trim_start().chars().take_while(|it| is_word(*it)).collect();
            if rooms.contains_key(&name) {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn no_room_needs_itself_by_way_of_another() {
    let rooms = rooms();
    let mut needs: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (room, code) in &rooms {
        let mut others = named(code, &rooms);
        others.remove(room);
        needs.insert(room, others);
    }
    // Takes away what needs nothing that is left; what stays goes round in circles.
    while let Some(room) = needs.iter().find(|(_, of)| of.is_empty()).map(|(room, _)| *room) {
        needs.remove(room);
        for of in needs.values_mut() {
            of.remove(room);
        }
    }
    assert!(needs.is_empty(), "these need each other: {needs:#?}");
}

#[test]
fn only_the_services_know_messages_of_the_wire() {
    for (room, code) in rooms() {
        // Addresses and names of metadata are no messages.
        let code = code.replace("ferry_proto::channel", "");
        let is_wire = |word: &&str| code.contains(*word);
        let wire = ["v1::", "ferry_proto", "tonic::"].into_iter().filter(is_wire);
        let wire: Vec<_> = match room.as_str() {
            "api" => continue,
            // The configuration in a model's folder is a message.
            "models" => {
                let rest = code.replace("ferry_proto::oip", "").replace("ferry_proto::DESC", "");
                wire.filter(|word| rest.contains(*word)).collect()
            }
            // It runs the server that the services are in.
            "app" => wire.filter(|word| *word != "tonic::").collect(),
            _ => wire.collect(),
        };
        assert!(wire.is_empty(), "{room} names {wire:?}: that ends in api");
    }
}
