//! Signatures of tokens, checked by `ring`: what `jsonwebtoken` asks of a provider, for which it has no
//! choice of its own that builds without a C toolchain of its own. Nothing is signed here.

use jsonwebtoken::crypto::{CryptoProvider, JwkUtils, JwtSigner, JwtVerifier};
use jsonwebtoken::errors::{Error, ErrorKind, new_error};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::error::Unspecified;
use ring::hmac;
use ring::signature::{
    self as scheme, EcdsaVerificationAlgorithm, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    jwk_utils: JwkUtils::new_unimplemented(),
};

/// Makes `jsonwebtoken` use it; more than once is the same as once.
pub(super) fn install() {
    PROVIDER.install_default().ok();
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(new_error(ErrorKind::InvalidAlgorithm))
}

/// # Errors
/// The key is of another family than the algorithm: a public key is never taken for a secret.
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    if !key.family().algorithms().contains(algorithm) {
        return Err(new_error(ErrorKind::InvalidAlgorithm));
    }
    Ok(Box::new(Check {
        algorithm: *algorithm,
        key: key.clone(),
    }))
}

/// One key with one algorithm.
struct Check {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.check(message, signature)
            .map_err(|_unspecified| signature::Error::new())
    }
}

impl Check {
    fn check(&self, message: &[u8], signature: &[u8]) -> Result<(), Unspecified> {
        match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let parameters = rsa(self.algorithm).ok_or(Unspecified)?;
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            DecodingKeyKind::SecretOrDer(key) => match self.key.family() {
                AlgorithmFamily::Hmac => {
                    let hash = mac(self.algorithm).ok_or(Unspecified)?;
                    hmac::verify(&hmac::Key::new(hash, key), message, signature)
                }
                AlgorithmFamily::Rsa => {
                    let parameters = rsa(self.algorithm).ok_or(Unspecified)?;
                    UnparsedPublicKey::new(parameters, key).verify(message, signature)
                }
                AlgorithmFamily::Ec => {
                    let curve = curve(self.algorithm).ok_or(Unspecified)?;
                    UnparsedPublicKey::new(curve, key).verify(message, signature)
                }
                AlgorithmFamily::Ed => {
                    UnparsedPublicKey::new(&scheme::ED25519, key).verify(message, signature)
                }
            },
        }
    }
}

fn mac(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    let hashes = [
        (Algorithm::HS256, hmac::HMAC_SHA256),
        (Algorithm::HS384, hmac::HMAC_SHA384),
        (Algorithm::HS512, hmac::HMAC_SHA512),
    ];
    of(&hashes, algorithm)
}

fn curve(algorithm: Algorithm) -> Option<&'static EcdsaVerificationAlgorithm> {
    let curves = [
        (Algorithm::ES256, &scheme::ECDSA_P256_SHA256_FIXED),
        (Algorithm::ES384, &scheme::ECDSA_P384_SHA384_FIXED),
    ];
    of(&curves, algorithm)
}

/// Of 2048 to 8192 bits: shorter keys are broken.
fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    let parameters = [
        (Algorithm::RS256, &scheme::RSA_PKCS1_2048_8192_SHA256),
        (Algorithm::RS384, &scheme::RSA_PKCS1_2048_8192_SHA384),
        (Algorithm::RS512, &scheme::RSA_PKCS1_2048_8192_SHA512),
        (Algorithm::PS256, &scheme::RSA_PSS_2048_8192_SHA256),
        (Algorithm::PS384, &scheme::RSA_PSS_2048_8192_SHA384),
        (Algorithm::PS512, &scheme::RSA_PSS_2048_8192_SHA512),
    ];
    of(&parameters, algorithm)
}

fn of<T: Copy>(table: &[(Algorithm, T)], algorithm: Algorithm) -> Option<T> {
    let found = table.iter().find(|(own, _)| *own == algorithm);
    found.map(|(_, meaning)| *meaning)
}
