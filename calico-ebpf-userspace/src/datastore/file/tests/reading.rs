use std::os::unix::fs::symlink;

use super::*;
use crate::datastore::file::reader::Reader;
use crate::model::problem::Place;

const LISTED: &str = r#"{"apiVersion": "projectcalico.org/v3", "kind": "TierList", "items": [
    {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "e"}, "spec": {"order": "x"}},
    {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "f"}, "spec": {}}]}"#;

#[test]
fn manifests_of_a_directory_become_one_snapshot() {
    let manifests = Manifests::new();
    manifests.write("b.yaml", format!("{}---\n{}", tier("a", 1), tier("b", 2)));
    manifests.write("c.yml", tier("c", 3));
    manifests.write("d.json", LISTED);
    for ignored in [
        ".hidden.yaml",
        "x.yaml~",
        "#x.yaml#",
        "x.yaml.swp",
        "README",
        "x.txt",
        ".#x.yaml",
    ] {
        manifests.write(ignored, "{");
    }
    fs::create_dir(manifests.path().join("sub.yaml")).unwrap();
    let view = read_directory(manifests.path());
    assert!(view.in_sync);
    assert_eq!((view.state, view.revision), (State::InSync, 1));
    assert_eq!(names(&view), ["a", "b", "c", "f"]);
    assert_eq!(
        told(&view, &manifests),
        ["d.json:2: Tier(e): spec.order: found \"x\", expected a number"]
    );
}

#[test]
fn an_empty_directory_is_in_sync() {
    let manifests = Manifests::new();
    let view = read_directory(manifests.path());
    assert!(view.in_sync && view.snapshot.is_empty() && view.problems.is_empty());
}

#[test]
fn a_missing_directory_is_not_in_sync() {
    let manifests = Manifests::new();
    let view = read_directory(&manifests.path().join("absent"));
    assert!(!view.in_sync && view.snapshot.is_empty());
    assert_eq!(view.state.name(), "unreachable");
    let problem = view.problems[0].to_string();
    assert!(problem.contains("absent (No such file or directory"), "{problem}");
    manifests.write("file", "");
    assert_eq!(
        read_directory(&manifests.path().join("file")).state,
        State::Unreachable
    );
}

#[test]
fn on_the_first_read_a_bad_document_leaves_the_rest() {
    let manifests = Manifests::new();
    manifests.write(
        "a.yaml",
        format!("{}---\nkind: [\n---\n{}", tier("a", 1), tier("b", 2)),
    );
    manifests.write("c.yaml", tier("c", 3));
    let view = read_directory(manifests.path());
    assert_eq!(names(&view), ["a", "b", "c"]);
    assert_eq!(
        told(&view, &manifests),
        ["a.yaml:8: found unclosed bracket '[', expected YAML"]
    );
}

#[test]
fn a_syntax_error_keeps_the_last_good_content_of_that_file() {
    let manifests = Manifests::new();
    manifests.write("a.yaml", format!("{}---\n{}", tier("a", 1), tier("b", 2)));
    manifests.write("c.yaml", tier("c", 3));
    let mut reader = Reader::new(manifests.path().to_owned());
    reader.read();
    manifests.write("a.yaml", format!("{}---\nkind: [\n", tier("a", 10)));
    manifests.write("c.yaml", tier("c", 30));
    let view = reader.read();
    assert_eq!(names(&view), ["a", "b", "c"]);
    assert_eq!(
        (order_of(&view, "a"), order_of(&view, "c")),
        (Some(1.0), Some(30.0))
    );
    assert_eq!(view.problems.len(), 1);
    assert_eq!(view.problems[0].consequence, Consequence::LastGoodKept);
    manifests.write("a.yaml", tier("a", 100));
    let view = reader.read();
    assert_eq!(names(&view), ["a", "c"]);
    assert_eq!((order_of(&view, "a"), view.problems.len()), (Some(100.0), 0));
}

#[test]
fn a_file_that_was_never_whole_gives_what_is_good_now() {
    let manifests = Manifests::new();
    let mut reader = Reader::new(manifests.path().to_owned());
    manifests.write("a.yaml", format!("{}---\nkind: [\n", tier("a", 1)));
    assert_eq!(names(&reader.read()), ["a"]);
    manifests.write("a.yaml", format!("{}---\nkind: [\n", tier("b", 1)));
    assert_eq!(names(&reader.read()), ["b"]);
}

