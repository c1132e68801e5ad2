//! The real kernel, in network namespaces that these tests make. They need root, VXLAN and nft, and
//! fail without.

#[path = "kernel/lab.rs"]
mod lab;
#[path = "kernel/overlay.rs"]
mod overlay;
