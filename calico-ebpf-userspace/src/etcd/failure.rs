//! What went wrong between us and etcd, with its cure.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use rustls::CertificateError;
use tonic::{Code, Status};

/// Why no endpoint can be used.
#[derive(Debug)]
pub struct Unavailable(pub Vec<Failure>);

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("no address of etcd is configured; see EtcdEndpoints");
        }
        for (index, failure) in self.0.iter().enumerate() {
            write!(formatter, "{}{failure}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl Error for Unavailable {}

/// Why one endpoint could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: {cause}")]
pub struct Failure {
    /// Its address as configured.
    pub endpoint: String,
    pub cause: Cause,
}

/// The reasons. Their texts say what to do; none holds a password.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("no host in this address; expected one such as https://etcd-1:2379 (EtcdEndpoints)")]
    NoAddress,
    #[error("the name {host} is not known ({reason}); see /etc/hosts and /etc/resolv.conf")]
    UnknownName { host: String, reason: String },
    #[error("connection refused; does etcd run there, and is this its port for clients?")]
    Refused,
    #[error("no answer in time; is the address right, and is the way there open?")]
    NoAnswer,
    #[error("{0}; is there a route to it?")]
    NoRoute(String),
    #[error("{parameter}: cannot read {}: {source}", path.display())]
    Unreadable {
        parameter: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{parameter}: {} holds no {kind} in PEM", path.display())]
    NotPem {
        parameter: &'static str,
        path: PathBuf,
        kind: &'static str,
    },
    #[error("EtcdCertFile and EtcdKeyFile belong together: set both or none")]
    HalfIdentity,
    #[error(
        "its certificate comes from an authority that is unknown here; EtcdCaFile must hold that authority"
    )]
    UnknownAuthority,
    #[error("its certificate has expired; renew it, or set this host's clock")]
    Expired,
    #[error("its certificate is not valid yet; set this host's clock")]
    NotValidYet,
    #[error(
        "its certificate is not for this name ({0}); EtcdEndpoints must use a name that is in the certificate"
    )]
    WrongName(String),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("it does not take our certificate ({0}); see EtcdCertFile and EtcdKeyFile")]
    OurCertificate(String),
    #[error("it does not speak TLS; use http:// in EtcdEndpoints")]
    NotTls,
    #[error("it ended the TLS handshake ({0}); if it speaks no TLS, use http:// in EtcdEndpoints")]
    HandshakeEnded(String),
    #[error("it hangs up on plain connections; if it speaks TLS, use https:// in EtcdEndpoints ({0})")]
    NotPlain(String),
    #[error("wrong user name or password; see EtcdUsername and EtcdPassword")]
    WrongPassword,
    #[error("it asks who we are; set EtcdUsername and EtcdPassword")]
    NoUser,
    #[error("it has no users")]
    NoAuthentication,
    #[error("our user may not {doing}; `etcdctl role grant-permission` gives its role that right")]
    PermissionDenied { doing: String },
    #[error("it has no leader: it is cut off from the other members, or too few of them run")]
    NoLeader,
    #[error("the revision was compacted away")]
    Compacted,
    #[error("it has another history than before")]
    OtherHistory,
    #[error("one answer is too large ({0})")]
    TooLarge(String),
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("{0}")]
    Other(String),
}

impl Cause {
    /// Returns what a failed attempt to connect means.
    pub(super) fn of_transport(error: &tonic::transport::Error) -> Self {
        of_chain(error).unwrap_or_else(|| Self::Other(innermost(error)))
    }

    /// As [`Self::of_transport`], while the connection is made: nothing but the handshake can be lost.
    pub(super) fn of_handshake(error: &tonic::transport::Error, is_tls: bool) -> Self {
        let cause = Self::of_transport(error);
        if let (Self::Lost(reason), true) = (&cause, is_tls) {
            return Self::HandshakeEnded(reason.clone());
        }
        cause
    }

