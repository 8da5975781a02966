//! The gateway of the default route: whether it answers to ARP. The route is read from /proc/net/route, which takes no lock that a
//! driver may hold.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::devices::is_name;
use super::reading::{Buffer, Kept, read_number};
use crate::engine::host::sample::GatewayStat;
use crate::sys::arp::Asker;

/// A gateway on the same link answers within a millisecond; one that has not by then does not count as there.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct GatewayReader {
    root: PathBuf,
    buffer: Buffer,
    /// The default routes come first in it.
    routes: Kept,
    asker: Option<(Route, Asker)>,
    /// While a question is open: until when.
    until: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    nic: String,
    /// `None`: everything goes into the link itself, as with a tunnel.
    gateway: Option<Ipv4Addr>,
    metric: u32,
}

/// What became of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// On its way; the socket may be a new one, and is to be watched.
    Wait,
    Told(GatewayStat),
    /// The sentence says why this host cannot tell.
    Missing(String),
}

impl GatewayReader {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            buffer: Buffer::new(),
            routes: Kept::new(root.join("proc/net/route")),
            asker: None,
            until: None,
        }
    }

    /// The socket that is readable when the gateway has answered.
    pub(super) fn asker(&self) -> Option<&Asker> {
        self.asker.as_ref().map(|(_, asker)| asker)
    }

    /// When an open question is lost.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Sends one request. It is lost after `within`, which is shorter than the time to the next one, and at most a second.
    pub(super) fn ask(&mut self, now: Instant, within: Duration) -> Asked {
        let route = self.routes.value(&mut self.buffer).and_then(default_route);
        let Some((route, gateway)) = route.and_then(|route| Some((route.clone(), route.gateway?))) else {
            self.asker = None;
            self.until = None;
            let ipv6 = self.root.join("proc/net/ipv6_route");
            return match Kept::new(ipv6).value(&mut self.buffer).is_some_and(has_ipv6_default) {
                true => Asked::Missing("the default route is one of IPv6; only gateways of IPv4 are asked".to_owned()),
                false => Asked::Told(GatewayStat::default()),
            };
        };
        if self.asker.as_ref().is_none_or(|(of, _)| *of != route) {
            self.asker = None;
            match self.open(&route, gateway) {
                Ok(asker) => self.asker = Some((route.clone(), asker)),
                Err(error) => return refused(&route, gateway, &error),
            }
        }
        let Some((_, asker)) = &self.asker else { return Asked::Wait };
        // What was said before it is asked is no answer.
        let sent = asker.answered().and_then(|_| asker.ask());
        if sent.is_err() {
            // The link is down, or has gone: then there is another socket next time.
            self.asker = None;
            self.until = None;
            return Asked::Told(stat(&route, false));
        }
        self.until = Some(now + within.min(ANSWER_MAX));
        Asked::Wait
    }

    /// The socket is readable.
    pub(super) fn hear(&mut self) -> Option<GatewayStat> {
        let (route, asker) = self.asker.as_ref()?;
        let heard = asker.answered();
        let route = route.clone();
        if heard.is_err() {
            self.asker = None;
        }
        let answered = heard.unwrap_or(false);
        // An answer to somebody else's question.
        self.until?;
        if !answered && self.asker.is_some() {
            return None;
        }
        self.until = None;
        Some(stat(&route, answered))
    }

    /// The deadline has passed.
    pub(super) fn give_up(&mut self, now: Instant) -> Option<GatewayStat> {
        self.until.filter(|until| *until <= now)?;
        self.until = None;
        let (route, _) = self.asker.as_ref()?;
        Some(stat(route, false))
    }

    fn open(&self, route: &Route, gateway: Ipv4Addr) -> io::Result<Asker> {
        let index = self.root.join("sys/class/net").join(&route.nic).join("ifindex");
        let index = read_number(&index).and_then(|index| u32::try_from(index).ok()).ok_or(Errno::ENODEV)?;
        Asker::new(gateway, index)
    }
}

fn stat(route: &Route, answered: bool) -> GatewayStat {
    GatewayStat { address: route.gateway.map(|address| address.to_string()), nic: Some(route.nic.clone()), answered }
}

