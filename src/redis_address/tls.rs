//! The files for TLS towards Redis: which CA is believed, and by which certificate the node is
//! known. It owns checking them at the start, and reading them anew for each connection, so that
//! they can be replaced while the node runs.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use redis::{Client, ClientTlsConfig, ConnectionInfo, TlsCertificates};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Files in PEM, all of them optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// `--redis-ca`: certificates of authorities, believed instead of the system's.
    pub ca: Option<PathBuf>,
    /// `--redis-cert`: the node's own certificate and those up to its authority, for a Redis that
    /// asks for one.
    pub cert: Option<PathBuf>,
    /// `--redis-key`: the private key of `cert`.
    pub key: Option<PathBuf>,
}

impl RedisTls {
    /// Whether no file is named.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Everything that is wrong with the files, each complaint with its flag. `uses_tls`: so does
    /// the address.
    pub(crate) fn complaints(&self, uses_tls: bool) -> Vec<String> {
        let mut complaints = Vec::new();
        let flags = [
            ("--redis-ca", &self.ca),
            ("--redis-cert", &self.cert),
            ("--redis-key", &self.key),
        ];
        if !uses_tls {
            let named = flags.iter().filter(|(_, file)| file.is_some());
            complaints.extend(named.map(|(flag, _)| {
                format!("{flag}: only a --redis-url that begins with rediss has TLS")
            }));
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => {
                complaints.push("--redis-cert: its private key is missing, --redis-key".to_owned())
            }
            (None, Some(_)) => {
                complaints.push("--redis-key: its certificate is missing, --redis-cert".to_owned())
            }
            _ => {}
        }
        let mut complain =
            |flag: &str, error: anyhow::Error| complaints.push(format!("{flag}: {error:#}"));
        if let Some(Err(error)) = self.ca.as_deref().map(check_ca) {
            complain("--redis-ca", error);
        }
        let chain = self.cert.as_deref().map(certificates).transpose();
        let key = self.key.as_deref().map(private_key).transpose();
        match (chain, key) {
            (Ok(Some(chain)), Ok(Some(key))) => {
                if let Err(error) =
                    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
                {
                    complain(
                        "--redis-key",
                        anyhow!(error)
                            .context("not the key of --redis-cert, or of an unknown kind"),
                    );
                }
            }
            (chain, key) => {
                chain
                    .err()
                    .into_iter()
                    .for_each(|error| complain("--redis-cert", error));
                key.err()
                    .into_iter()
                    .for_each(|error| complain("--redis-key", error));
            }
        }
        complaints
    }

    /// A client of this server, with the files as they are now.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub(crate) fn client(&self, info: ConnectionInfo) -> anyhow::Result<Client> {
        if self.is_empty() {
            return Ok(Client::open(info)?);
        }
        let client_tls = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some(ClientTlsConfig {
                client_cert: read("--redis-cert", cert)?,
                client_key: read("--redis-key", key)?,
            }),
            _ => None,
        };
        let root_cert = match &self.ca {
            Some(ca) => Some(read("--redis-ca", ca)?),
            None => None,
        };
        Ok(Client::build_with_tls(
            info,
            TlsCertificates {
                client_tls,
                root_cert,
            },
        )?)
    }
}

/// Blocks for as long as the file system takes for a few kilobytes, which is nothing beside a
/// handshake.
fn read(flag: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("{flag} {}", file.display()))
}

fn check_ca(file: &Path) -> anyhow::Result<()> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store
            .add(certificate)
            .with_context(|| format!("{} has no certificate of an authority", file.display()))?;
    }
    Ok(())
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, PemError> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let all = all.map_err(|error| unreadable(file, error))?;
    ensure!(
        !all.is_empty(),
        "{} has no certificate in PEM",
        file.display()
    );
    Ok(all)
}

fn private_key(file: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    match PrivateKeyDer::from_pem_file(file) {
        Err(PemError::NoItemsFound) => Err(anyhow!(
            "{} has no private key in PEM without a password",
            file.display()
        )),
        key => key.map_err(|error| unreadable(file, error)),
    }
}

/// Says what is wrong with a file, and nothing of what is in it.
fn unreadable(file: &Path, error: PemError) -> anyhow::Error {
    let why = match error {
        PemError::Io(error) if error.kind() != io::ErrorKind::InvalidData => error.to_string(),
        _ => "not in PEM".to_owned(),
    };
    anyhow!("{}: {why}", file.display())
}
