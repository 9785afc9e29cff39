//! The TLS provider and its first cipher suite: AES-128-GCM of aws-lc-rs, with QUIC packets protected by ring on processors
//! where it is faster.
//!
//! Both use the instructions that take several AES blocks at once where they come with AVX-512; ring alone also where
//! they come with AVX2 (AMD Zen 3, Intel's client processors since 2021): there it takes 40 % less time for a packet.
//! All else, the handshake too, stays with aws-lc-rs.

use std::sync::{Arc, LazyLock};

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::cipher::{self, AeadKey, Iv};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider, aws_lc_rs};
use rustls::quic::{Algorithm, HeaderProtectionKey, PacketKey, Tag};
use rustls::{Error, SupportedCipherSuite, Tls13CipherSuite};

/// Packets under one key before it must be another, and forgeries before the connection must be closed (RFC 9001,
/// section 6.6).
const LIMITS: (u64, u64) = (1 << 23, 1 << 52);

static RING: LazyLock<Option<Tls13CipherSuite>> = LazyLock::new(|| {
    let suite = TLS13_AES_128_GCM_SHA256.tls13()?;
    let quic: &dyn Algorithm = Box::leak(Box::new(Ring { rest: suite.quic? }));
    Some(Tls13CipherSuite { common: CipherSuiteCommon { ..suite.common }, quic: Some(quic), ..*suite })
});

/// aws-lc-rs with the TLS 1.3 suites only and AES-128-GCM first: it is the cheapest per byte where AES is in hardware,
/// and as strong as the P-256 keys beside it. QUIC's packets are sealed by whichever library is faster here.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aes_128_gcm(), TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
        ..aws_lc_rs::default_provider()
    })
}

/// The faster implementation of the suite on this processor.
fn aes_128_gcm() -> SupportedCipherSuite {
    match &*RING {
        Some(suite) if ring_is_faster() => SupportedCipherSuite::Tls13(suite),
        _ => TLS13_AES_128_GCM_SHA256,
    }
}

#[cfg(target_arch = "x86_64")]
fn ring_is_faster() -> bool {
    let several = is_x86_feature_detected!("vaes") && is_x86_feature_detected!("vpclmulqdq");
    let wider = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl");
    several && is_x86_feature_detected!("avx2") && !wider
}

#[cfg(not(target_arch = "x86_64"))]
fn ring_is_faster() -> bool {
    false
}

/// Packets by ring, their headers as before.
struct Ring {
    rest: &'static dyn Algorithm,
}

impl Algorithm for Ring {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn PacketKey> {
        let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).expect("TLS makes a key of the length that is asked for");
        Box::new(RingKey { key: LessSafeKey::new(key), iv })
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn HeaderProtectionKey> {
        self.rest.header_protection_key(key)
    }

    fn aead_key_len(&self) -> usize {
        AES_128_GCM.key_len()
    }
}

struct RingKey {
    key: LessSafeKey,
    iv: Iv,
}

impl RingKey {
    /// Each packet has a number of its own under a key, hence a nonce of its own (RFC 9001, section 5.3).
    fn nonce(&self, packet_number: u64) -> Nonce {
        Nonce::assume_unique_for_key(cipher::Nonce::new(&self.iv, packet_number).0)
    }
}

impl PacketKey for RingKey {
    fn encrypt_in_place(&self, packet_number: u64, header: &[u8], payload: &mut [u8]) -> Result<Tag, Error> {
        let sealed = self.key.seal_in_place_separate_tag(self.nonce(packet_number), Aad::from(header), payload);
        sealed.map(|tag| Tag::from(tag.as_ref())).map_err(|_| Error::EncryptError)
    }

    fn decrypt_in_place<'a>(
        &self,
        packet_number: u64,
        header: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        let opened = self.key.open_in_place(self.nonce(packet_number), Aad::from(header), payload);
        opened.map(|plain| &*plain).map_err(|_| Error::DecryptError)
    }

    fn tag_len(&self) -> usize {
        AES_128_GCM.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        LIMITS.0
    }

    fn integrity_limit(&self) -> u64 {
        LIMITS.1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::Side;
    use rustls::quic::{Keys, Version};

    use super::*;

    /// The sealing key of one side of a connection and the opening key of the other.
    fn keys(
        connection: &[u8],
        from: &'static Tls13CipherSuite,
        to: &'static Tls13CipherSuite,
    ) -> [Box<dyn PacketKey>; 2] {
        let keys = |suite: &'static Tls13CipherSuite, side| {
            Keys::initial(Version::V1, suite, suite.quic.expect("for QUIC"), connection, side)
        };
        [keys(from, Side::Client).local.packet, keys(to, Side::Server).remote.packet]
    }

    proptest! {
        /// Each library opens packets of the other, and neither opens a changed packet.
        #[test]
        fn both_libraries_seal_alike(
            connection in prop::collection::vec(any::<u8>(), 1..20),
            number: u64,
            header in prop::collection::vec(any::<u8>(), 1..40),
            plain in prop::collection::vec(any::<u8>(), 0..1500),
            flip: prop::sample::Index,
        ) {
            let ours = RING.as_ref().expect("is made");
            let theirs = TLS13_AES_128_GCM_SHA256.tls13().expect("TLS 1.3");
            for (from, to) in [(ours, theirs), (theirs, ours), (ours, ours)] {
                let [seals, opens] = keys(&connection, from, to);
                prop_assert_eq!(seals.tag_len(), opens.tag_len());
                prop_assert_eq!(seals.confidentiality_limit(), opens.confidentiality_limit());
                prop_assert_eq!(seals.integrity_limit(), opens.integrity_limit());
                let mut sealed = plain.clone();
                let tag = seals.encrypt_in_place(number, &header, &mut sealed).expect("is short enough");
                sealed.extend(tag.as_ref());
                let mut changed = sealed.clone();
                changed[flip.index(sealed.len())] ^= 1;
                prop_assert!(opens.decrypt_in_place(number, &header, &mut changed).is_err());
                prop_assert!(opens.decrypt_in_place(number ^ 1, &header, &mut sealed.clone()).is_err());
                let opened = opens.decrypt_in_place(number, &header, &mut sealed).expect("is theirs");
                prop_assert_eq!(opened, &plain[..]);
            }
        }
    }
}
