//! The scripts on nodes that are folders: what each check finds, says and leaves behind.

mod node;

use std::fs;

use node::{NEW, NEW_ENTRY, Node, OLD, OLD_ENTRY};

#[test]
fn the_old_kernel_stays_the_default_while_the_new_one_is_tried() {
    let node = Node::new();
    let ending = node.run("try --policy iptables");
    assert!(ending.succeeded, "{}", ending.words);
    let environment = node.read("boot/grub/grubenv");
    assert!(environment.contains(OLD_ENTRY), "{environment}");
    assert!(
        environment.contains("next_entry=calico-kernel-try"),
        "{environment}"
    );
    let menu = node.read("boot/grub/grub.cfg");
    let entry = menu
        .split("--id calico-kernel-try {")
        .nth(1)
        .expect("an entry for the try");
    assert!(
        entry.contains(&format!(
            "/vmlinuz-{NEW} root=UUID=7d7c ro console=ttyS0 panic=60\n"
        )),
        "{entry}"
    );
    assert_eq!(menu.matches("panic=60").count(), 1, "{menu}");
    assert_eq!(node.read("etc/default/grub"), "GRUB_DEFAULT=0\n");
    assert_eq!(node.read("facts/held"), format!("linux-image-{OLD}\n"));
}

#[test]
fn every_command_changes_nothing_the_second_time() {
    let node = Node::new();
    for step in ["try", "verify", "remove"] {
        let first = node.run(&format!("{step} --policy fail"));
        assert!(first.succeeded, "{step}: {}", first.words);
        let after = node.inventory();
        if step == "try" {
            let early = node.run("verify --policy fail");
            assert!(
                !early.succeeded && early.words.contains("did not happen"),
                "{}",
                early.words
            );
        }
        let second = node.run(&format!("{step} --policy fail"));
        assert!(second.succeeded, "{step}: {}", second.words);
        assert_eq!(node.inventory(), after, "{step}");
        node.boot(if step == "remove" { OLD } else { NEW });
    }
}

#[test]
fn a_verified_kernel_becomes_the_default_and_the_next_boot_is_no_try() {
    let node = Node::tried();
    let ending = node.run("verify --policy iptables");
    assert!(
        ending.succeeded && ending.words.contains("the default now"),
        "{}",
        ending.words
    );
    assert!(node.read("boot/grub/grubenv").contains(NEW_ENTRY));
    assert!(!node.read("boot/grub/grub.cfg").contains("panic=60"));
    assert!(!node.path("etc/init/calico-kernel-deadline.conf").exists());
    assert_eq!(node.marker(), "");
}

#[test]
fn a_removed_kernel_leaves_the_node_as_it_was() {
    let node = Node::new();
    let before = node.inventory();
    assert!(node.run("try --policy fail").succeeded);
    node.boot(NEW);
    assert!(node.run("verify --policy fail").succeeded);
    let ending = node.run("remove");
    assert!(
        ending.succeeded && ending.words.contains("reboot"),
        "{}",
        ending.words
    );
    assert!(
        node.path(&format!("boot/vmlinuz-{NEW}")).exists(),
        "the running kernel stays"
    );
    assert!(node.read("boot/grub/grubenv").contains(OLD_ENTRY));
    node.boot(OLD);
    let ending = node.run("remove");
    assert!(ending.succeeded, "{}", ending.words);
    assert_eq!(node.inventory(), before);
    assert!(!node.path("var/lib/calico-kernel").exists());
    assert_eq!(node.read("facts/held"), "");
}

#[test]
fn a_kernel_that_did_not_come_up_leaves_the_old_one_and_why() {
    let node = Node::tried();
    node.boot(OLD);
    let ending = node.run("verify --policy iptables");
    assert!(ending.succeeded, "{}", ending.words);
    ending.has_one_reason(&format!("{NEW} did not come up"));
    assert!(node.marker().contains("did not come up"));
    assert!(node.read("boot/grub/grubenv").contains(OLD_ENTRY));
    let again = node.run("try --policy iptables");
    assert!(again.succeeded, "{}", again.words);
    again.has_one_reason("did not come up");
    assert!(
        !node.read("boot/grub/grubenv").contains("next_entry"),
        "it is not tried again"
    );
    let strict = node.run("verify --policy fail");
    assert!(!strict.succeeded);
    strict.has_one_reason("did not come up");
}

