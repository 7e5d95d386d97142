//! Real etcd servers (Debian's `etcd-server`) in network namespaces.
//!
//! Each server has a namespace's port 2379 and a directory of its own. It ends with its test, also when that fails.

pub mod certificates;
pub mod cluster;

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, CompactionOptions, ConnectOptions, DeleteOptions, Error, GetOptions, Identity,
    Permission, PutOptions, TlsOptions, Txn, TxnOp,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::manifests::{Object, key_in_etcd};
use crate::netns::Netns;
use crate::wait;
use certificates::{Authority, CertificateFiles};

/// Where a server listens for clients.
pub const PORT: u16 = 2379;
/// How long a server may take to serve.
const LIMIT: Duration = Duration::from_mins(1);
/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Operations in one transaction: etcd's own limit.
const BATCH: usize = 128;
/// Who may do everything once authentication is on.
const ROOT: &str = "root";

/// How a server is started.
#[derive(Debug)]
pub struct Setup {
    namespace: Arc<Netns>,
    address: IpAddr,
    tls: Option<Tls>,
    arguments: Vec<String>,
}

#[derive(Debug)]
struct Tls {
    authority: PathBuf,
    server: CertificateFiles,
    /// Presented by the fixture's own requests.
    client: CertificateFiles,
    needs_client: bool,
}

impl Setup {
    /// A server without TLS on 127.0.0.1 of a namespace.
    pub fn new(namespace: &Arc<Netns>) -> Self {
        Self {
            namespace: Arc::clone(namespace),
            address: Ipv4Addr::LOCALHOST.into(),
            tls: None,
            arguments: Vec::new(),
        }
    }

    /// Listens on another address of the namespace.
    #[must_use]
    pub fn at(mut self, address: impl Into<IpAddr>) -> Self {
        self.address = address.into();
        self
    }

    /// Serves TLS with a certificate; with `needs_client`, only to those with one of the same authority.
    #[must_use]
    pub fn with_tls(mut self, authority: &Authority, server: CertificateFiles, needs_client: bool) -> Self {
        self.tls = Some(Tls {
            authority: authority.file().to_owned(),
            server,
            client: authority.client("fixture"),
            needs_client,
        });
        self
    }

    /// Adds an argument of the server, such as `--auth-token-ttl=1`.
    #[must_use]
    pub fn with(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts the server and waits until it serves.
    pub fn start(self) -> Etcd {
        let etcd = self.spawn();
        etcd.wait_until_healthy();
        etcd
    }

    /// Starts the server and does not wait: for members of a cluster.
    fn spawn(self) -> Etcd {
        let directory = tempfile::Builder::new()
            .prefix("calico-ebpf-etcd-")
            .tempdir()
            .expect("temporary directory");
        let mut etcd = Etcd {
            setup: self,
            directory,
            child: None,
            root_password: None,
        };
        etcd.child = Some(etcd.spawn());
        etcd
    }
}

/// A server. It is killed with its test; when the test fails, the end of its log is shown.
#[derive(Debug)]
pub struct Etcd {
    setup: Setup,
    directory: TempDir,
    child: Option<Child>,
    root_password: Option<String>,
}

impl Etcd {
    /// Starts a server without TLS on 127.0.0.1 of a namespace.
    pub fn start(namespace: &Arc<Netns>) -> Self {
        Setup::new(namespace).start()
    }

    /// Where it is reached, such as `http://127.0.0.1:2379`.
    pub fn endpoint(&self) -> String {
        let scheme = if self.setup.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.socket())
    }

    /// The namespace it runs in.
    pub fn namespace(&self) -> &Arc<Netns> {
        &self.setup.namespace
    }