#[test]
fn an_object_that_no_longer_decodes_keeps_its_last_good_version() {
    let manifests = Manifests::new();
    let policy = |selector: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  selector: {selector}\n"
        )
    };
    manifests.write("a.yaml", policy("has(a)"));
    let mut reader = Reader::new(manifests.path().to_owned());
    let good = reader.read();
    manifests.write("a.yaml", format!("{}---\n{}", tier("t", 1), policy("has(a")));
    let view = reader.read();
    assert_eq!(view.snapshot.values().next(), good.snapshot.values().next());
    assert_eq!(names(&view), ["p", "t"]);
    assert_eq!(
        told(&view, &manifests),
        [
            "a.yaml:12: GlobalNetworkPolicy(p): spec.selector: found the end at column 6, expected `)` after the label"
        ]
    );
    assert_eq!(view.problems[0].consequence, Consequence::LastGoodKept);
    manifests.write("a.yaml", tier("t", 1));
    assert_eq!(
        names(&reader.read()),
        ["t"],
        "a deleted object is not a broken one"
    );
}

#[test]
fn deleted_files_take_their_objects_away() {
    let manifests = Manifests::new();
    manifests.write("a.yaml", tier("a", 1));
    manifests.write("b.yaml", "{");
    let mut reader = Reader::new(manifests.path().to_owned());
    assert_eq!(reader.read().problems.len(), 1);
    fs::remove_file(manifests.path().join("a.yaml")).unwrap();
    fs::remove_file(manifests.path().join("b.yaml")).unwrap();
    let view = reader.read();
    assert!(view.in_sync && view.snapshot.is_empty() && view.problems.is_empty());
}

#[test]
fn the_first_of_two_objects_with_one_name_counts() {
    let manifests = Manifests::new();
    manifests.write("b.yaml", format!("{}---\n{}", tier("x", 3), tier("y", 4)));
    manifests.write("a.yaml", format!("{}---\n{}", tier("x", 1), tier("x", 2)));
    let view = read_directory(manifests.path());
    assert_eq!(
        (order_of(&view, "x"), order_of(&view, "y")),
        (Some(1.0), Some(4.0))
    );
    assert_eq!(
        told(&view, &manifests),
        [
            "a.yaml:8: Tier(x): found the name of a.yaml:1, expected a name of its own (the first one counts)",
            "b.yaml:1: Tier(x): found the name of a.yaml:1, expected a name of its own (the first one counts)",
        ]
    );
}

#[test]
fn a_file_of_100_megabytes_is_refused_with_one_line() {
    let manifests = Manifests::new();
    manifests.write("a.yaml", tier("a", 1));
    let mut reader = Reader::new(manifests.path().to_owned());
    reader.read();
    let huge = fs::File::create(manifests.path().join("a.yaml")).unwrap();
    huge.set_len(100 * 1024 * 1024).unwrap();
    let view = reader.read();
    assert_eq!(names(&view), ["a"]);
    assert_eq!(
        told(&view, &manifests),
        [
            "a.yaml:1: found 104857600 bytes or more, expected a file of at most 16 MiB (its objects may be split over \
          several files)"
        ]
    );
}

#[test]
fn files_that_are_no_text_are_told() {
    let manifests = Manifests::new();
    manifests.write("a.yaml", b"a: 1\nb: \xff\n");
    symlink("nowhere", manifests.path().join("b.yaml")).unwrap();
    symlink("/dev/zero", manifests.path().join("c.yaml")).unwrap();
    manifests.write("real", tier("d", 1));
    symlink("real", manifests.path().join("d.yaml")).unwrap();
    let view = read_directory(manifests.path());
    assert_eq!(names(&view), ["d"]);
    assert_eq!(
        told(&view, &manifests),
        [
            "a.yaml:2: found byte 0xff, expected text in UTF-8",
            "b.yaml:1: found No such file or directory (os error 2), expected a readable file",
            "c.yaml:1: found no regular file, expected a regular file",
        ]
    );
}

