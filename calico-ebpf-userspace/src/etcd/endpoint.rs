//! One address of etcd, as configured.

use std::net::{IpAddr, SocketAddr};

use tonic::transport::Uri;

use super::Cause;

/// etcd's port for clients.
const DEFAULT_PORT: u16 = 2379;

/// An address such as `https://etcd-1:2379`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    url: String,
    is_tls: bool,
    /// Name or address, without brackets; empty when there is none.
    host: String,
    port: u16,
}

impl Endpoint {
    /// Takes an address apart. One without a host fails when it is used.
    pub(super) fn new(text: &str) -> Self {
        let uri: Option<Uri> = text.parse().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
        Self {
            url: text.to_owned(),
            is_tls: uri.as_ref().and_then(Uri::scheme_str) == Some("https"),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.as_ref().and_then(Uri::port_u16).unwrap_or(DEFAULT_PORT),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Name or address, without brackets: also the name that a certificate must have.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Returns how to connect to one address of the host.
    pub(super) fn transport(&self, address: IpAddr) -> Result<tonic::transport::Endpoint, Cause> {
        let scheme = if self.is_tls { "https" } else { "http" };
        let socket = SocketAddr::new(address, self.port);
        tonic::transport::Endpoint::from_shared(format!("{scheme}://{socket}"))
            .map_err(|error| Cause::of_transport(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_no_brackets_and_ports_a_default() {
        let parts = |text: &str| {
            let endpoint = Endpoint::new(text);
            (endpoint.is_tls, endpoint.host, endpoint.port)
        };
        assert_eq!(parts("https://etcd-1:4001/"), (true, "etcd-1".to_owned(), 4001));
        assert_eq!(
            parts("http://[fd00::1]:2379"),
            (false, "fd00::1".to_owned(), 2379)
        );
        assert_eq!(parts("https://[::1]"), (true, "::1".to_owned(), 2379));
        assert_eq!(parts("http://192.0.2.1"), (false, "192.0.2.1".to_owned(), 2379));
        assert_eq!(parts("http://a b"), (false, String::new(), 2379));
    }
}
