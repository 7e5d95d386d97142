//! A certificate authority for tests, with good and bad certificates.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// An authority whose files lie in a directory of the test.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The first name that it is for.
    pub name: String,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority with a name of its own; files are written to the directory.
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = parameters(&[], name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("sign the authority");
        let file = directory.join(format!("{name}.pem"));
        fs::write(&file, certificate.pem()).expect("write the authority");
        Self {
            directory: directory.to_owned(),
            file,
            issuer: Issuer::new(params, key),
        }
    }

    /// The authority's own certificate: what `EtcdCaFile` names.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Makes a certificate for a server with these names and addresses.
    pub fn server(&self, names: &[&str]) -> CertificateFiles {
        self.sign(&parameters(names, names[0]), names[0])
    }

    /// Makes a server's certificate that expired long ago.
    pub fn expired_server(&self, names: &[&str]) -> CertificateFiles {
        let mut params = parameters(names, names[0]);
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(&params, &format!("expired-{}", names[0]))
    }

    /// Makes a certificate for a client.
    pub fn client(&self, name: &str) -> CertificateFiles {
        self.sign(&parameters(&[], name), name)
    }

    fn sign(&self, params: &CertificateParams, name: &str) -> CertificateFiles {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("sign a certificate");
        let path = |ending: &str| self.directory.join(format!("{name}.{ending}"));
        let files = CertificateFiles {
            name: name.to_owned(),
            certificate: path("crt"),
            key: path("key"),
        };
        fs::write(&files.certificate, certificate.pem()).expect("write a certificate");
        fs::write(&files.key, key.serialize_pem()).expect("write a key");
        files
    }
}

/// etcd asks itself as a client, so that both uses are in every certificate.
fn parameters(names: &[&str], common_name: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("valid names");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages.push(KeyUsagePurpose::DigitalSignature);
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}
