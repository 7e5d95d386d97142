//! Names, certificates, users and rights: what works, and what is said when it does not.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use calico_ebpf_tests::etcd::certificates::{Authority, CertificateFiles};
use calico_ebpf_tests::etcd::{Etcd, Setup};
use calico_ebpf_tests::following::{Follower, Seen};
use calico_ebpf_tests::manifests::{cluster_information, tier};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_userspace::config::Config;
use calico_ebpf_userspace::datastore::feed::State;
use calico_ebpf_userspace::model::name::Kind;
use etcd_client::Permission;
use nix::mount::{MsFlags, mount};
use tempfile::{TempDir, tempdir};

const PASSWORD: &str = "correct horse battery staple";

fn fill(etcd: &Etcd) {
    etcd.put_objects(&[cluster_information(true), tier("a", 1, "Deny")]);
}

fn config(endpoint: &str) -> Config {
    Config {
        etcd_endpoints: vec![endpoint.to_owned()],
        ..Config::default()
    }
}

#[track_caller]
fn expect_in_sync(namespace: &Arc<Netns>, config: Config) {
    let follower = Follower::of_etcd(namespace, config);
    let seen = follower.wait_for("in sync", Seen::is_in_sync);
    assert_eq!(seen.names(), ["a", "default"]);
}

/// Expects that nothing is read, with these words in the reason and without the password.
#[track_caller]
fn expect_refusal(namespace: &Arc<Netns>, config: Config, words: &str) {
    let follower = Follower::of_etcd(namespace, config);
    let seen = follower.wait_for(words, |seen| {
        seen.status.state == State::Unreachable && seen.status.reason.contains(words)
    });
    assert!(!seen.status.in_sync && seen.snapshot.is_empty(), "{seen:?}");
    assert!(!seen.status.reason.contains(PASSWORD), "{}", seen.status.reason);
}

/// A server with TLS on 127.0.0.1, its authority, and a client's certificate.
struct Secured {
    etcd: Etcd,
    authority: Authority,
    client: CertificateFiles,
    files: TempDir,
}

impl Secured {
    fn new(needs_client: bool, server: impl FnOnce(&Authority) -> CertificateFiles) -> Self {
        let files = tempdir().expect("a directory");
        let authority = Authority::new(files.path(), "authority");
        let etcd = Setup::new(&Arc::new(Netns::host()))
            .with_tls(&authority, server(&authority), needs_client)
            .start();
        fill(&etcd);
        Self {
            client: authority.client("client"),
            etcd,
            authority,
            files,
        }
    }

    fn config(&self) -> Config {
        Config {
            etcd_ca_file: Some(self.authority.file().to_owned()),
            ..config(&self.etcd.endpoint())
        }
    }

    fn with_identity(&self, identity: &CertificateFiles) -> Config {
        Config {
            etcd_cert_file: Some(identity.certificate.clone()),
            etcd_key_file: Some(identity.key.clone()),
            ..self.config()
        }
    }

    fn namespace(&self) -> &Arc<Netns> {
        self.etcd.namespace()
    }
}

#[test]
fn certificates_are_checked_both_ways() {
    let secured = Secured::new(true, |authority| authority.server(&["localhost", "127.0.0.1"]));
    let (namespace, good) = (secured.namespace(), secured.with_identity(&secured.client));
    expect_in_sync(namespace, good.clone());

    expect_refusal(namespace, secured.config(), "it does not take our certificate");
    let foreign = Authority::new(secured.files.path(), "foreign");
    let stranger = secured.with_identity(&foreign.client("stranger"));
    expect_refusal(namespace, stranger, "it does not take our certificate");
    let wrong_authority = Config {
        etcd_ca_file: Some(foreign.file().to_owned()),
        ..good.clone()
    };
    expect_refusal(
        namespace,
        wrong_authority,
        "https://127.0.0.1:2379: its certificate comes from an authority that is unknown here",
    );
    let half = Config {
        etcd_key_file: None,
        ..good.clone()
    };
    expect_refusal(namespace, half, "EtcdCertFile and EtcdKeyFile belong together");
    let absent = Config {
        etcd_ca_file: Some("/nowhere/ca.pem".into()),
        ..good.clone()
    };
    expect_refusal(namespace, absent, "EtcdCaFile: cannot read /nowhere/ca.pem");
    let plain = config("http://127.0.0.1:2379");
    expect_refusal(namespace, plain, "use https:// in EtcdEndpoints");
}