/// After a try, what is missing on the new kernel.
fn fails_verification(node: &Node, found: &str) {
    let ending = node.run("verify --policy iptables");
    assert!(ending.succeeded, "{}", ending.words);
    ending.has_one_reason(found);
    assert!(
        ending
            .words
            .contains(&format!("until its next boot, then on {OLD}")),
        "{}",
        ending.words
    );
    assert!(node.marker().contains(found), "{}", node.marker());
    assert!(
        node.read("boot/grub/grubenv").contains(OLD_ENTRY),
        "the old kernel is the default"
    );
    let strict = node.run("verify --policy fail");
    assert!(!strict.succeeded, "{}", strict.words);
    strict.has_one_reason(found);
    assert!(
        strict
            .words
            .contains(&format!("the old kernel {OLD} is booted in a minute")),
        "{}",
        strict.words
    );
    assert_eq!(node.marker(), "");
}

#[test]
fn a_node_without_btf_is_not_made_default() {
    let node = Node::tried();
    fs::remove_file(node.path("sys/kernel/btf/vmlinux")).expect("it was there");
    fails_verification(&node, "has no /sys/kernel/btf/vmlinux");
}

#[test]
fn a_card_that_lost_its_link_is_told_with_the_firmware_that_it_lacks() {
    let node = Node::tried();
    node.put("sys/class/net/eth0/carrier", "0\n");
    node.put(
        "facts/kernel-log",
        "[ 2.0] bnx2x 0000:01:00.0: Direct firmware load for bnx2x/e2.fw failed with error -2\n",
    );
    fails_verification(
        &node,
        "eth0 (52:54:00:00:00:01) was up before and is not (firmware bnx2x/e2.fw is missing)",
    );
}

#[test]
fn a_card_under_another_name_is_told() {
    let node = Node::tried();
    fs::rename(node.path("sys/class/net/eth0"), node.path("sys/class/net/eth1")).expect("it was there");
    fails_verification(&node, "eth0 (52:54:00:00:00:01) was up before and does not exist");
}

#[test]
fn what_the_agent_misses_is_in_the_reason() {
    let node = Node::tried();
    node.put(
        "facts/agent-says-no",
        "This host cannot run calico-ebpf (kernel 6.1):\n  BPF JIT: not compiled\n  tun: none\n",
    );
    fails_verification(
        &node,
        "'calico-ebpf check' says no on 6.1.0-56-amd64: BPF JIT: not compiled; tun: none",
    );
}

#[test]
fn an_agent_that_fails_without_a_word_has_not_passed() {
    let node = Node::tried();
    node.put("facts/agent-says-no", "");
    fails_verification(&node, "'calico-ebpf check' says no");
}

#[test]
fn a_node_without_an_agent_to_ask_is_not_made_default() {
    let node = Node::tried();
    fs::remove_file(node.path("bin/calico-ebpf")).expect("it was there");
    fails_verification(&node, "there is no calico-ebpf here");
}

#[test]
fn a_full_boot_partition_stops_before_harm() {
    let node = Node::new();
    node.put("facts/boot-megabytes", "79");
    node.stops_before_harm("/boot has 79 MB free, the kernel needs 80");
    node.put("facts/boot-megabytes", "80");
    assert!(
        node.run("try --policy fail").succeeded,
        "enough is enough, also after a failure"
    );
}

#[test]
fn a_full_root_stops_before_harm() {
    let node = Node::new();
    node.put("facts/root-megabytes", "599");
    node.stops_before_harm("/ has 599 MB free, the kernel needs 600");
}

