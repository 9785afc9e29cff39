//! Identity of a caller, from the certificate that TLS has verified.

use std::sync::Arc;

use tonic::Request;
use usher_certs::{Identity, Role};
use usher_proto::{Fault, code::Code};

use crate::peer::Peer;

/// The client of the call's connection.
pub(super) fn peer<T>(request: &Request<T>) -> Result<Arc<Peer>, Fault> {
    let peer = request.extensions().get::<Arc<Peer>>();
    peer.cloned().ok_or_else(|| Fault::new(Code::Internal, "the call came over no connection"))
}

/// The caller's identity; `None` without a certificate.
pub(super) fn identity<T>(request: &Request<T>) -> Result<Option<Identity>, Fault> {
    let Some(certificates) = request.peer_certs() else { return Ok(None) };
    let Some(leaf) = certificates.first() else { return Ok(None) };
    Identity::from_der(leaf).map(Some).map_err(|error| Fault::new(Code::Denied, error.to_string()))
}

/// The caller's name, if its certificate has this role. `UNAUTHENTICATED` without a certificate.
pub(super) fn require<T>(request: &Request<T>, role: Role) -> Result<String, tonic::Status> {
    match identity(request)? {
        Some(identity) if identity.role == role => Ok(identity.name),
        Some(identity) => Err(Fault::new(
            Code::Denied,
            format!(
                "the certificate of {identity} does not have role {role}; use one from `usher certs issue {role} NAME`"
            ),
        )
        .to_status()),
        None => {
            let text = format!("this call needs a client certificate of role {role}: `usher certs issue {role} NAME`");
            Err(Fault::new(Code::Unauthenticated, text).to_status())
        }
    }
}