#[test]
fn a_certificate_must_have_the_name_and_the_time() {
    let other_name = Secured::new(false, |authority| authority.server(&["etcd.example.org"]));
    expect_refusal(
        other_name.namespace(),
        other_name.config(),
        "its certificate is not for this name",
    );
    let names = [("etcd.example.org", "127.0.0.1")];
    let _directory = put_hosts(other_name.namespace(), &names);
    let by_name = Config {
        etcd_endpoints: vec!["https://etcd.example.org:2379".to_owned()],
        ..other_name.config()
    };
    expect_in_sync(other_name.namespace(), by_name);
}

#[test]
fn an_expired_certificate_is_named_as_such() {
    let files = tempdir().expect("a directory");
    let authority = Authority::new(files.path(), "authority");
    let server = authority.server(&["127.0.0.1"]);
    let good = Setup::new(&Arc::new(Netns::guest()))
        .with_tls(&authority, server.clone(), false)
        .start();
    let old = authority.expired_server(&["127.0.0.1"]);
    // The files are read at each handshake, by etcd as by us.
    fs::copy(&old.certificate, &server.certificate).expect("replace the certificate");
    fs::copy(&old.key, &server.key).expect("replace the key");
    let config = Config {
        etcd_ca_file: Some(authority.file().to_owned()),
        ..config(&good.endpoint())
    };
    let follower = Follower::of_etcd(good.namespace(), config);
    follower.wait_for("the certificate has expired", |seen| {
        seen.status.reason.contains("its certificate has expired")
    });
    authority.server(&["127.0.0.1"]);
    fill(&good);
    follower.wait_for("the renewed one counts", Seen::is_in_sync);
}

#[test]
fn a_renewed_authority_needs_no_restart() {
    let secured = Secured::new(false, |authority| authority.server(&["127.0.0.1"]));
    let file = secured.files.path().join("current.pem");
    fs::write(&file, "not yet").expect("write");
    let config = Config {
        etcd_ca_file: Some(file.clone()),
        ..secured.config()
    };
    let follower = Follower::of_etcd(secured.namespace(), config);
    follower.wait_for("the file is no use", |seen| {
        seen.status.reason.contains("holds no CERTIFICATE")
    });
    fs::copy(secured.authority.file(), &file).expect("copy the authority");
    follower.wait_for("in sync", Seen::is_in_sync);
}

#[test]
fn names_are_looked_up_in_the_hosts_file_and_addresses_need_none() {
    let namespace = Arc::new(Netns::host());
    let etcd = Setup::new(&namespace)
        .at("::1".parse::<IpAddr>().expect("an address"))
        .start();
    fill(&etcd);
    let _directory = put_hosts(&namespace, &[("etcd-1", "::1"), ("nobody", "127.0.0.1")]);
    expect_in_sync(&namespace, config("http://etcd-1:2379"));
    expect_in_sync(&namespace, config("http://[::1]:2379"));
    expect_in_sync(&namespace, config("http://etcd-1"));
    expect_refusal(
        &namespace,
        config("http://nobody:2379"),
        "http://nobody:2379: connection refused; does etcd run there",
    );
    expect_refusal(
        &namespace,
        config("http://etcd.invalid:2379"),
        "the name etcd.invalid is not known",
    );
    expect_refusal(
        &namespace,
        config("http://192.0.2.77:2379"),
        "is there a route to it?",
    );
    expect_refusal(
        &namespace,
        config("https://[::1]:2379"),
        "use http:// in EtcdEndpoints",
    );
}

