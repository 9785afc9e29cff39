//! The identity in a certificate: a role and a name, carried in its URI subject alternative name. TLS has checked issuer and
//! dates of a peer's certificate before. The bytes come from a peer, so nothing here panics.

use std::fmt;
use std::str::FromStr;

use usher_proto::id::NodeName;
use x509_parser::extensions::GeneralName;

use crate::certificate;

/// Prefix of every identity's URI. The word `cluster` is literal: a certificate is only accepted under its own cluster's
/// authority, so the cluster's name would add nothing to check.
const URI_PREFIX: &str = "usher://cluster/";

/// Role of a certificate's holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Serves the `usher.v1` API.
    Master,
    /// Serves media and attaches to the master.
    Node,
    /// An operator: may call the `Cluster` service.
    Admin,
    /// May send the feeds `live/NAME` and `live/NAME/…` of its name, and nothing else.
    Publisher,
}

impl Role {
    /// The role's word in URIs, file names and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Node => "node",
            Self::Admin => "admin",
            Self::Publisher => "publisher",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(word: &str) -> Result<Self, IdentityError> {
        match word {
            "master" => Ok(Self::Master),
            "node" => Ok(Self::Node),
            "admin" => Ok(Self::Admin),
            "publisher" => Ok(Self::Publisher),
            _ => Err(IdentityError::Role),
        }
    }
}

/// A role and a name, e.g. `node north-1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Role of the holder.
    pub role: Role,
    /// The holder's name, in the form of [`NodeName`] whatever the role.
    pub name: String,
}

/// Error of reading an identity from a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are not one whole X.509 certificate.
    #[error("the bytes are not an X.509 certificate")]
    NotACertificate,
    /// There is no `usher://cluster/…` URI in it.
    #[error("the certificate names no usher identity; use one made by `usher certs issue`")]
    Missing,
    /// It names more than one identity, which this crate's authority never signs.
    #[error("the certificate names more than one usher identity")]
    Ambiguous,
    /// The role is not master, node, admin or publisher.
    #[error("the certificate's role is not master, node, admin or publisher")]
    Role,
    /// The name does not have the form of a node name.
    #[error("the name is not 1 to 63 of a-z, 0-9, `-` and `.`, with a letter or digit at both ends")]
    Name,
}

impl Identity {
    /// An identity with a checked name.
    ///
    /// # Errors
    /// [`IdentityError::Name`] when `name` is not of the form of [`NodeName`].
    pub fn new(role: Role, name: &str) -> Result<Self, IdentityError> {
        NodeName::parse(name).map_err(|_| IdentityError::Name)?;
        Ok(Self { role, name: name.to_owned() })
    }

    /// Reads the identity out of a peer's certificate in DER, as TLS hands it over.
    ///
    /// # Errors
    /// [`IdentityError`]; see its variants. The caller refuses the peer.
    pub fn from_der(cert_der: &[u8]) -> Result<Self, IdentityError> {
        let cert = certificate::parse(cert_der).ok_or(IdentityError::NotACertificate)?;
        let sans = cert.subject_alternative_name().map_err(|_| IdentityError::NotACertificate)?;
        let names = sans.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(URI_PREFIX),
            _ => None,
        });
        let path = uris.next().ok_or(IdentityError::Missing)?;
        if uris.next().is_some() {
            return Err(IdentityError::Ambiguous);
        }
        let (role, name) = path.split_once('/').ok_or(IdentityError::Role)?;
        Self::new(role.parse()?, name)
    }

    /// The identity's URI, e.g. `usher://cluster/node/north-1`.
    pub fn uri(&self) -> String {
        format!("{URI_PREFIX}{}/{}", self.role, self.name)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;
    use crate::authority::Authority;
    use crate::certificate::der_of;

    fn with_uris(uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn every_role_survives_its_certificate() {
        let now = SystemTime::now();
        let authority = Authority::create("test", now).unwrap();
        for role in [Role::Master, Role::Node, Role::Admin, Role::Publisher] {
            let identity = Identity::new(role, "north-1.example").unwrap();
            let issued = authority.issue(&identity, &[], now).unwrap();
            assert_eq!(Identity::from_der(&der_of(&issued.cert_pem)).unwrap(), identity);
        }
    }

    #[test]
    fn hostile_certificates_name_nobody() {
        let table: &[(&[&str], IdentityError)] = &[
            (&[], IdentityError::Missing),
            (&["https://cluster/node/a"], IdentityError::Missing),
            (&["usher://other/node/a"], IdentityError::Missing),
            (&["USHER://cluster/node/a"], IdentityError::Missing),
            (&["usher://cluster/node/a", "usher://cluster/admin/a"], IdentityError::Ambiguous),
            (&["usher://cluster/node"], IdentityError::Role),
            (&["usher://cluster/root/a"], IdentityError::Role),
            (&["usher://cluster/Node/a"], IdentityError::Role),
            (&["usher://cluster/node/"], IdentityError::Name),
            (&["usher://cluster/node/a/b"], IdentityError::Name),
            (&["usher://cluster/node/../a"], IdentityError::Name),
            (&["usher://cluster/node/a b"], IdentityError::Name),
            (&["usher://cluster/node/a\n"], IdentityError::Name),
            (&["usher://cluster/node/A"], IdentityError::Name),
        ];
        for (uris, error) in table {
            assert_eq!(Identity::from_der(&with_uris(uris)).as_ref(), Err(error), "{uris:?}");
        }
        let mut trailing = with_uris(&["usher://cluster/node/a"]);
        assert!(Identity::from_der(&trailing).is_ok());
        trailing.push(0);
        assert_eq!(Identity::from_der(&trailing), Err(IdentityError::NotACertificate));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(Identity::from_der(&bytes), Err(IdentityError::NotACertificate));
        }

        #[test]
        fn a_damaged_certificate_never_panics(at in any::<proptest::sample::Index>(), flip in 1_u8.., cut in any::<bool>()) {
            let mut der = with_uris(&["usher://cluster/node/a"]);
            let at = at.index(der.len());
            der[at] ^= flip;
            if cut {
                der.truncate(at);
                prop_assert!(Identity::from_der(&der).is_err());
            } else {
                // Damage outside the name may leave the name whole; the signature that TLS checks does not survive it.
                let _whole_or_not = Identity::from_der(&der);
            }
        }
    }
}
