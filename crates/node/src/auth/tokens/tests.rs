//! Tokens of other makers: signed with OpenSSL, valid until the year 2286, for alice, in the group ops,
//! for the audience holdfast. The private keys are gone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::json;

use super::*;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const RSA: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAskfogRteA+hig8u8Sfl0
iVJgSOtrMKrLNpwtNGIX8/U1SIZJVKQVBwMxV+emeXQA1uVg3OPJQhn395pK0LFQ
ESvGSW5F/Fx8RRvW+TG+Ou9nAUyn3Iq/6kWsgp34/3uyguruV7o051Cnf5v33PRl
39qF4agSKgO/8S+GJHiGHBWqkuzRPPf0mIqZukuZsGcb8d0YfzJPrUGu3mPS/oWB
4ly6ToCwrHupIhH9HbBLO7/1ZH+WtV7wI5BZvyMqGCLZT6D1K0EfpJbYKnuEUEKR
m2PK0qQg7V1+8MP9/zmcYZbvDZnbH5PKhBr1xhmHub80fnhWzB1MuRHksm4Cs34a
LwIDAQAB
-----END PUBLIC KEY-----";
const P256: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAElMNQXHS8JRaGZ57FETVb4sAVGtiW
GWTzKvemORyIFhiJZcCMLLTYqZ3e0n4H/D5scZUIlTlMi7ArKUHtE0Ye2g==
-----END PUBLIC KEY-----";
const P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEN7VlgRUacrRgJQbeCCyqWfE5gATbN5Cv
aEfWrD8XGQo2PwKoUrw/uVWN30V6vD9t4Inh3AX6LNl14UDKQqtAnsdb1h7EfEBJ
WMkRNxmAVjtPB0yERe+kjztOg/Sw9IjK
-----END PUBLIC KEY-----";
const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA9gpfajrWCizZp/8SY1PkWKEM8pFZ87DeCRayiecMuN8=
-----END PUBLIC KEY-----";
const RS256: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OSwiYXVkIjoiaG9sZGZhc3QiLCJncm91cHMiOlsib3BzIl19.gkERx-bCfLxdR84ObCzcBJ3A9idwjX_oo_-_fRWfVOVTNQ5sXy1BecDN6rQU8jaTCYFPqVGpcjYJi-aftniHTTkVTk2siJK4WyQXDcBdoTCPIoSuZdEmg9rG9cxpXWUkqgiVxwL9tKKvVtczyVdMCKINs_f-34uo4aZEbU58vqs_KdMr01zkg2ftpdI8sVY62KhuVNRm-6r6la-yzS-25fGYfOFaPdkKENW7XDxBleeswpub0qSTtegLGre4N_gk4JG7MQDb2sdp7CCwjEfaLATdj643vynwB3n6f46heyjurFkvSys8WeSIGA9wEwJ4t7lrU1d790eyLgoLBP7lpA";
const PS256: &str = "eyJhbGciOiJQUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OSwiYXVkIjoiaG9sZGZhc3QiLCJncm91cHMiOlsib3BzIl19.ULSUS6I8BIbY8yd5JDIJdwZtrVKoZ63m8Tf2m0O450U3hjHA5Bf2CymXOvIiBHdRiYu4sAihLJheHd1YwAV0wZSs7aLoGlzeJBA7dz5snYlRl9QFkztClEApZhzqj-Pw3ru4iaqmIwtPuajsM__ehJkQHgwGn0Os5cDwQW-E7vRD1YYHOC2s7XT2ckeabkgssXpOCQM-G3Cfmot-iUUbJMUYISoVz4e96RAAid6Ml5tw3GHvHkdy5N-s4iGKyO6NLw_ZQ6el-6jTf3ipk-46B3uIyeKjSxbqeKaTXc098lc7VKaQUCHL-GAxbswpb_Ra1CsyvcsfZbrMORi6pnMHTw";
const ES256: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OSwiYXVkIjoiaG9sZGZhc3QiLCJncm91cHMiOlsib3BzIl19.7CRpPPpTGT6jA4QjCkHOLqANGmxpG2MalwsBxGzKQnWbG4bbTfeDx8ckaCf_EeKbpZ6GQEOqEl9wVQQq8_LGtA";
const ES384: &str = "eyJhbGciOiJFUzM4NCIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OSwiYXVkIjoiaG9sZGZhc3QiLCJncm91cHMiOlsib3BzIl19.GKF8_IWBICq8EhFBWtB7d-r0Lp9jDe8e699IGK5u2_olT97NiKNsjOyXD-CGRTNw80Yd8WgAyg0Ee_Au0scWu72qibmYx9TJZ-2GN_VJiat2X3Nhe9y6saDV9x3VvQ4D";
const EDDSA: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OSwiYXVkIjoiaG9sZGZhc3QiLCJncm91cHMiOlsib3BzIl19.hDfdtB29zPbksrR8h077bAO8mdaj6aJGhBCLYqFNc1w4ceih8IXSWHNny79vtXQrnMFvq6NVh1LMzyut5yW2CA";
/// Signed by the RSA key, with its `kid`, and with one that no key has.
const WITH_KID: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InIifQ.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OSwiYXVkIjoiaG9sZGZhc3QiLCJncm91cHMiOlsib3BzIl19.djQt2MwURet-MVAxQkQfHUK7b63GvNzl6bTNKnnOrIzIq3Nlsso_CDf6ZwlnZcYErfjUfoKBVIqqouejnA3d6s5fBnWO-mnpoNpuT0GUoBZ0sLVCva1JMvmbiRDPWLUJEYmO30WLardCWMSqOtgiKMs98M6K6b0QPtEBKus5g3k8wiilRpTI7flW2AMQcs4x8R696H31upox7B2jeRAO26O7hNiwtPx0D1SNMP3zKoJpKeHjRvWzefK5U_Pet-QKnyzOGM07o8cPtN-FUDPJ_Bkeao0ogjqqn4eoaO3d8RrwAZRs2LpZ5eNeHmCeDnVFk0ca6PV-zZn8BezE3cXrLA";
const WITH_ANOTHER_KID: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6Im90aGVyIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OSwiYXVkIjoiaG9sZGZhc3QiLCJncm91cHMiOlsib3BzIl19.kuy8lOK2z9Bs8CM3qtes7UQ6ea_IsKYCZmZ-c3tIi8x3wSgJThX1yf1RJ0bF59EJfx_kE9pzmbKwErOqrwV-u43U99-8LqdjL__9WelJbXZ7enGKo-Epxdt9zxK5rfzJzRaQuZv6HJnbZh8r0wS-pvxvaPixeF6dQoQcOFw4pSCoxB9CjE2o2g0Q0ubIDGkglPjdGMFh8AlOR9oLwDmwlskny_HMbcLeJhvzIutSAdNlS5FLBlw33Qv5RKguGokVD6FD814l5iK_aty0eiXbeNzFCs0i6iJHmXmPi7eVbzohI7dWHJnb_EYcyOO1mk8Nwy4c1ZUNcrC2AA6V9PAQnA";
const KEY_SET: &str = r#"{
 "keys": [
  {
   "kty": "RSA",
   "kid": "r",
   "use": "sig",
   "alg": "RS256",
   "n": "skfogRteA-hig8u8Sfl0iVJgSOtrMKrLNpwtNGIX8_U1SIZJVKQVBwMxV-emeXQA1uVg3OPJQhn395pK0LFQESvGSW5F_Fx8RRvW-TG-Ou9nAUyn3Iq_6kWsgp34_3uyguruV7o051Cnf5v33PRl39qF4agSKgO_8S-GJHiGHBWqkuzRPPf0mIqZukuZsGcb8d0YfzJPrUGu3mPS_oWB4ly6ToCwrHupIhH9HbBLO7_1ZH-WtV7wI5BZvyMqGCLZT6D1K0EfpJbYKnuEUEKRm2PK0qQg7V1-8MP9_zmcYZbvDZnbH5PKhBr1xhmHub80fnhWzB1MuRHksm4Cs34aLw",
   "e": "AQAB"
  },
  {
   "kty": "EC",
   "kid": "e",
   "crv": "P-256",
   "x": "lMNQXHS8JRaGZ57FETVb4sAVGtiWGWTzKvemORyIFhg",
   "y": "iWXAjCy02Kmd3tJ-B_w-bHGVCJU5TIuwKylB7RNGHto"
  },
  {
   "kty": "EC",
   "kid": "e3",
   "crv": "P-384",
   "x": "N7VlgRUacrRgJQbeCCyqWfE5gATbN5CvaEfWrD8XGQo2PwKoUrw_uVWN30V6vD9t",
   "y": "4Inh3AX6LNl14UDKQqtAnsdb1h7EfEBJWMkRNxmAVjtPB0yERe-kjztOg_Sw9IjK"
  },
  {
   "kty": "OKP",
   "kid": "o",
   "crv": "Ed25519",
   "x": "9gpfajrWCizZp_8SY1PkWKEM8pFZ87DeCRayiecMuN8"
  },
  {
   "kty": "RSA",
   "kid": "enc",
   "use": "enc",
   "n": "skfogRteA-hig8u8Sfl0iVJgSOtrMKrLNpwtNGIX8_U1SIZJVKQVBwMxV-emeXQA1uVg3OPJQhn395pK0LFQESvGSW5F_Fx8RRvW-TG-Ou9nAUyn3Iq_6kWsgp34_3uyguruV7o051Cnf5v33PRl39qF4agSKgO_8S-GJHiGHBWqkuzRPPf0mIqZukuZsGcb8d0YfzJPrUGu3mPS_oWB4ly6ToCwrHupIhH9HbBLO7_1ZH-WtV7wI5BZvyMqGCLZT6D1K0EfpJbYKnuEUEKRm2PK0qQg7V1-8MP9_zmcYZbvDZnbH5PKhBr1xhmHub80fnhWzB1MuRHksm4Cs34aLw",
   "e": "AQAB"
  }
 ]
}"#;

