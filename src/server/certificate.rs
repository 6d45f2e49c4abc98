//! When a certificate is valid: rustls checks that of others, not its own.
//!
//! **Source**: RFC 5280, section 4.1: `Certificate ::= SEQUENCE { tbsCertificate SEQUENCE { [0] version OPTIONAL, serialNumber,
//! signature, issuer, validity SEQUENCE { notBefore, notAfter }, … } … }`, in DER.

use chrono::NaiveDateTime;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// From when to when, both inclusive, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from_micros: i64,
    pub(super) to_micros: i64,
}

/// The validity of a certificate in DER; `None` if it is malformed.
pub(super) fn validity(der: &[u8]) -> Option<Validity> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, after)) = expect(rest, VERSION) {
        rest = after;
    }
    let (_serial, rest) = expect(rest, INTEGER)?;
    let (_signature, rest) = expect(rest, SEQUENCE)?;
    let (_issuer, rest) = expect(rest, SEQUENCE)?;
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (from_micros, rest) = time(validity)?;
    let (to_micros, _) = time(rest)?;
    Some(Validity {
        from_micros,
        to_micros,
    })
}

/// The content of the element that `bytes` start with, if its tag is `tag`; and what follows.
fn expect(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > size_of::<u32>() {
            return None;
        }
        length = digits
            .iter()
            .fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (tag, content, rest) = element(bytes)?;
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let full = match tag {
        // Two digits of a year: 50 and above are of the last century.
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = NaiveDateTime::parse_from_str(&full, "%Y%m%d%H%M%S").ok()?;
    Some((time.and_utc().timestamp_micros(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_validity_of_a_certificate_is_found() {
        let key = rcgen::KeyPair::generate().expect("a key");
        for (from, to) in [(2020, 2030), (1999, 2049), (2049, 2050)] {
            let mut params =
                rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
            params.not_before = rcgen::date_time_ymd(from, 3, 4);
            params.not_after = rcgen::date_time_ymd(to, 1, 2);
            let certificate = params.self_signed(&key).expect("signed");
            let micros = |text: String| {
                let time = chrono::DateTime::parse_from_rfc3339(&text).expect("a time");
                time.timestamp_micros()
            };
            let expected = Validity {
                from_micros: micros(format!("{from}-03-04T00:00:00Z")),
                to_micros: micros(format!("{to}-01-02T00:00:00Z")),
            };
            assert_eq!(validity(certificate.der()), Some(expected));
        }
    }

    #[test]
    fn every_prefix_of_a_certificate_is_malformed_or_the_same() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let der = params.self_signed(&key).expect("signed").der().to_vec();
        for length in 0..der.len() {
            assert_eq!(validity(&der[..length]), None, "{length}");
        }
        assert_eq!(validity(&[SEQUENCE, 0xff, 1, 2]), None);
    }
}
