//! Signatures as Standard Webhooks 1.0 has them: HMAC-SHA256 of `id.timestamp.body`, one for each key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::config::SigningKeys;

/// The value of `webhook-signature`. `timestamp`: of the attempt, in seconds since 1970.
pub fn signature(keys: &SigningKeys, id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut value = String::new();
    // HMAC takes a key of any length.
    for mut mac in keys.iter().filter_map(|key| Hmac::<Sha256>::new_from_slice(key).ok()) {
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        value.push_str(if value.is_empty() { "v1," } else { " v1," });
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut value);
    }
    value
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use http::{HeaderMap, HeaderValue};
    use standardwebhooks::Webhook;

    use super::*;

    const ID: &str = "01KATS5Q8ZJ6T3M0V9XW4RBCDE/ended";
    const BODY: &[u8] = "{\"specversion\":\"1.0\",\"data\":{\"to\":\"é\"}}".as_bytes();

    fn headers(signature: &str, timestamp: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", HeaderValue::from_static(ID));
        headers.insert("webhook-timestamp", timestamp.into());
        headers.insert("webhook-signature", signature.parse().unwrap());
        headers
    }

    #[test]
    fn the_reference_library_verifies_it() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let key = STANDARD.decode(&secret[6..]).unwrap();
        let raw = b"any text".to_vec();
        let oracle = Webhook::new(secret).unwrap();
        assert_eq!(
            signature(&SigningKeys::new(vec![key.clone()]), ID, now, BODY),
            oracle.sign(ID, now as i64, BODY).unwrap()
        );

        let of_both = signature(&SigningKeys::new(vec![raw.clone(), key]), ID, now, BODY);
        let headers = headers(&of_both, now);
        oracle.verify(BODY, &headers).unwrap();
        Webhook::from_bytes(raw).unwrap().verify(BODY, &headers).unwrap();
        assert!(oracle.verify(&BODY[1..], &headers).is_err());
        assert!(Webhook::from_bytes(b"another".to_vec()).unwrap().verify(BODY, &headers).is_err());
    }

    #[test]
    fn it_is_that_of_the_specification() {
        // The vector of the reference libraries.
        let keys = SigningKeys::new(vec![STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()]);
        let signed = signature(&keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