#[test]
fn mount_options_that_the_new_kernel_refuses_stop_before_harm() {
    let node = Node::new();
    node.put(
        "etc/fstab",
        "# /data xfs delaylog\n\nUUID=1 /data xfs noatime,delaylog,nobarrier,logbsize=256k 0 2\n",
    );
    node.stops_before_harm("/etc/fstab mounts /data (xfs) with delaylog nobarrier, which Linux 6.1 refuses");
    node.put(
        "etc/fstab",
        "UUID=1 / ext4 errors=remount-ro,nobarrier,data=ordered,x-systemd.automount 0 1\n",
    );
    node.put("proc/mounts", "/dev/vda2 / xfs rw 0 0\n");
    node.put(
        "proc/cmdline",
        "root=UUID=7d7c ro rootflags=inode64,osyncisdsync quiet\n",
    );
    node.stops_before_harm("mounts / (xfs) with osyncisdsync");
}

#[test]
fn a_boot_folder_where_grub_cannot_write_stops_before_harm() {
    for (fact, value, found) in [
        (
            "abstraction",
            "lvm",
            "/boot/grub is on lvm where GRUB cannot take back a one-time boot",
        ),
        (
            "abstraction",
            "diskfilter\nmdraid1x",
            "/boot/grub is on diskfilter mdraid1x where",
        ),
        ("filesystem", "btrfs", "/boot/grub is on btrfs"),
    ] {
        let node = Node::new();
        node.put(&format!("facts/{fact}"), &format!("{value}\n"));
        node.stops_before_harm(found);
    }
}

#[test]
fn a_node_of_32_bits_stops_before_harm() {
    for (fact, value) in [("machine", "i686"), ("userland", "i386")] {
        let node = Node::new();
        node.put(&format!("facts/{fact}"), value);
        node.stops_before_harm(value);
    }
}

#[test]
fn a_package_that_was_downloaded_only_by_half_is_taken_back() {
    let node = Node::new();
    node.put(
        "facts/apt-fault",
        "E: Failed to fetch http://10.20.0.2:8080/kernel.deb  Hash Sum mismatch\n",
    );
    node.stops_before_harm("Hash Sum mismatch");
}

#[test]
fn half_an_initial_file_system_is_not_booted() {
    let node = Node::new();
    node.put("facts/half-initrd", "");
    node.stops_before_harm(&format!("/boot/initrd.img-{NEW} is damaged"));
}

#[test]
fn virtual_machines_stop_the_deployment_whatever_the_policy_is() {
    for (file, text) in [
        ("facts/guests", "instance-00000001\n"),
        ("proc/4711/comm", "qemu-system-x86\n"),
    ] {
        let node = Node::new();
        node.put(file, text);
        let before = node.inventory();
        for policy in ["iptables", "fail"] {
            let ending = node.run(&format!("try --policy {policy}"));
            assert!(!ending.succeeded, "{}", ending.words);
            ending.has_one_reason("virtual machines run here");
        }
        assert_eq!(node.inventory(), before);
        assert_eq!(node.marker(), "");
    }
}

#[test]
fn a_default_of_the_operator_comes_back_with_the_old_kernel() {
    let node = Node::new();
    node.put("boot/grub/grubenv", "saved_entry=mine\n");
    assert!(node.run("try --policy fail").succeeded);
    assert!(node.run("remove").succeeded);
    assert_eq!(node.read("boot/grub/grubenv"), "saved_entry=mine\n");
}

#[test]
fn a_kernel_that_is_kept_is_judged_and_nothing_is_changed() {
    let node = Node::new();
    let before = node.inventory();
    assert!(node.run("keep --policy fail").succeeded);
    fs::remove_file(node.path("sys/kernel/btf/vmlinux")).expect("it was there");
    let ending = node.run("keep --policy iptables");
    assert!(ending.succeeded, "{}", ending.words);
    ending.has_one_reason("has no /sys/kernel/btf/vmlinux");
    assert!(node.marker().contains("CONFIG_DEBUG_INFO_BTF"));
    assert_eq!(node.inventory(), before);
    node.put("sys/kernel/btf/vmlinux", "types");
    assert!(node.run("keep --policy fail").succeeded);
    assert_eq!(node.marker(), "", "what was missing is there");
}

#[test]
fn unknown_words_are_refused() {
    let node = Node::new();
    for words in [
        "try --policy maybe",
        "try --policy",
        "boot",
        "try --now",
        "try --deadline soon",
    ] {
        assert!(!node.run(words).succeeded, "{words}");
    }
}