    /// Returns what a failed request means; `doing` completes "our user may not ...".
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a library's errors: what is not known here keeps its own words"
    )]
    pub(super) fn of_request(error: &etcd_client::Error, doing: &str) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::of_status(status, doing),
            etcd_client::Error::TransportError(error) => Self::of_transport(error),
            other => Self::Other(other.to_string()),
        }
    }

    /// As [`Self::of_request`], on a connection that never carried an answer: who hears the wrong language hangs up.
    pub(super) fn of_first_request(error: &etcd_client::Error, is_tls: bool) -> Self {
        let cause = Self::of_request(error, "connect");
        if let Self::Lost(reason) = cause {
            return if is_tls {
                Self::OurCertificate(reason)
            } else {
                Self::NotPlain(reason)
            };
        }
        cause
    }

    /// Returns why a watch was ended by etcd, which tells it as text.
    pub fn of_cancelled_watch(reason: &str, doing: &str) -> Self {
        Self::of_text(reason, doing).unwrap_or_else(|| Self::Other(format!("watch ended: {reason}")))
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a library's errors: what is not known here keeps its own words"
    )]
    fn of_status(status: &Status, doing: &str) -> Self {
        if let Some(cause) = Self::of_text(status.message(), doing) {
            return cause;
        }
        if let Some(cause) = of_chain(status) {
            return cause;
        }
        match status.code() {
            Code::OutOfRange => Self::TooLarge(status.message().to_owned()),
            Code::PermissionDenied => Self::PermissionDenied {
                doing: doing.to_owned(),
            },
            Code::DeadlineExceeded => Self::NoAnswer,
            Code::Unavailable if status.message().starts_with("etcdserver: request timed out") => {
                Self::NoLeader
            }
            Code::Unavailable if status.message().starts_with("etcdserver:") => {
                Self::Other(status.message().to_owned())
            }
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
                if status.source().is_some() =>
            {
                Self::Lost(innermost(status))
            }
            _ => Self::Other(status.message().to_owned()),
        }
    }

    /// etcd's own words.
    fn of_text(text: &str, doing: &str) -> Option<Self> {
        let says = |words: &str| text.contains(words);
        if says("authentication is not enabled") {
            Some(Self::NoAuthentication)
        } else if says("invalid user ID or password") {
            Some(Self::WrongPassword)
        } else if says("user name is empty") {
            Some(Self::NoUser)
        } else if says("permission denied") {
            Some(Self::PermissionDenied {
                doing: doing.to_owned(),
            })
        } else if says("has been compacted") {
            Some(Self::Compacted)
        } else if says("is a future revision") {
            Some(Self::OtherHistory)
        } else if says("no leader") {
            Some(Self::NoLeader)
        } else {
            None
        }
    }
}

/// Looks for a cause that has a name among the errors behind an error.
fn of_chain(error: &(dyn Error + 'static)) -> Option<Cause> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(of_tls(tls));
        }
        if let Some(failure) = error.downcast_ref::<io::Error>() {
            // `source` of such an error skips what it wraps.
            if let Some(tls) = failure
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            {
                return Some(of_tls(tls));
            }
            if let Some(cause) = of_io(failure) {
                return Some(cause);
            }
        }
        next = error.source();
    }
    None
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a library's errors: what is not known here keeps its own words"
)]
fn of_io(failure: &io::Error) -> Option<Cause> {
    match failure.kind() {
        io::ErrorKind::ConnectionRefused => Some(Cause::Refused),
        io::ErrorKind::TimedOut => Some(Cause::NoAnswer),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some(Cause::NoRoute(failure.to_string()))
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Some(Cause::Lost(failure.to_string()))
        }
        _ => None,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a library's errors: what is not known here keeps its own words"
)]
fn of_tls(error: &rustls::Error) -> Cause {
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Cause::UnknownAuthority,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Cause::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Cause::NotValidYet,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Cause::WrongName(bad.to_string())
            }
            other => Cause::Tls(format!("its certificate is not good: {other}")),
        },
        rustls::Error::InvalidMessage(_) => Cause::NotTls,
        rustls::Error::AlertReceived(alert) => Cause::OurCertificate(format!("{alert:?}")),
        other => Cause::Tls(other.to_string()),
    }
}

/// The last of the errors behind an error says most.
fn innermost(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}