/// With this file as `key_file` or `jwks_file`.
fn tokens(key_file: Option<&[u8]>, jwks: Option<&str>, audience: &str) -> Result<Tokens, String> {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let config = JwtConfig {
        jwks_file: jwks.map(|text| put("jwks.json", text.as_bytes())),
        key_file: key_file.map(|content| put("key", content)),
        audience: audience.to_owned(),
    };
    let tokens = Tokens::read(&config).map_err(|error| error.to_string())?;
    Ok(tokens.unwrap())
}

fn verify(tokens: &Tokens, token: &str) -> Result<Verified, &'static str> {
    tokens.verify(token.as_bytes(), SystemTime::now())
}

fn signed(header: &serde_json::Value, claims: &serde_json::Value, secret: &[u8]) -> String {
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn hs256(claims: &serde_json::Value) -> String {
    signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET)
}

fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    i64::try_from(now).unwrap() + seconds
}

#[test]
fn a_token_is_taken_with_its_key_and_no_other() {
    let pairs = [
        (RSA, RS256),
        (RSA, PS256),
        (P256, ES256),
        (P384, ES384),
        (ED25519, EDDSA),
    ];
    for (own, token) in pairs {
        for (key, _) in pairs {
            let tokens = tokens(Some(key.as_bytes()), None, "holdfast").unwrap();
            let verified = verify(&tokens, token);
            assert_eq!(verified.is_ok(), key == own, "{verified:?}");
            if let Ok(verified) = verified {
                assert_eq!(verified.user.as_str(), "alice");
                assert_eq!(verified.groups, ["ops"]);
                assert!(tokens.has(verified.key));
                assert_eq!(
                    verified.expires_at,
                    UNIX_EPOCH + Duration::from_secs(9_999_999_999)
                );
            }
        }
    }
}

