//! Compiles the `.proto` files with protox, so that no `protoc` is needed.

use std::error::Error;

use prost::Message;

/// Enumerations are numbers on the wire and names in `-o json`.
const ENUM_FIELDS: [(&str, &str); 18] = [
    ("pontoon.v1.Cluster.underlay", "AddressFamily"),
    ("pontoon.v1.Node.state", "NodeState"),
    ("pontoon.v1.Node.voting", "Voting"),
    ("pontoon.v1.SetNodeState.state", "NodeState"),
    ("pontoon.v1.SetVoting.voting", "Voting"),
    ("pontoon.v1.SetVotingRequest.voting", "Voting"),
    ("pontoon.v1.Endpoint.state", "EndpointState"),
    ("pontoon.v1.Lease.state", "LeaseState"),
    ("pontoon.v1.TaskStatus.state", "TaskState"),
    ("pontoon.v1.Finding.check", "Check"),
    ("pontoon.v1.Finding.level", "Level"),
    ("pontoon.v1.ObjectKey.kind", "ObjectKind"),
    ("pontoon.v1.Token.role", "TokenRole"),
    ("pontoon.v1.CreateToken.role", "TokenRole"),
    ("pontoon.v1.CreateTokenRequest.role", "TokenRole"),
    ("pontoon.v1.Admin.role", "Role"),
    ("pontoon.v1.CreateAdmin.role", "Role"),
    ("pontoon.v1.CreateAdminRequest.role", "Role"),
];

/// Keys are bytes on the wire and hexadecimal digits in `-o json`.
const HEX_FIELDS: [&str; 4] = [
    "pontoon.v1.Node.public_key",
    "pontoon.v1.AdmitNode.public_key",
    "pontoon.v1.Admin.public_key",
    "pontoon.v1.Token.hash",
];

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["admin", "objects", "peer", "store", "watch"].map(|name| format!("pontoon/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=pontoon");
    let descriptors = protox::compile(files, ["."])?;
    let mut config = tonic_prost_build::configure()
        // Maps keep their keys in order, so that encoding is deterministic.
        .btree_map(".")
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .type_attribute(".", "#[serde(rename_all = \"snake_case\")]");
    for (field, name) in ENUM_FIELDS {
        let attribute = format!("#[serde(serialize_with = \"crate::json::enumeration::<_, crate::v1::{name}>\")]");
        config = config.field_attribute(field, attribute);
    }
    for field in HEX_FIELDS {
        config = config.field_attribute(field, "#[serde(serialize_with = \"hex::serialize\")]");
    }
    // Some hundred bytes that people look at with other programs.
    config = config.field_attribute("pontoon.v1.Cluster.authorities", "#[serde(skip)]");
    config = config.field_attribute("pontoon.v1.Cluster.crossed", "#[serde(skip)]");
    // It tells a retry of an admission from a new one, and nothing to people.
    config = config.field_attribute("pontoon.v1.Node.attempt", "#[serde(skip)]");
    // For reflection, without the comments.
    let mut described = descriptors.clone();
    described.file.iter_mut().for_each(|file| file.source_code_info = None);
    let path = std::path::Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(path, described.encode_to_vec())?;
    config.compile_fds(descriptors)?;
    Ok(())
}
