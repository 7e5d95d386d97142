//! Connections on which nobody speaks for long, and then the server first.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use calico_ebpf_tests::netns::Netns;

/// Longest time until what was sent has arrived: TCP sends again after 0.2, 0.6, 1.4, 3 and 6.2 seconds.
const LIMIT: Duration = Duration::from_secs(10);

/// Both ends of a connection.
pub(super) struct Quiet {
    client: TcpStream,
    server: TcpStream,
    said: u64,
}

impl Quiet {
    /// Connects from one namespace to a port of another.
    #[track_caller]
    pub(super) fn open(from: &Netns, to: &Netns, address: SocketAddr) -> Self {
        let any = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), address.port());
        let listener = to.run(|| TcpListener::bind(any)).expect("listen");
        let client = from.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)));
        let client = client.unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        let (server, _) = listener.accept().expect("accept");
        for end in [&client, &server] {
            end.set_read_timeout(Some(LIMIT)).expect("a timeout");
            end.set_nodelay(true).expect("no delay");
        }
        let mut quiet = Self {
            client,
            server,
            said: 0,
        };
        quiet.server_speaks_first();
        quiet
    }

    /// The server sends a number, and the client answers with the same.
    #[track_caller]
    pub(super) fn server_speaks_first(&mut self) {
        self.said += 1;
        let number = self.said.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        for (mut from, mut to, who) in [
            (&self.server, &self.client, "the server"),
            (&self.client, &self.server, "the client"),
        ] {
            from.write_all(&number)
                .unwrap_or_else(|error| panic!("{who} sends: {error}"));
            let mut heard = [0; 8];
            to.read_exact(&mut heard)
                .unwrap_or_else(|error| panic!("{who} is not heard ({}): {error}", self.said));
            assert_eq!(heard, number);
        }
    }
}