#[test]
fn a_changed_token_is_not_taken() {
    let tokens = tokens(Some(RSA.as_bytes()), None, "").unwrap();
    assert!(verify(&tokens, RS256).is_ok());
    let parts: Vec<&str> = RS256.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(json!({"sub": "bob", "exp": 9_999_999_999_u64}).to_string());
    for token in [
        format!("{}.{other}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.{}x", parts[0], parts[1], parts[2]),
        String::new(),
        "..".to_owned(),
        "ey.ey.ey".to_owned(),
    ] {
        assert!(verify(&tokens, &token).is_err(), "{token}");
    }
}

/// The classic: a public key as the secret of an HMAC, and no signature at all.
#[test]
fn the_token_does_not_choose_the_algorithm() {
    let claims = json!({"sub": "alice", "exp": in_seconds(60)});
    for key in [RSA, P256, ED25519] {
        let tokens = tokens(Some(key.as_bytes()), None, "").unwrap();
        for secret in [key.as_bytes(), key.trim_end().as_bytes()] {
            let header = json!({"alg": "HS256", "typ": "JWT"});
            assert!(verify(&tokens, &signed(&header, &claims, secret)).is_err());
        }
    }
    let tokens = tokens(Some(SECRET), None, "").unwrap();
    assert!(verify(&tokens, &hs256(&claims)).is_ok());
    for algorithm in ["none", "None", "NONE", "HS384", "RS256", ""] {
        let token = signed(&json!({"alg": algorithm}), &claims, SECRET);
        assert!(verify(&tokens, &token).is_err(), "{algorithm}");
        let (claims, _) = token.rsplit_once('.').unwrap();
        let unsigned = format!("{claims}.");
        assert!(verify(&tokens, &unsigned).is_err(), "{algorithm}");
    }
    let critical = json!({"alg": "HS256", "crit": ["x"], "x": 1});
    assert!(verify(&tokens, &signed(&critical, &claims, SECRET)).is_err());
}

