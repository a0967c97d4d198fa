//! Modelgate's own certificate authority for the connection from Traefik to `/auth`.
//!
//! ForwardAuth over plain HTTP opens a TCP connection per request once there are more than two at a time; over TLS it speaks
//! HTTP/2 and needs one. Traefik takes the CA inline, so operators need not set anything up. Only Traefik trusts this CA, and
//! only for this.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::{default_provider, sign::any_ecdsa_type},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SigningKey},
};
use tokio_rustls::TlsAcceptor;

/// The maximum number of names and addresses with certificates; more than Traefiks can use.
const MAX_NAMES: usize = 64;

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca-key.pem";
/// Held while the others are looked at and made.
const LOCK_FILE: &str = "ca.lock";

/// An error about certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the state directory cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A key or certificate cannot be made, or a kept key cannot be read.
    #[error("certificate authority: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A key that the TLS library does not take.
    #[error("certificate authority: {0}")]
    Key(#[from] rustls::Error),
}

/// Signs certificates on demand, for the names by which Traefik calls Modelgate.
pub struct CertificateAuthority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// The key of all certificates of the listener; it is kept only in memory.
    key: KeyPair,
    signing_key: Arc<dyn SigningKey>,
    by_name: Mutex<HashMap<String, Arc<CertifiedKey>>>,
    addresses: Mutex<(BTreeSet<IpAddr>, Arc<CertifiedKey>)>,
    /// Verifies client certificates, which are optional.
    clients: Arc<dyn ClientCertVerifier>,
}

impl CertificateAuthority {
    /// Creates an authority or, with a state directory, loads the one kept there: then Traefik trusts Modelgate after a restart
    /// even before it has polled.
    ///
    /// Clients may prove that they are Traefik by a certificate signed by one in `client_ca`, a PEM file; without that file no
    /// client can.
    ///
    /// # Errors
    /// If a file cannot be read or written, or the kept key is damaged.
    pub fn open(state_dir: Option<&Path>, client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let (ca_key, certificate_pem) = match state_dir {
            Some(dir) => kept(dir)?,
            None => made()?,
        };
        let issuer = Issuer::new(ca_params(), ca_key);
        let key = KeyPair::generate()?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing_key = any_ecdsa_type(&der)?;
        let loopback = BTreeSet::from([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        let certified = certify(&issuer, &key, &signing_key, addresses(&loopback))?;
        let addresses = Mutex::new((loopback, certified));
        let clients =
            client_ca.map_or_else(|| Ok(WebPkiClientVerifier::no_client_auth()), client_verifier)?;
        Ok(Self { certificate_pem, issuer, key, signing_key, by_name: Mutex::default(), addresses, clients })
    }

    /// The authority's certificate in PEM, for Traefik. Not secret.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Adds an address to answer for. A client that connects to an address sends no name (RFC 6066 §3), so one certificate is
    /// for all addresses.
    pub(crate) fn answer_for(&self, address: IpAddr) {
        let mut guard = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, certified) = &mut *guard;
        if known.len() < MAX_NAMES
            && known.insert(address)
            && let Ok(new) = certify(&self.issuer, &self.key, &self.signing_key, addresses(known))
        {
            *certified = new;
        }
    }

    /// Accepts TLS connections, with HTTP/2 on offer.
    pub(crate) fn acceptor(authority: &Arc<Self>) -> TlsAcceptor {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(authority) as _;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_client_cert_verifier(Arc::clone(&authority.clients))
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn for_name(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(certified) = by_name.get(name) {
            return Some(Arc::clone(certified));
        }
        let san = SanType::DnsName(name.try_into().ok()?);
        let certified = certify(&self.issuer, &self.key, &self.signing_key, vec![san]).ok()?;
        if by_name.len() >= MAX_NAMES {
            by_name.clear();
        }
        by_name.insert(name.to_owned(), Arc::clone(&certified));
        Some(certified)
    }
}

impl ResolvesServerCert for CertificateAuthority {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            Some(name) => self.for_name(name),
            None => Some(Arc::clone(&self.addresses.lock().unwrap_or_else(PoisonError::into_inner).1)),
        }
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificateAuthority")
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Modelgate");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// Accepts certificates signed by one in a PEM file, and clients without a certificate.
fn client_verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let failed = |source| TlsError::File { path: path.display().to_string(), source };
    let pem = fs::read(path).map_err(failed)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|e| failed(io::Error::other(e.to_string())))?)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
        .allow_unauthenticated()
        .build()
        .map_err(|e| failed(io::Error::other(e.to_string())))
}