#[test]
fn a_directory_that_vanishes_keeps_the_last_good_snapshot_and_recovers() {
    let manifests = Manifests::new();
    let dir = manifests.path().join("d");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), tier("a", 1)).unwrap();
    let mut reader = Reader::new(dir.clone());
    reader.read();
    fs::remove_dir_all(&dir).unwrap();
    assert!(reader.is_stale());
    let view = reader.read();
    assert!(view.in_sync);
    assert_eq!(
        (names(&view), view.state, view.problems.len()),
        (vec!["a"], State::Unreachable, 1)
    );
    assert_eq!(view.problems[0].consequence, Consequence::LastGoodKept);
    assert_eq!(reader.read().problems.len(), 1);
    assert!(!reader.is_stale());
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("b.yaml"), tier("b", 1)).unwrap();
    assert!(reader.is_stale());
    let view = reader.read();
    assert_eq!(
        (names(&view), view.state, view.problems.len()),
        (vec!["b"], State::InSync, 0)
    );
}

#[test]
fn problems_of_one_file_are_limited() {
    let manifests = Manifests::new();
    let rules = "  - action: Nothing\n".repeat(3000);
    manifests.write(
        "a.yaml",
        format!("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  ingress:\n{rules}"),
    );
    let view = read_directory(manifests.path());
    assert_eq!(view.problems.len(), 201);
    assert!(
        view.problems
            .iter()
            .any(|problem| problem.found == "2800 more problems")
    );
    let rules = "  - action: Nothing\n".repeat(100);
    let policy = |number: usize| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p{number}}}\nspec:\n  ingress:\n{rules}"
        )
    };
    manifests.write("a.yaml", (0..12).map(policy).collect::<String>());
    let view = read_directory(manifests.path());
    assert_eq!(view.problems.len(), 1001);
    assert!(
        view.problems
            .iter()
            .any(|problem| problem.found == "200 more problems")
    );
}

#[test]
fn validation_counts_objects_by_kind_and_places_problems() {
    let manifests = Manifests::new();
    manifests.write("a.yaml", format!("{}---\n{}", tier("a", 1), tier("b", 2)));
    manifests.write("b.yaml", "apiVersion: projectcalico.org/v3\nkind: Policy\n");
    let report = validate(manifests.path());
    assert_eq!(report.objects, BTreeMap::from([(Kind::Tier, 2)]));
    let place = Place {
        file: manifests.path().join("b.yaml").display().to_string(),
        line: 2,
    };
    assert_eq!(report.problems[0].place, Some(place));
    assert_eq!(serde_json::to_value(&report).unwrap()["objects"]["Tier"], 2);
    let report = validate(&manifests.path().join("a.yaml"));
    assert_eq!((report.objects[&Kind::Tier], report.problems.len()), (2, 0));
    assert_eq!(validate(&manifests.path().join("absent")).problems.len(), 1);
}

#[test]
fn a_policy_that_lost_a_rule_keeps_its_last_good_version() {
    let manifests = Manifests::new();
    let policy = |port: u32| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  ingress: [{{action: Allow, protocol: TCP, destination: {{ports: [{port}]}}}}]\n"
        )
    };
    manifests.write("a.yaml", policy(80));
    let mut reader = Reader::new(manifests.path().to_owned());
    let good = reader.read();
    for _ in 0..2 {
        manifests.write("a.yaml", policy(80_000));
        let view = reader.read();
        assert_eq!(view.snapshot, good.snapshot);
        assert_eq!(view.problems[0].consequence, Consequence::LastGoodKept);
        manifests.write("a.yaml", format!("{}# again\n", policy(80_000)));
        assert_eq!(reader.read().snapshot, good.snapshot);
    }
    manifests.write("a.yaml", policy(81));
    let mended = reader.read();
    assert_ne!(mended.snapshot, good.snapshot);
    assert!(mended.problems.is_empty());
}

#[test]
fn a_misspelt_kind_keeps_the_objects_of_its_file_and_one_that_is_not_read_does_not() {
    let manifests = Manifests::new();
    manifests.write("a.yaml", tier("t", 1));
    let mut reader = Reader::new(manifests.path().to_owned());
    let good = reader.read();
    manifests.write("a.yaml", tier("t", 2).replace("Tier", "Teir"));
    let view = reader.read();
    assert_eq!(view.snapshot, good.snapshot);
    assert_eq!(view.problems[0].consequence, Consequence::LastGoodKept);
    manifests.write(
        "a.yaml",
        format!("{}---\n{}", tier("u", 2), tier("t", 2).replace("Tier", "BGPPeer")),
    );
    let view = reader.read();
    assert_eq!(names(&view), ["u"]);
    assert_eq!(view.problems.len(), 1);
}
