//! Certificates and keys, from the files that the configuration names.

use std::fs;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::Cause;
use super::endpoint::Endpoint;
use crate::config::Config;

/// Debian's authorities: used when `EtcdCaFile` names none, as Calico's tools do.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Names of files; they are read for each connection, so that renewed ones count.
#[derive(Clone, Debug)]
pub(super) struct TlsFiles {
    authorities: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl TlsFiles {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            authorities: config.etcd_ca_file.clone(),
            certificate: config.etcd_cert_file.clone(),
            key: config.etcd_key_file.clone(),
        }
    }

    /// Returns how to speak TLS with an endpoint; `None` with one that is not `https`.
    pub(super) fn read(&self, endpoint: &Endpoint) -> Result<Option<ClientTlsConfig>, Cause> {
        if !endpoint.is_tls() {
            return Ok(None);
        }
        let authorities = self
            .authorities
            .as_deref()
            .unwrap_or(Path::new(SYSTEM_AUTHORITIES));
        let tls = ClientTlsConfig::new()
            .domain_name(endpoint.host())
            .ca_certificate(Certificate::from_pem(read_pem(
                "EtcdCaFile",
                authorities,
                "CERTIFICATE",
            )?));
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let certificate = read_pem("EtcdCertFile", certificate, "CERTIFICATE")?;
                let key = read_pem("EtcdKeyFile", key, "PRIVATE KEY")?;
                Ok(Some(tls.identity(Identity::from_pem(certificate, key))))
            }
            (None, None) => Ok(Some(tls)),
            (Some(_), None) | (None, Some(_)) => Err(Cause::HalfIdentity),
        }
    }
}

/// Reads a file that must hold at least one PEM block of a kind.
fn read_pem(parameter: &'static str, path: &Path, kind: &'static str) -> Result<Vec<u8>, Cause> {
    let bytes = fs::read(path).map_err(|source| Cause::Unreadable {
        parameter,
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let is_begin = |line: &str| {
        line.trim()
            .strip_prefix("-----BEGIN ")
            .is_some_and(|rest| rest.ends_with(&format!("{kind}-----")))
    };
    if !text.lines().any(is_begin) {
        return Err(Cause::NotPem {
            parameter,
            path: path.to_owned(),
            kind,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_named_with_their_parameter() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let files = |certificate: Option<&Path>| TlsFiles {
            authorities: Some(file.clone()),
            certificate: certificate.map(Path::to_owned),
            key: None,
        };
        let told = |files: TlsFiles| {
            let read = files.read(&Endpoint::new("https://etcd:2379"));
            read.map(|_| ()).unwrap_err().to_string()
        };
        let text = told(files(None));
        assert!(
            text.starts_with("EtcdCaFile: cannot read") && text.contains("ca.pem"),
            "{text}"
        );
        fs::write(&file, "nothing").unwrap();
        let text = told(files(None));
        assert!(text.contains("holds no CERTIFICATE"), "{text}");
        fs::write(&file, "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(
            files(None)
                .read(&Endpoint::new("https://etcd:2379"))
                .unwrap()
                .is_some()
        );
        assert!(told(files(Some(&file))).contains("EtcdKeyFile"));
        assert!(
            files(None)
                .read(&Endpoint::new("http://etcd:2379"))
                .unwrap()
                .is_none()
        );
    }
}