    /// Kills the server with -9. Its data stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill etcd");
            child.wait().expect("wait for etcd");
        }
    }

    /// Starts it again with its data, and waits until it serves.
    pub fn restart(&mut self) {
        self.kill();
        self.child = Some(self.spawn());
        self.wait_until_healthy();
    }

    /// Kills it and takes its data away; [`Self::restart`] then makes another, empty cluster. Authentication is off.
    pub fn wipe(&mut self) {
        self.kill();
        self.root_password = None;
        fs::remove_dir_all(self.data()).expect("remove etcd's data");
    }

    /// Stops the process without a word to its clients (SIGSTOP): connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Waits until the server answers a read that needs a leader.
    ///
    /// # Panics
    ///
    /// When it does not within a minute.
    pub fn wait_until_healthy(&self) {
        let mut last = String::new();
        let healthy = wait::poll(LIMIT, || {
            self.try_call(async |client| client.get("health", None).await)
                .map_err(|error| last = error)
                .ok()
        });
        assert!(healthy.is_some(), "etcd does not serve: {last}");
    }

    /// Writes objects of Calico under their keys, many to a request.
    pub fn put_objects(&self, objects: &[Object]) {
        let pairs: Vec<_> = objects
            .iter()
            .map(|object| (key_in_etcd(object), object.value().to_string()))
            .collect();
        self.put_all(&pairs);
    }

    /// Writes an object of Calico under its key.
    pub fn put_object(&self, object: &Object) {
        self.put(&key_in_etcd(object), object.value().to_string());
    }

    /// Takes an object of Calico away.
    pub fn delete_object(&self, object: &Object) {
        self.delete(&key_in_etcd(object));
    }

    /// Writes any value and returns the revision.
    pub fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> i64 {
        let value = value.into();
        let response = self.call(async |client| client.put(key, value, None).await);
        response.header().expect("a header").revision()
    }

    /// Writes a value that expires with a lease of so many seconds.
    pub fn put_with_lease(&self, key: &str, value: &str, seconds: i64) {
        self.call(async |client| {
            let lease = client.lease_grant(seconds, None).await?.id();
            client
                .put(key, value, Some(PutOptions::new().with_lease(lease)))
                .await
        });
    }

    /// Writes pairs of key and value, many to a request.
    pub fn put_all(&self, pairs: &[(String, String)]) {
        self.call(async |client| {
            for batch in pairs.chunks(BATCH) {
                let puts: Vec<_> = batch
                    .iter()
                    .map(|(key, value)| TxnOp::put(key.clone(), value.clone(), None))
                    .collect();
                client.txn(Txn::new().and_then(puts)).await?;
            }
            Ok(())
        });
    }

    /// Returns a value.
    pub fn get(&self, key: &str) -> Option<String> {
        self.list(key, &GetOptions::new()).pop().map(|(_, value)| value)
    }

    /// Returns all pairs whose key begins with `prefix`, by key.
    pub fn get_prefix(&self, prefix: &str) -> Vec<(String, String)> {
        self.list(prefix, &GetOptions::new().with_prefix())
    }

    fn list(&self, key: &str, options: &GetOptions) -> Vec<(String, String)> {
        let response = self.call(async |client| client.get(key, Some(options.clone())).await);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        response
            .kvs()
            .iter()
            .map(|pair| (text(pair.key()), text(pair.value())))
            .collect()
    }

    /// Returns the id of the lease that a key expires with; `None` when there is no key, 0 without a lease.
    pub fn lease_of(&self, key: &str) -> Option<i64> {
        let response = self.call(async |client| client.get(key, None).await);
        response.kvs().first().map(etcd_client::KeyValue::lease)
    }

    /// Takes a key away.
    pub fn delete(&self, key: &str) {
        self.call(async |client| client.delete(key, None).await);
    }

    /// Takes all keys away that begin with `prefix`, in one transaction; returns how many.
    pub fn delete_prefix(&self, prefix: &str) -> i64 {
        let response = self.call(async |client| {
            client
                .delete(prefix, Some(DeleteOptions::new().with_prefix()))
                .await
        });
        response.deleted()
    }

    /// Returns the newest revision.
    pub fn revision(&self) -> i64 {
        let response = self.call(async |client| client.get("health", None).await);
        response.header().expect("a header").revision()
    }

    /// Forgets the history before the newest revision.
    pub fn compact(&self) {
        let revision = self.revision();
        self.call(async |client| {
            client
                .compact(revision, Some(CompactionOptions::new().with_physical()))
                .await
        });
    }

    /// Switches authentication on; from now on the fixture's own requests are root's.
    pub fn enable_auth(&mut self, password: &str) {
        self.call(async |client| {
            client.user_add(ROOT, password, None).await?;
            client.role_add(ROOT).await?;
            client.user_grant_role(ROOT, ROOT).await?;
            client.auth_enable().await
        });
        self.root_password = Some(password.to_owned());
    }

    /// Adds a user who may do what `permissions` say, and no more.
    pub fn add_user(&self, name: &str, password: &str, permissions: &[Permission]) {
        self.call(async |client| {
            client.role_add(name).await?;
            for permission in permissions {
                client.role_grant_permission(name, permission.clone()).await?;
            }
            client.user_add(name, password, None).await?;
            client.user_grant_role(name, name).await
        });
    }

    /// Runs requests against the server, with full rights.
    ///
    /// # Panics
    ///
    /// When they fail.
    pub fn call<T: Send>(&self, work: impl AsyncFnOnce(&mut Client) -> Result<T, Error> + Send) -> T {
        self.try_call(work)
            .unwrap_or_else(|error| panic!("etcd at {}: {error}", self.endpoint()))
    }

    fn try_call<T: Send>(
        &self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, Error> + Send,
    ) -> Result<T, String> {
        self.setup.namespace.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut client = Client::connect([self.endpoint()], Some(self.options()))
                    .await
                    .map_err(|error| error.to_string())?;
                work(&mut client).await.map_err(|error| error.to_string())
            })
        })
    }

    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_timeout(REQUEST_LIMIT)
            .with_connect_timeout(REQUEST_LIMIT);
        if let Some(tls) = &self.setup.tls {
            let read = |path: &Path| fs::read(path).expect("a file of the authority");
            let identity = Identity::from_pem(read(&tls.client.certificate), read(&tls.client.key));
            options = options.with_tls(
                TlsOptions::new()
                    .ca_certificate(Certificate::from_pem(read(&tls.authority)))
                    .identity(identity)
                    .domain_name(&tls.server.name),
            );
        }
        if let Some(password) = &self.root_password {
            options = options.with_user(ROOT, password);
        }
        options
    }

    fn spawn(&self) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("etcd's log");
        let mut command = self.setup.namespace.command("etcd");
        command
            .env_clear()
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls={}", self.endpoint()))
            .arg(format!("--advertise-client-urls={}", self.endpoint()))
            .arg("--enable-grpc-gateway=false");
        if let Some(tls) = &self.setup.tls {
            command
                .arg(format!("--cert-file={}", tls.server.certificate.display()))
                .arg(format!("--key-file={}", tls.server.key.display()));
            // With authorities etcd asks for certificates, whatever `--client-cert-auth` says.
            if tls.needs_client {
                command
                    .arg("--client-cert-auth")
                    .arg(format!("--trusted-ca-file={}", tls.authority.display()));
            }
        }
        command
            .args(&self.setup.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("etcd does not start (Debian's etcd-server): {error}"))
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("etcd runs");
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("signal etcd");
    }

    fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.setup.address, PORT)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("etcd.log")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        const SHOWN: usize = 30;
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
            eprintln!(
                "--- end of the log of etcd at {} ---\n{end}\n---",
                self.endpoint()
            );
        }
    }
}