#[test]
fn every_claim_is_checked() {
    let tokens = tokens(Some(SECRET), None, "holdfast").unwrap();
    let good = json!({"sub": "alice", "exp": in_seconds(60), "aud": "holdfast"});
    let with = |key: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[key] = value;
        if claims[key].is_null() {
            claims.as_object_mut().unwrap().remove(key);
        }
        verify(&tokens, &hs256(&claims))
    };
    for (key, value) in [
        ("iat", json!(in_seconds(0))),
        ("exp", json!(9_999_999_999.5)),
        ("aud", json!(["x", "holdfast"])),
        ("nbf", json!(in_seconds(-60))),
        ("nbf", json!(in_seconds(3))),
        ("groups", json!(["a", "b"])),
    ] {
        assert!(with(key, value.clone()).is_ok(), "{key} {value}");
    }
    for (key, value) in [
        ("exp", json!(in_seconds(-1))),
        ("exp", json!(null)),
        ("exp", json!("9999999999")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("nbf", json!(in_seconds(60))),
        ("nbf", json!("0")),
        ("sub", json!(null)),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("sub", json!("a\u{0}b")),
        ("aud", json!("other")),
        ("aud", json!(null)),
        ("aud", json!(["x"])),
        ("groups", json!("ops")),
    ] {
        assert!(with(key, value.clone()).is_err(), "{key} {value}");
    }
}

#[test]
fn without_an_audience_none_is_asked_for() {
    let tokens = tokens(Some(SECRET), None, "").unwrap();
    for audience in [json!(null), json!("other")] {
        let claims = json!({"sub": "alice", "exp": in_seconds(60), "aud": audience});
        assert!(verify(&tokens, &hs256(&claims)).is_ok());
    }
}

#[test]
fn of_a_set_the_key_with_the_tokens_kid_is_taken_or_any_that_fits() {
    let tokens = tokens(None, Some(KEY_SET), "holdfast").unwrap();
    assert_eq!(tokens.len(), 4, "that for encryption is not counted");
    for (token, expected) in [
        (RS256, true),
        (ES256, true),
        (ES384, true),
        (EDDSA, true),
        (WITH_KID, true),
        (WITH_ANOTHER_KID, false),
        // The set says RS256 alone.
        (PS256, false),
    ] {
        assert_eq!(verify(&tokens, token).is_ok(), expected, "{token}");
    }
}

#[test]
fn a_secret_of_a_set_signs_too() {
    let secret = URL_SAFE_NO_PAD.encode(SECRET);
    let set = json!({"keys": [{"kty": "oct", "k": secret, "alg": "HS256"}]}).to_string();
    let tokens = tokens(None, Some(&set), "").unwrap();
    let claims = json!({"sub": "alice", "exp": in_seconds(60)});
    assert!(verify(&tokens, &hs256(&claims)).is_ok());
    assert!(!format!("{tokens:?}").contains(&secret));
}

#[test]
fn a_file_that_is_no_key_is_named_and_its_content_is_not() {
    for (content, problem) in [
        (&b"secret"[..], "less than 32 bytes"),
        (
            b"-----BEGIN PUBLIC KEY-----\nsecret\n-----END PUBLIC KEY-----",
            "no public key",
        ),
    ] {
        let error = tokens(Some(content), None, "").unwrap_err();
        assert!(
            error.contains("auth.jwt.key_file") && error.contains(problem),
            "{error}"
        );
        assert!(!error.contains("secret\n"), "{error}");
    }
    for (set, problem) in [
        ("{\"keys\": [{\"kty\": \"oct\", \"k\": hunter2}]}", "line 1"),
        ("{\"keys\": []}", "no key that can be used"),
        (
            "{\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-521\", \"x\": \"AA\", \"y\": \"AA\"}]}",
            "no key",
        ),
        (
            "{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}, {\"kty\": \"new\"}]}",
            "no key that can be used",
        ),
        ("[]", "JSON Web Key Set"),
    ] {
        let error = tokens(None, Some(set), "").unwrap_err();
        assert!(
            error.contains("auth.jwt.jwks_file") && error.contains(problem),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_password_is_not_taken_for_a_token() {
    assert!(is_token(RS256.as_bytes()));
    for password in ["", "pencil", "a.b.c", "eye", "ey.b", "ey.b.c.d"] {
        assert!(!is_token(password.as_bytes()), "{password}");
    }
}
