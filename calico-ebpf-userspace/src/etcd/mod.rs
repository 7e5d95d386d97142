//! The connection to etcd: one member at a time, the next one when it fails.
//!
//! Whoever talks to etcd asks [`Etcd`] for a [`Connection`], uses its client, and tells when it failed; all users of one
//! [`Etcd`] share the connection. A member counts as usable when it answers a read that needs a leader, so that a
//! member that is cut off from the others is left. Files and names are read anew for each attempt: renewed
//! certificates and moved servers need no restart.

mod endpoint;
mod failure;
mod pause;
mod resolver;
mod tls;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, GetOptions};
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::endpoint::Endpoint;
use self::tls::TlsFiles;
use crate::config::Config;

pub use self::failure::{Cause, Failure, Unavailable};
pub use self::pause::Pause;
pub(crate) use self::resolver::addresses;

/// Longest time for a connection with TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Longest time for one answer while connecting.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A connection in use that is silent for this long is asked for a sign of life. etcd takes offence at less than 5 s
/// (`grpc-keepalive-min-time`).
const ALIVE_INTERVAL: Duration = Duration::from_secs(6);
/// How long that sign of life may take.
const ALIVE_LIMIT: Duration = Duration::from_secs(4);
/// What is read to try a member, as `etcdctl endpoint health` does. That it may not be read is an answer, too.
const HEALTH_KEY: &str = "health";

/// The way to etcd. Clones share one connection.
#[derive(Clone, Debug)]
pub struct Etcd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoints: Vec<Endpoint>,
    tls: TlsFiles,
    user: Option<User>,
    current: Mutex<Current>,
}

#[derive(Clone)]
struct User {
    name: String,
    password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Current {
    connection: Option<Connection>,
    /// Index of the endpoint that is tried next.
    next: usize,
    /// Connections made so far.
    made: u64,
}

/// A connection to one member, for anybody who wants to use it.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    endpoint: Arc<str>,
    number: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Returns a client of this member. It authenticates again by itself when its token expires.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Returns the member's address as configured.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns what a failed request means; `doing` names it for people: `read /calico/...`.
    pub fn failure(&self, error: &etcd_client::Error, doing: &str) -> Failure {
        Failure {
            endpoint: self.endpoint.to_string(),
            cause: Cause::of_request(error, doing),
        }
    }

    /// Returns that an answer did not come in time.
    pub fn silence(&self) -> Failure {
        Failure {
            endpoint: self.endpoint.to_string(),
            cause: Cause::NoAnswer,
        }
    }
}

impl Etcd {
    /// Takes addresses, files and user from the configuration. Nothing is connected or read yet.
    pub fn new(config: &Config) -> Self {
        let endpoints: Vec<_> = config
            .etcd_endpoints
            .iter()
            .map(|text| Endpoint::new(text))
            .collect();
        let user = config.etcd_username.clone().map(|name| User {
            name,
            password: config.etcd_password.clone().unwrap_or_default(),
        });
        let current = Current {
            connection: None,
            next: random_below(endpoints.len()),
            made: 0,
        };
        Self(Arc::new(Shared {
            endpoints,
            tls: TlsFiles::new(config),
            user,
            current: Mutex::new(current),
        }))
    }

    /// Returns the connection in use, or makes one: each endpoint is tried once.
    ///
    /// # Errors
    /// When none can be used, with what is wrong with each.
    pub async fn connection(&self) -> Result<Connection, Unavailable> {
        let mut current = self.0.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok(connection.clone());
        }
        let mut failures = Vec::new();
        for _ in 0..self.0.endpoints.len() {
            let endpoint = &self.0.endpoints[current.next];
            match self.connect(endpoint).await {
                Ok(client) => {
                    current.made += 1;
                    let connection = Connection {
                        client,
                        endpoint: endpoint.url().into(),
                        number: current.made,
                    };
                    current.connection = Some(connection.clone());
                    return Ok(connection);
                }
                Err(cause) => {
                    failures.push(Failure {
                        endpoint: endpoint.url().to_owned(),
                        cause,
                    });
                    current.next = (current.next + 1) % self.0.endpoints.len();
                }
            }
        }
        Err(Unavailable(failures))
    }

    /// Tells that a connection failed: the next one goes to the next endpoint. Of several who tell, the first counts.
    pub async fn give_up(&self, failed: &Connection) {
        let mut current = self.0.current.lock().await;
        if current
            .connection
            .as_ref()
            .is_some_and(|connection| connection.number == failed.number)
        {
            current.connection = None;
            current.next = (current.next + 1) % self.0.endpoints.len();
        }
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Client, Cause> {
        let tls = self.0.tls.read(endpoint)?;
        let mut last = Cause::NoAddress;
        for address in resolver::addresses(endpoint.host()).await? {
            match self.connect_to(endpoint, address, tls.as_ref()).await {
                Ok(client) => return Ok(client),
                Err(cause) => last = cause,
            }
        }
        Err(last)
    }

    async fn connect_to(
        &self,
        endpoint: &Endpoint,
        address: std::net::IpAddr,
        tls: Option<&tonic::transport::ClientTlsConfig>,
    ) -> Result<Client, Cause> {
        let mut transport = endpoint
            .transport(address)?
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(ALIVE_INTERVAL)
            .keep_alive_timeout(ALIVE_LIMIT);
        if let Some(tls) = tls {
            transport = transport
                .tls_config(tls.clone())
                .map_err(|error| Cause::of_transport(&error))?;
        }
        let channel = timeout(CONNECT_LIMIT, transport.connect())
            .await
            .map_err(|_elapsed| Cause::NoAnswer)?
            .map_err(|error| Cause::of_handshake(&error, endpoint.is_tls()))?;
        let authenticated = self.authenticate(channel, endpoint);
        let mut client = timeout(ANSWER_LIMIT, authenticated)
            .await
            .map_err(|_elapsed| Cause::NoAnswer)??;
        let options = GetOptions::new().with_keys_only().with_limit(1);
        let answer = timeout(ANSWER_LIMIT, client.get(HEALTH_KEY, Some(options)))
            .await
            .map_err(|_elapsed| Cause::NoAnswer)?;
        match answer.map_err(|error| Cause::of_first_request(&error, endpoint.is_tls())) {
            Ok(_) | Err(Cause::PermissionDenied { .. }) => Ok(client),
            Err(cause) => Err(cause),
        }
    }

    async fn authenticate(
        &self,
        channel: tonic::transport::Channel,
        endpoint: &Endpoint,
    ) -> Result<Client, Cause> {
        let options = ConnectOptions::new()
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        let Some(user) = &self.0.user else {
            return connect_over(channel, options, endpoint).await;
        };
        let named = options.clone().with_user(&user.name, &user.password);
        match connect_over(channel.clone(), named, endpoint).await {
            // As for Calico's own tools: a user that nobody asks for does no harm.
            Err(Cause::NoAuthentication) => connect_over(channel, options, endpoint).await,
            connected => connected,
        }
    }
}

async fn connect_over(
    channel: tonic::transport::Channel,
    options: ConnectOptions,
    endpoint: &Endpoint,
) -> Result<Client, Cause> {
    Client::from_channel(Channel::Tonic(channel), Some(options))
        .await
        .map_err(|error| Cause::of_first_request(&error, endpoint.is_tls()))
}

/// Spreads what all hosts do at once; 0 for nothing.
fn random_below(limit: usize) -> usize {
    let random = RandomState::new().hash_one(0);
    usize::try_from(random % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
}
