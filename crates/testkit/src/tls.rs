//! A certificate authority for tests, and servers with certificates that it signed: a simulated cloud server, a Traefik that
//! proves its identity. See [RFC 5280](https://www.rfc-editor.org/rfc/rfc5280).

use std::{fmt, future::pending, io, net::SocketAddr, sync::Arc};

use axum::serve::Listener;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How many connections may wait for `accept` after their handshake.
const BACKLOG: usize = 64;

/// Signs certificates; created anew for each test, so nobody else trusts it.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key, for a server or for a client.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, or the chain from it upwards, in PEM.
    pub certificate_pem: String,
    /// The private key in PEM.
    pub key_pem: String,
}

impl Authority {
    /// Creates an authority.
    ///
    /// # Panics
    /// If there is no randomness for a key.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "testkit's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).expect("a certificate").pem();
        Self { certificate_pem, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate, for those who are to trust it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Signs a new key for these names and addresses, for use by a server or a client.
    ///
    /// # Panics
    /// If a name is neither a DNS name nor an address.
    #[must_use]
    pub fn identity(&self, names: &[&str]) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names of a certificate");
        params.distinguished_name.push(DnType::CommonName, "testkit");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// An acceptor that presents the certificate and speaks HTTP/2 and HTTP/1.1.
    fn acceptor(&self) -> io::Result<TlsAcceptor> {
        let bad = |what: &str, error: &dyn fmt::Display| io::Error::other(format!("{what}: {error}"));
        crate::install_crypto();
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes()).collect();
        let chain = chain.map_err(|error| bad("certificate", &error))?;
        let key =
            PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|error| bad("key", &error))?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let mut config = config.map_err(|error| bad("certificate and key", &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// A listener that returns connections after their handshake. Each handshake runs on a task of its own, so that a client that
/// connects and sends nothing does not delay others.
pub(crate) struct TlsListener {
    address: SocketAddr,
    accepted: mpsc::Receiver<Accepted>,
    accepting: JoinHandle<()>,
}

impl TlsListener {
    pub(crate) fn new(listener: TcpListener, identity: &Identity) -> io::Result<Self> {
        let acceptor = identity.acceptor()?;
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel(BACKLOG);
        let accepting = tokio::spawn(accept_all(listener, acceptor, sender));
        Ok(Self { address, accepted, accepting })
    }
}

async fn accept_all(mut listener: TcpListener, acceptor: TlsAcceptor, sender: mpsc::Sender<Accepted>) {
    loop {
        let (stream, peer) = Listener::accept(&mut listener).await;
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = sender.send((stream, peer)).await;
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        // Aborting the task closes the socket: nobody can connect any more.
        self.accepting.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_out_of_debug_output() {
        let authority = Authority::new();
        let identity = authority.identity(&["localhost", "127.0.0.1"]);
        assert!(identity.key_pem.contains("PRIVATE KEY"));
        assert_eq!(format!("{authority:?} {identity:?}"), "Authority Identity");
    }

    #[tokio::test]
    async fn speaks_http_2_and_1_1() {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let listener = TlsListener::new(listener, &authority.identity(&["127.0.0.1"])).expect("with TLS");
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("a certificate");
        roots.add(ca).expect("an authority");
        for protocol in ["h2", "http/1.1"] {
            let config = rustls::ClientConfig::builder().with_root_certificates(roots.clone());
            let mut config = config.with_no_client_auth();
            config.alpn_protocols = vec![protocol.into()];
            let stream = TcpStream::connect(listener.address).await.expect("a connection");
            let name = "127.0.0.1".try_into().expect("a name");
            let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
            let stream = stream.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let authority = Authority::new();
        let (one, other) = (authority.identity(&["a"]), authority.identity(&["a"]));
        assert!(one.acceptor().is_ok());
        assert!(Identity { key_pem: other.key_pem, ..one.clone() }.acceptor().is_err());
        assert!(Identity { certificate_pem: "nothing".to_owned(), ..one }.acceptor().is_err());
    }
}
