//! The benchmarks of policy, small: that none of their rows rots unseen.

use std::process::{Command, Stdio};

use serde_json::Value;

/// Every row that the benchmarks promise, by how its name begins.
const ROWS: [&str; 22] = [
    "verdict_vs_rules/hot/1_rules",
    "verdict_vs_rules/cold/10_rules",
    "verdict_vs_rules/hot/10_sets",
    "class_lookup_100k/v4",
    "class_lookup_100k/v6",
    "prog_established/v4",
    "prog_established/v6",
    "prog_established/tcp4",
    "prog_established/tcp6",
    "path_new_flow/10_rules",
    "path_new_flow/linear_walk/10_rules",
    "path_vs_iptables/legacy/10_rules/established",
    "path_vs_iptables/nft/10_rules/new",
    "path_60k_flows",
    "path_gso_60k",
    "update_member/existing_class",
    "update_member/new_class",
    "update_policy",
    "full_sync",
    "memory/as_shipped",
    "ct_churn",
    "ct_flood/syn",
];

#[test]
fn a_quick_run_of_the_policy_benchmarks_gives_every_row_with_its_baseline() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["policy", "--quick", "--json"])
        // It sends packets too, and is no test.
        .env_remove("CALICO_EBPF_EVIDENCE")
        .stdin(Stdio::null())
        .output()
        .expect("the benchmarks start");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", output.status);
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let rows = document["rows"].as_array().expect("a list of rows");
    for name in ROWS {
        assert!(
            rows.iter().any(|row| row["name"] == name),
            "no row {name}: {rows:#?}"
        );
    }
    for row in rows {
        for field in ["value", "baseline_value", "ratio"] {
            // One round on a busy machine: the difference of two times may even be negative.
            let figure = row[field].as_f64().unwrap_or(f64::NAN);
            assert!(figure.is_finite(), "{field} of {row:#}");
        }
        for check in row["checks"].as_array().expect("a list of checks") {
            assert_eq!(check["holds"], true, "{}: {}", row["name"], check["what"]);
        }
    }
}
