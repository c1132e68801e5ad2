//! The real kernel, in network namespaces that these tests make. They need root, VXLAN and nft, and
//! fail without.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "kernel/egress.rs"]
mod egress;
#[path = "kernel/fence.rs"]
mod fence;
#[path = "kernel/lab.rs"]
mod lab;
#[path = "kernel/looping.rs"]
mod looping;
#[path = "kernel/overlay.rs"]
mod overlay;
#[path = "kernel/repair.rs"]
mod repair;
#[path = "kernel/scale.rs"]
mod scale;
