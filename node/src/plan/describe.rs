//! Objects as text, for logs and `pontoon status`.

use std::fmt;

use pontoon_store::model::object::Family;

use super::object::{
    Address, Bridge, DockerUser, Fdb, Firewall, Forwarding, Namespace, Neighbour, Object, Place, Route, Veth, Vxlan,
};

fn updown(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn or_none<T: fmt::Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "none".to_owned(), ToString::to_string)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("on the host"),
            Self::Overlay => f.write_str("in our namespace"),
            Self::Sandbox(sandbox) => write!(f, "in {}", sandbox.netns),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(object) => object.fmt(f),
            Self::Firewall(object) => object.fmt(f),
            Self::DockerUser(object) => object.fmt(f),
            Self::Bridge(object) => object.fmt(f),
            Self::Vxlan(object) => object.fmt(f),
            Self::Forwarding(object) => object.fmt(f),
            Self::Veth(object) => object.fmt(f),
            Self::Address(object) => object.fmt(f),
            Self::Route(object) => object.fmt(f),
            Self::Fdb(object) => object.fmt(f),
            Self::Neighbour(object) => object.fmt(f),
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.mounted { "our namespace" } else { "our namespace without its file" })
    }
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(altered) = &self.altered {
            return write!(f, "firewall table ({altered})");
        }
        let (vnis, members) = (self.vnis.len(), self.members.len());
        write!(f, "firewall table (port {}, {vnis} VNIs, {members} members", self.vxlan_port)?;
        for subnet in &self.egress {
            write!(f, ", NAT for {subnet}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for DockerUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.complete { "" } else { " (incomplete)" };
        write!(f, "rules for {} in DOCKER-USER{state}", self.gateway)
    }
}

impl fmt::Display for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bridge {} ({}, mtu {}, {}", self.name, self.mac, self.mtu, updown(self.up))?;
        f.write_str(if self.mcast_snooping { ", multicast snooping)" } else { ")" })
    }
}

impl fmt::Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.tunnel;
        write!(
            f,
            "VXLAN device {} (VNI {}, local {}, port {}",
            self.name,
            self.vni,
            or_none(t.local.as_ref()),
            t.port
        )?;
        for (odd, name) in [(t.learning, "learning"), (!t.proxy, "no proxy"), (t.misses, "reports misses")] {
            if odd {
                write!(f, ", {name}")?;
            }
        }
        let learning = if self.port_learning { ", port learning" } else { "" };
        let bridge = or_none(self.bridge.as_ref());
        write!(f, ", {}, mtu {}, bridge {bridge}, {}{learning})", self.mac, self.mtu, updown(self.up))
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::V4 { "IPv4" } else { "IPv6" };
        write!(f, "{family} forwarding of {}", self.ifname)
    }
}

impl fmt::Display for Veth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = &self.port;
        let bridge = or_none(port.bridge.as_ref());
        write!(f, "veth {} of endpoint {} (bridge {bridge}, mtu {}", port.name, self.endpoint, port.mtu)?;
        write!(f, ", {}{}, peer ", updown(port.up), if port.isolated { ", isolated" } else { "" })?;
        if let Some(p) = &self.offer {
            return write!(f, "{} {} mtu {} {} left to an engine)", p.ifname, p.mac, p.mtu, updown(p.up));
        }
        match &self.peer {
            None => f.write_str("missing)"),
            Some(p) => {
                let sandbox = self.sandbox.as_ref().map_or("an unknown sandbox", |s| s.netns.as_str());
                write!(f, "{} in {sandbox} {} mtu {} {})", p.ifname, p.mac, p.mtu, updown(p.up))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address {} of {} {}", self.address, self.ifname, self.place)?;
        self.broadcast.map_or(Ok(()), |broadcast| write!(f, " (broadcast {broadcast})"))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gateway = or_none(self.gateway.as_ref());
        write!(f, "default route via {gateway} dev {} in {}", self.ifname, self.sandbox.netns)
    }
}

impl fmt::Display for Fdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bridge = if self.on_bridge { "" } else { ", not on the bridge" };
        write!(f, "fdb {} of VNI {} (VTEP {}{bridge})", self.mac, self.vni, or_none(self.vtep.as_ref()))
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "neighbour {} of VNI {} ({})", self.address, self.vni, self.mac)
    }
}
