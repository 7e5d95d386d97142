//! What is refused, and what was begun and not ended.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use calico_ebpf_tests::felix::{Felix, Iptables, rules_of, write_foreign_rules};
use calico_ebpf_tests::guest::Vm;
use calico_ebpf_tests::manifests::workload_endpoint;
use calico_ebpf_tests::snapshot::Snapshot;

use super::{said, scene};

#[test]
fn adopt_is_refused_without_a_running_agent_and_nothing_is_changed() {
    let (scene, felix) = scene(Iptables::Nft, Some(1024));
    let host = scene.host().namespace();
    felix.write(host);
    let rules = rules_of(host);
    let never_run = scene.launcher().run(&["adopt"]);
    assert!(said(&never_run, 3).contains("No agent has run here"));
    scene.start_agent().kill();
    let killed = scene.launcher().run(&["adopt", "--force"]);
    assert!(said(&killed, 1).contains("our agent does not run\n    Start it"));
    assert_eq!(rules_of(host), rules);
}

#[test]
fn adopt_is_refused_while_felix_runs_also_by_force() {
    let (scene, felix) = scene(Iptables::Nft, Some(1024));
    let host = scene.host().namespace();
    felix.write(host);
    let _agent = scene.start_agent();
    let rules = rules_of(host);
    let process = Felix::process(host);
    let refused = scene.launcher().run(&["adopt", "--force"]);
    assert!(said(&refused, 1).contains("Felix runs (pid"));
    assert_eq!(rules_of(host), rules);
    drop(process);
    said(&scene.launcher().run(&["adopt"]), 0);
    assert!(!rules_of(host).contains("cali-"));
}

#[test]
fn adopt_waits_for_an_endpoint_without_a_tap_unless_it_is_forced() {
    let (scene, felix) = scene(Iptables::Nft, Some(1024));
    let host = scene.host().namespace();
    felix.write(host);
    let absent = Vm::new("absent", 9);
    scene.manifests().put(&workload_endpoint(&absent));
    let mut agent = scene.start_agent();
    agent.wait_for("three endpoints", |report| report.endpoints.len() == 3);
    let rules = rules_of(host);
    let refused = said(&scene.launcher().run(&["adopt"]), 1);
    assert!(
        refused.contains(&format!("{} is waiting", absent.interface())),
        "{refused}"
    );
    assert_eq!(rules_of(host), rules);
    let forced = said(&scene.launcher().run(&["adopt", "--force"]), 0);
    assert!(forced.contains(&absent.interface()), "{forced}");
    assert!(!rules_of(host).contains("cali-"));
}

#[test]
fn adopt_is_refused_where_no_iptables_is_installed() {
    let (scene, felix) = scene(Iptables::Nft, Some(1024));
    felix.write(scene.host().namespace());
    let _agent = scene.start_agent();
    let rules = rules_of(scene.host().namespace());
    let refused = scene
        .launcher()
        .run_with_path("/nonexistent", &["adopt", "--force"]);
    assert!(said(&refused, 1).contains("no iptables is installed"));
    assert_eq!(rules_of(scene.host().namespace()), rules);
}

#[test]
fn adopt_that_was_killed_in_the_middle_is_finished_by_the_next() {
    let (scene, felix) = scene(Iptables::Legacy, None);
    let host = scene.host().namespace();
    write_foreign_rules(host, Iptables::Legacy);
    let before_felix = rules_of(host);
    felix.write(host);
    let with_felix = rules_of(host);
    let _agent = scene.start_agent();
    // A program that kills who calls it once it has changed the first table.
    let directory = scene.host().directory().join("deadly");
    fs::create_dir_all(&directory).expect("a directory");
    let deadly = directory.join("iptables-legacy-restore");
    fs::write(
        &deadly,
        "#!/bin/sh\n/usr/sbin/iptables-legacy-restore \"$@\"\nkill -9 $PPID\n",
    )
    .expect("a script");
    fs::set_permissions(&deadly, fs::Permissions::from_mode(0o755)).expect("rights");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.display());
    let killed = scene.launcher().run_with_path(&path, &["adopt"]);
    assert_eq!(killed.status.code(), None, "killed by a signal");
    let half = rules_of(host);
    assert_ne!(half, with_felix);
    assert_ne!(half, before_felix);
    said(&scene.launcher().run(&["adopt"]), 0);
    assert_eq!(rules_of(host), before_felix);
}

#[test]
fn release_is_refused_until_felix_judges_every_tap_and_nothing_is_changed() {
    let (scene, felix) = scene(Iptables::Nft, Some(1024));
    let host = scene.host().namespace();
    let agent = scene.start_agent();
    let refuse = |expected: &str| {
        let before = (rules_of(host), Snapshot::take(host));
        let text = said(&scene.launcher().run(&["release", "--force"]), 1);
        assert!(text.contains(expected), "{text}");
        assert_eq!(rules_of(host), before.0);
        Snapshot::take(host).assert_same_as(&before.1);
    };
    refuse("our agent runs");
    agent.kill();
    refuse("nothing of Felix in FORWARD of the table filter");
    felix.write(host);
    let not_running = said(&scene.launcher().run(&["release"]), 1);
    assert!(not_running.contains("Felix does not run"), "{not_running}");
    let _process = Felix::process(host);
    let tap = scene.guest("web").vm().interface();
    let rule = format!("cali-to-wl-dispatch -o {tap} -m comment");
    let saved = host.stdout("ip6tables-nft-save", &["-t", "filter"]);
    let way = saved
        .lines()
        .find(|line| line.contains(&rule))
        .expect("the rule is there");
    let way = way.strip_prefix("-A ").expect("a rule");
    felix.amend(host, true, &format!("*filter\n-D {way}\nCOMMIT\n"));
    refuse(&format!("ip6tables-nft: no way from FORWARD to cali-tw-{tap}"));
    felix.amend(host, true, &format!("*filter\n-I {way}\nCOMMIT\n"));
    said(&scene.launcher().run(&["release"]), 0);
    let again = scene.launcher().run(&["release"]);
    assert!(said(&again, 3).contains("No agent has run here"));
}
