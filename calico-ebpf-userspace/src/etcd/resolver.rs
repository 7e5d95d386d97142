//! From a name to addresses: `/etc/hosts`, then the servers of `/etc/resolv.conf`. The C library's own ways are not
//! open to a static binary.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::time::timeout;

use super::Cause;

/// Longest time for all questions about one name.
const LIMIT: Duration = Duration::from_secs(4);
/// Longest time for one question to one server.
const QUESTION_LIMIT: Duration = Duration::from_millis(1500);

/// Returns the addresses of a host, IPv4 first; an address is its own. Both files are read each time.
pub(crate) async fn addresses(host: &str) -> Result<Vec<IpAddr>, Cause> {
    if host.is_empty() {
        return Err(Cause::NoAddress);
    }
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let unknown = |reason: String| Cause::UnknownName {
        host: host.to_owned(),
        reason,
    };
    let found = timeout(LIMIT, look_up(host))
        .await
        .map_err(|_elapsed| unknown("no name server answers".to_owned()))?
        .map_err(|error| unknown(error.to_string()))?;
    if found.is_empty() {
        return Err(unknown("it has no address".to_owned()));
    }
    Ok(found)
}

async fn look_up(host: &str) -> Result<Vec<IpAddr>, NetError> {
    // Without a readable resolv.conf there are no servers, but still /etc/hosts.
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_unreadable| {
        let no_servers = ResolverConfig::from_name_servers(Vec::new());
        TokioResolver::builder_with_config(no_servers, TokioRuntimeProvider::default())
    });
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Always;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = QUESTION_LIMIT;
    Ok(builder.build()?.lookup_ip(host).await?.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_its_own_and_nothing_is_none() {
        let addresses_of = async |host| addresses(host).await.map_err(|cause| cause.to_string());
        assert_eq!(
            addresses_of("192.0.2.1").await,
            Ok(vec!["192.0.2.1".parse().unwrap()])
        );
        assert_eq!(
            addresses_of("fd00::1").await,
            Ok(vec!["fd00::1".parse().unwrap()])
        );
        assert!(addresses_of("").await.is_err());
    }
}