/// The mounts of a namespace get a hosts file and a `resolv.conf` without servers.
fn put_hosts(namespace: &Netns, names: &[(&str, &str)]) -> TempDir {
    let directory = tempdir().expect("a directory");
    let lines: Vec<_> = names
        .iter()
        .map(|(name, address)| format!("{address} {name}\n"))
        .collect();
    fs::write(directory.path().join("hosts"), lines.concat()).expect("write hosts");
    fs::write(directory.path().join("resolv.conf"), "").expect("write resolv.conf");
    namespace.run(|| {
        for file in ["hosts", "resolv.conf"] {
            let target = Path::new("/etc").join(file);
            mount(
                Some(&directory.path().join(file)),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .expect("bind mount");
        }
    });
    directory
}

/// Rights to read exactly what the agent reads, but for one kind.
fn rights_but_for(left_out: Option<Kind>) -> Vec<Permission> {
    let kinds = Kind::ALL.iter().filter(|kind| Some(**kind) != left_out);
    kinds
        .map(|kind| {
            let name = kind.as_str().to_ascii_lowercase();
            let plural = name
                .strip_suffix('y')
                .map_or_else(|| format!("{name}s"), |stem| format!("{stem}ies"));
            Permission::read(format!("/calico/resources/v3/projectcalico.org/{plural}/")).with_prefix()
        })
        .collect()
}

#[test]
fn a_user_needs_the_password_and_the_rights_and_no_more() {
    let mut etcd = Etcd::start(&Arc::new(Netns::guest()));
    fill(&etcd);
    let namespace = Arc::clone(etcd.namespace());
    let user = |name: &str, password: &str| Config {
        etcd_username: Some(name.to_owned()),
        etcd_password: Some(password.to_owned()),
        ..config("http://127.0.0.1:2379")
    };
    expect_in_sync(&namespace, user("agent", PASSWORD));
    etcd.enable_auth("root's");
    etcd.add_user("agent", PASSWORD, &rights_but_for(None));
    etcd.add_user("poor", PASSWORD, &rights_but_for(Some(Kind::NetworkPolicy)));
    expect_in_sync(&namespace, user("agent", PASSWORD));
    expect_refusal(
        &namespace,
        config("http://127.0.0.1:2379"),
        "it asks who we are; set EtcdUsername and EtcdPassword",
    );
    for (name, password) in [("agent", "wrong"), ("nobody", PASSWORD)] {
        expect_refusal(&namespace, user(name, password), "wrong user name or password");
    }
    expect_refusal(
        &namespace,
        user("poor", PASSWORD),
        "our user may not read /calico/resources/v3/projectcalico.org/networkpolicies/; `etcdctl role grant-permission`",
    );
}

#[test]
fn tokens_that_expire_are_renewed() {
    let mut etcd = Setup::new(&Arc::new(Netns::guest()))
        .with("--auth-token-ttl=1")
        .start();
    fill(&etcd);
    etcd.enable_auth("root's");
    etcd.add_user("agent", PASSWORD, &rights_but_for(None));
    let config = Config {
        etcd_username: Some("agent".to_owned()),
        etcd_password: Some(PASSWORD.to_owned()),
        ..config(&etcd.endpoint())
    };
    let follower = Follower::of_etcd(etcd.namespace(), config);
    follower.wait_for("in sync", Seen::is_in_sync);
    for order in 2..5 {
        // A restart forgets all tokens, too.
        etcd.restart();
        etcd.put_object(&tier("a", order, "Pass"));
        etcd.put_object(&tier(&format!("new-{order}"), order, "Deny"));
        follower.wait_for("a change", |seen| {
            seen.is_in_sync() && seen.names().len() == usize::try_from(order).unwrap_or_default() + 1
        });
    }
}
