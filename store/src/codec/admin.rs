//! Who may administer the cluster from elsewhere, and who has done what.

use pontoon_proto::v1;

use crate::model::admin::{Admin, Audited, CreateAdmin, Origin, Role};
use crate::model::id::{AdminId, NodeId};

use super::error::{CodecError, invalid, required};
use super::object::public_key;

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Admin => Self::Admin,
        }
    }
}

fn role(what: &'static str, role: i32) -> Result<Role, CodecError> {
    match v1::Role::try_from(role) {
        Ok(v1::Role::Viewer) => Ok(Role::Viewer),
        Ok(v1::Role::Operator) => Ok(Role::Operator),
        Ok(v1::Role::Admin) => Ok(Role::Admin),
        Ok(v1::Role::Unspecified) | Err(_) => {
            Err(invalid(what, "role", &role.to_string(), "a role that this version knows"))
        }
    }
}

impl From<&Admin> for v1::Admin {
    fn from(admin: &Admin) -> Self {
        Self {
            id: admin.id.0,
            name: admin.name.clone(),
            role: v1::Role::from(admin.role).into(),
            public_key: admin.public_key.to_vec(),
            created_ms: admin.created_ms,
            until_ms: admin.until_ms,
        }
    }
}

impl TryFrom<v1::Admin> for Admin {
    type Error = CodecError;

    fn try_from(admin: v1::Admin) -> Result<Self, CodecError> {
        Ok(Self {
            id: AdminId(admin.id),
            name: admin.name,
            role: role("admin", admin.role)?,
            public_key: public_key("admin", &admin.public_key)?,
            created_ms: admin.created_ms,
            until_ms: admin.until_ms,
        })
    }
}

impl From<&CreateAdmin> for v1::CreateAdmin {
    fn from(wanted: &CreateAdmin) -> Self {
        Self {
            name: wanted.name.clone(),
            role: v1::Role::from(wanted.role).into(),
            public_key: wanted.public_key.to_vec(),
            life_ms: wanted.life_ms,
        }
    }
}

impl TryFrom<v1::CreateAdmin> for CreateAdmin {
    type Error = CodecError;

    fn try_from(wanted: v1::CreateAdmin) -> Result<Self, CodecError> {
        Ok(Self {
            name: wanted.name,
            role: role("create_admin", wanted.role)?,
            public_key: public_key("create_admin", &wanted.public_key)?,
            life_ms: wanted.life_ms,
        })
    }
}

impl From<&Origin> for v1::Origin {
    fn from(origin: &Origin) -> Self {
        Self { who: origin.who.clone(), from: origin.from.clone() }
    }
}

impl From<v1::Origin> for Origin {
    fn from(v1::Origin { who, from }: v1::Origin) -> Self {
        Self { who, from }
    }
}

impl From<&Audited> for v1::Audited {
    fn from(audited: &Audited) -> Self {
        Self {
            index: audited.index,
            time_ms: audited.time_ms,
            node: audited.node.0,
            origin: Some((&audited.origin).into()),
            what: audited.what.clone(),
        }
    }
}

impl TryFrom<v1::Audited> for Audited {
    type Error = CodecError;

    fn try_from(audited: v1::Audited) -> Result<Self, CodecError> {
        Ok(Self {
            index: audited.index,
            time_ms: audited.time_ms,
            node: NodeId(audited.node),
            origin: required("audited", "origin", audited.origin)?.into(),
            what: audited.what,
        })
    }
}
