//! Who may administer the cluster from elsewhere: a certificate of the cluster's authority, about a key that the state knows.

use std::fmt::Write;

use data_encoding::BASE64;
use pontoon_proto::v1;
use pontoon_store::model::admin::{Admin, CreateAdmin, Role};
use pontoon_store::model::command::{Command, Outcome};
use pontoon_store::model::id::AdminId;
use pontoon_store::model::rejection::Reason;
use pontoon_store::{Certificate, KeyError, NodeKey, error_chain, timestamp};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use tonic::Code;
use zeroize::Zeroizing;

use crate::api::error::ApiError;
use crate::api::unexpected;
use crate::lock::no_key;
use crate::member::Member;

/// Characters of a line of PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

/// Lets somebody in, with a key that only the answer has.
pub(crate) async fn create(
    member: &Member,
    request: v1::CreateAdminRequest,
) -> Result<v1::CreateAdminResponse, ApiError> {
    let role = match request.role() {
        v1::Role::Viewer => Role::Viewer,
        v1::Role::Operator => Role::Operator,
        v1::Role::Admin => Role::Admin,
        v1::Role::Unspecified => {
            let message = format!("it is not said what {} may do", request.name);
            return Err(ApiError::invalid(Reason::InvalidAdmin, message, "use --role viewer, operator or admin"));
        }
    };
    member.store().can_certify().map_err(|error| no_key(&error))?;
    let life_ms = if request.life_ms == 0 { Admin::DEFAULT_LIFE_MS } else { request.life_ms };
    let (document, public_key) = new_key()?;
    let wanted = CreateAdmin { name: request.name, role, public_key, life_ms };
    let admin = match member.propose(Command::CreateAdmin(wanted)).await? {
        Outcome::Admin(admin) => admin,
        other => return Err(unexpected(&other)),
    };
    match member.store().certify_admin(&admin) {
        Ok(certificate) => {
            let context = context(member, &admin, &certificate, &document);
            Ok(v1::CreateAdminResponse { admin: Some((&admin).into()), context })
        }
        Err(error) => {
            // Nobody has his key, and his name is free again.
            member.propose(Command::RemoveAdmin(admin.id)).await?;
            Err(no_key(&error))
        }
    }
}

/// Locks somebody out.
pub(crate) async fn remove(member: &Member, wanted: &str) -> Result<v1::RemoveAdminResponse, ApiError> {
    let find = async |end| {
        let admin = {
            let state = member.store().state();
            let named = state.admins.values().find(|admin| admin.name == wanted);
            named.or_else(|| state.admins.get(&AdminId(wanted.parse().ok()?))).map(|admin| admin.id)
        };
        let admin = admin.ok_or_else(|| {
            let message = format!("there is no admin {wanted:?}");
            let hint = "see `pontoon admin cert ls`";
            ApiError::new(Code::NotFound, Reason::AdminNotFound.as_str(), message, hint)
        })?;
        member.propose_by(Command::RemoveAdmin(admin), end).await
    };
    match member.write_named(wanted, find).await? {
        Outcome::Admin(admin) => Ok(v1::RemoveAdminResponse { admin: Some((&admin).into()) }),
        other => Err(unexpected(&other)),
    }
}

/// A key pair (PKCS #8), and its public half.
fn new_key() -> Result<(Zeroizing<Vec<u8>>, [u8; 32]), ApiError> {
    let no_random = |_| ApiError::bug("the system gave no random numbers");
    let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(no_random)?;
    let document = Zeroizing::new(made.as_ref().to_vec());
    let unusable = |error: KeyError| ApiError::bug(format!("a new key cannot be used: {}", error_chain(&error)));
    let public = NodeKey::from_pkcs8(&document).map_err(unusable)?.public();
    Ok((document, public))
}

/// What the program of an admin needs.
fn context(member: &Member, admin: &Admin, certificate: &Certificate, document: &[u8]) -> String {
    let mut text = format!(
        "Pontoon-Context: 1\nCluster: {}\nName: {}\nRole: {}\nUntil: {}\n",
        member.cluster(),
        admin.name,
        admin.role,
        timestamp(admin.until_ms)
    );
    let state = member.store().state();
    let own = state.nodes.get(&member.node()).into_iter();
    let others = state.nodes.values().filter(|node| node.id != member.node());
    for node in own.chain(others) {
        let _ = writeln!(text, "Address: {}", node.advertise);
    }
    text += &pem("CERTIFICATE", &certificate.own);
    certificate.authorities.iter().for_each(|authority| text += &pem("CERTIFICATE", authority));
    text + &pem("PRIVATE KEY", document)
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = Zeroizing::new(BASE64.encode(der));
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(PEM_LINE) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_short_lines() {
        let expected = format!("-----BEGIN X-----\n{}\nAA==\n-----END X-----\n", "A".repeat(64));
        assert_eq!(pem("X", &[0; 49]), expected);
    }
}
