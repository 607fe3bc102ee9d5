//! Certificates that `wss://` trusts: the system's, or any if the user asks for that.

use std::sync::Arc;

use anyhow::Context;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_tungstenite::Connector;

/// `None` lets tokio-tungstenite read the system's certificates when a `wss://` URL needs them.
pub(crate) fn connector(check: bool) -> anyhow::Result<Option<Connector>> {
    // Otherwise rustls picks its provider by what is compiled in, and panics as soon as a
    // dependency brings a second one. This fails only if a provider is installed already.
    aws_lc_rs::default_provider().install_default().ok();
    if check {
        return Ok(None);
    }
    let config = trust_everything()?;
    Ok(Some(Connector::Rustls(Arc::new(config))))
}

fn trust_everything() -> anyhow::Result<ClientConfig> {
    let provider = aws_lc_rs::default_provider();
    // Signatures are still verified, with the algorithms of the provider.
    let verifier = TrustEverything(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// Accepts any certificate for any name. The server must still prove that it has the certificate's
/// key.
#[derive(Debug)]
struct TrustEverything(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TrustEverything {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