fn refused(route: &Route, gateway: Ipv4Addr, error: &io::Error) -> Asked {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => {
            Asked::Missing(format!("cannot ask {gateway} by ARP: give the agent CAP_NET_RAW"))
        }
        Some(Errno::EAFNOSUPPORT) => Asked::Missing(format!("{} has no ARP to ask {gateway} by", route.nic)),
        Some(_) | None => Asked::Told(stat(route, false)),
    }
}

/// The one of the least metric, of those to 0.0.0.0/0 that are up and reject nothing.
fn default_route(text: &str) -> Option<Route> {
    text.lines().skip(1).filter_map(parse_route).min_by_key(|route| route.metric)
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask ..`, addresses in the bytes of the network as a number of the host.
fn parse_route(line: &str) -> Option<Route> {
    const UP: u32 = 1;
    const GATEWAY: u32 = 2;
    const REJECT: u32 = 0x200;
    let mut words = line.split_ascii_whitespace();
    let nic = words.next().filter(|name| is_name(name))?;
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let (destination, gateway, flags) = (hex(words.next()?)?, hex(words.next()?)?, hex(words.next()?)?);
    let metric = words.nth(2)?.parse().ok()?;
    let mask = hex(words.next()?)?;
    if destination != 0 || mask != 0 || flags & UP == 0 || flags & REJECT != 0 {
        return None;
    }
    let gateway = (flags & GATEWAY != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()));
    Some(Route { nic: nic.to_owned(), gateway, metric })
}

/// `destination length source length next-hop metric refs use flags device`: all zero, by way of a gateway.
fn has_ipv6_default(text: &str) -> bool {
    const GATEWAY: u32 = 2;
    const REJECT: u32 = 0x200;
    text.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [destination, "00", _, _, _, _, _, _, flags, _] = words[..] else { return false };
        let flags = u32::from_str_radix(flags, 16).unwrap_or(REJECT);
        destination.bytes().all(|byte| byte == b'0') && flags & GATEWAY != 0 && flags & REJECT == 0
    })
}

#[cfg(test)]
mod tests {
    use super::super::reading::testing::{garbage, put, root};
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
    /// The addresses as a host of little-endian numbers writes them.
    const ROUTES: &str = "eth1\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        eth2\t00000000\t00000000\t0201\t0\t0\t1\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn default_route_is_the_one_of_the_least_metric() {
        let route = default_route(&format!("{HEAD}{ROUTES}")).unwrap();
        assert_eq!((route.nic.as_str(), route.gateway), ("eth0", Some(Ipv4Addr::new(192, 0, 2, 1))));
        let tunnel = default_route(&format!("{HEAD}wg0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"));
        assert_eq!(tunnel.unwrap().gateway, None);
    }

    #[test]
    fn host_without_a_default_route_has_no_gateway_and_one_with_ipv6_only_says_so() {
        let root = root(&[("proc/net/route", HEAD)]);
        let mut reader = GatewayReader::new(root.path());
        assert_eq!(reader.ask(Instant::now(), ANSWER_MAX), Asked::Told(GatewayStat::default()));
        let zeros = "0".repeat(32);
        let next = "fe800000000000000000000000000001";
        put(
            root.path(),
            "proc/net/ipv6_route",
            format!("{zeros} 00 {zeros} 00 {next} 00000400 00000001 00000000 00000003     eth0\n"),
        );
        assert!(matches!(reader.ask(Instant::now(), ANSWER_MAX), Asked::Missing(why) if why.contains("IPv6")));
        put(
            root.path(),
            "proc/net/ipv6_route",
            format!("{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n"),
        );
        assert_eq!(reader.ask(Instant::now(), ANSWER_MAX), Asked::Told(GatewayStat::default()));
    }

    #[test]
    fn gateway_on_a_link_that_is_gone_does_not_answer() {
        let root = root(&[("proc/net/route", &format!("{HEAD}{ROUTES}"))]);
        let mut reader = GatewayReader::new(root.path());
        match reader.ask(Instant::now(), ANSWER_MAX) {
            Asked::Told(stat) => assert_eq!((stat.nic.as_deref(), stat.answered), (Some("eth0"), false)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn garbage_is_read_without_a_panic() {
        for seed in 0..2_000 {
            let bytes = garbage(seed, &[ROUTES, "00000000", "\t", "00 00 00"]);
            let text = String::from_utf8_lossy(&bytes);
            default_route(&text);
            has_ipv6_default(&text);
        }
    }
}