fn made() -> Result<(KeyPair, String), TlsError> {
    let key = KeyPair::generate()?;
    let certificate = ca_params().self_signed(&key)?;
    Ok((key, certificate.pem()))
}

fn kept(dir: &Path) -> Result<(KeyPair, String), TlsError> {
    let at = |file: &str| dir.join(file);
    let failed = |file: &str| {
        let path = at(file).display().to_string();
        move |source| TlsError::File { path, source }
    };
    // Two Modelgates may have one folder, and start at the same moment: both must have the same authority.
    fs::create_dir_all(dir).map_err(failed(""))?;
    // Where nothing can be written, nothing can be made twice.
    let lock = private_file().truncate(false).open(at(LOCK_FILE));
    let _held = lock.and_then(|lock| lock.lock().map(|()| lock));
    match (fs::read_to_string(at(KEY_FILE)), fs::read_to_string(at(CERTIFICATE_FILE))) {
        (Ok(key), Ok(certificate)) => return Ok((KeyPair::from_pem(&key)?, certificate)),
        (Err(e), _) if e.kind() != io::ErrorKind::NotFound => return Err(failed(KEY_FILE)(e)),
        (_, Err(e)) if e.kind() != io::ErrorKind::NotFound => return Err(failed(CERTIFICATE_FILE)(e)),
        _ => {}
    }
    let (key, certificate) = made()?;
    write_private(&at(KEY_FILE), &key.serialize_pem()).map_err(failed(KEY_FILE))?;
    fs::write(at(CERTIFICATE_FILE), &certificate).map_err(failed(CERTIFICATE_FILE))?;
    Ok((key, certificate))
}

/// Writes a file that is readable only by its owner, from the first byte on.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    private_file().truncate(true).open(path)?.write_all(text.as_bytes())
}

fn private_file() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn addresses(of: &BTreeSet<IpAddr>) -> Vec<SanType> {
    of.iter().copied().map(SanType::IpAddress).collect()
}

fn certify(
    issuer: &Issuer<'static, KeyPair>,
    key: &KeyPair,
    signing_key: &Arc<dyn SigningKey>,
    names: Vec<SanType>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(key, issuer)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], Arc::clone(signing_key))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_kept_and_its_key_is_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = CertificateAuthority::open(Some(dir.path()), None).expect("made");
        let second = CertificateAuthority::open(Some(dir.path()), None).expect("read again");
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        assert!(second.for_name("modelgate").is_some());
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(dir.path().join(KEY_FILE)).expect("the key").permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        let other = CertificateAuthority::open(None, None).expect("made");
        assert_ne!(first.certificate_pem(), other.certificate_pem());
    }

    #[test]
    fn a_damaged_key_is_an_error_and_not_a_new_authority() {
        let dir = tempfile::tempdir().expect("a directory");
        CertificateAuthority::open(Some(dir.path()), None).expect("made");
        fs::write(dir.path().join(KEY_FILE), "nonsense").expect("written");
        assert!(CertificateAuthority::open(Some(dir.path()), None).is_err());
    }

    #[test]
    fn modelgates_that_start_at_once_with_one_folder_have_one_authority() {
        let folder = tempfile::tempdir().expect("a folder");
        let open =
            || CertificateAuthority::open(Some(folder.path()), None).expect("an authority").certificate_pem;
        let all: BTreeSet<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(all.len(), 1);
    }
}
