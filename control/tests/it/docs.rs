//! What the documentation says of tests is so.

use std::path::Path;

/// Each `path` in a table, and behind it each `name_of_a_test`: the file is there and has it.
#[test]
fn the_tests_that_the_documentation_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/TESTING.md")).unwrap();
    let mut named = 0;
    for line in page.lines().filter(|line| line.starts_with('|')) {
        let shown_by = line.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        let mut file = String::new();
        // What stands between backticks is every second part.
        for quoted in shown_by.split('`').skip(1).step_by(2) {
            if quoted.contains('/') && !quoted.contains(' ') && !quoted.starts_with("./") {
                let path = root.join(quoted);
                file = std::fs::read_to_string(path).unwrap_or_else(|it| panic!("{quoted}: {it}"));
            } else if !file.is_empty() && quoted.chars().all(|it| it.is_alphanumeric() || it == '_')
            {
                // Rust's, one with a parameter, Python's.
                let tests =
                    [format!("fn {quoted}("), format!("fn {quoted}<"), format!("def {quoted}(")];
                let is_there = tests.iter().any(|test| file.contains(test));
                assert!(is_there || quoted == "compile_fail", "no test {quoted} in {line}");
                named += 1;
            }
        }
    }
    assert!(named > 60, "the page was not understood: {named} tests");
}
