//! Addresses that no call may reach: link-local ones, where clouds keep the credentials of the machine.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Amazon's metadata service over IPv6.
const AMAZON_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether nothing may be asked at `address`: 169.254.0.0/16, `fe80::/10`, metadata services, no address at all, in whichever
/// form an IPv6 address carries an IPv4 one.
pub(super) fn is_refused(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_refused_v4(address),
        IpAddr::V6(address) => {
            // fe80::/10.
            let is_link_local = address.segments()[0] & 0xffc0 == 0xfe80;
            is_link_local
                || address.is_unspecified()
                || address == AMAZON_METADATA
                || carried(address).is_some_and(is_refused_v4)
        }
    }
}

fn is_refused_v4(address: Ipv4Addr) -> bool {
    address.is_link_local() || address.is_unspecified() || address.is_broadcast()
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, NAT64 or 6to4.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(of(g, h)),
        (0, 0, 0, 0, 0, 0) if g != 0 => Some(of(g, h)),
        (0x2002, high, low, _, _, _) => Some(of(high, low)),
        _ => None,
    }
}

/// A name resolves to an address that must not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{host:?} is at {address}, a link-local or metadata address, which calls may not reach")]
pub(super) struct RefusedAddress {
    host: String,
    address: IpAddr,
}

/// The system's resolver, without refused addresses: a name that has one is not reached at all.
#[derive(Debug)]
pub(super) struct CheckedResolver;

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            if let Some(refused) = found.iter().find(|found| is_refused(found.ip())) {
                return Err(RefusedAddress {
                    host,
                    address: refused.ip(),
                }
                .into());
            }
            if found.is_empty() {
                return Err(
                    io::Error::new(io::ErrorKind::NotFound, "the host has no address").into(),
                );
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_refused_in_every_form() {
        for refused in [
            "169.254.0.0",
            "169.254.169.254",
            "169.254.255.255",
            "0.0.0.0",
            "255.255.255.255",
            "fe80::1",
            "febf::1",
            "::",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::",
            "fd00:ec2::254",
        ] {
            assert!(
                is_refused(refused.parse().expect("an address")),
                "{refused}"
            );
        }
        for allowed in [
            "169.253.255.255",
            "169.255.0.0",
            "127.0.0.1",
            "10.0.0.1",
            "::1",
            "fec0::1",
            "fe7f::1",
            "::ffff:10.0.0.1",
            "2606:4700::1111",
        ] {
            assert!(
                !is_refused(allowed.parse().expect("an address")),
                "{allowed}"
            );
        }
    }

    #[tokio::test]
    async fn a_name_at_a_refused_address_is_not_reached() {
        let resolve = |name: &str| CheckedResolver.resolve(name.parse().expect("a name"));
        assert!(resolve("localhost").await.is_ok());
        let refused = resolve("169.254.169.254").await.err().expect("refused");
        assert!(refused.is::<RefusedAddress>(), "{refused}");
    }
}
