//! How messages look as JSON.

use serde::Serializer;

/// Writes an enumeration's number as the part of its name that is its own: `LEASE_STATE_ACTIVE` becomes `active`.
pub(crate) fn enumeration<S, E>(number: &i32, serializer: S) -> Result<S::Ok, S::Error>
where
    S: Serializer,
    E: TryFrom<i32> + ShortName,
{
    match E::try_from(*number) {
        Ok(value) => serializer.serialize_str(&value.short_name()),
        Err(_) => serializer.serialize_i32(*number),
    }
}

/// Names without the enumeration's prefix, in lower case.
pub trait ShortName {
    /// The name of this value, such as `active`.
    fn short_name(&self) -> String;
}

macro_rules! short_names {
    ($($name:ident $prefix:literal),* $(,)?) => {
        $(impl ShortName for crate::v1::$name {
            fn short_name(&self) -> String {
                self.as_str_name().trim_start_matches($prefix).to_ascii_lowercase()
            }
        })*
    };
}

short_names! {
    AddressFamily "ADDRESS_FAMILY_",
    NodeState "NODE_STATE_",
    TokenRole "TOKEN_ROLE_",
    Role "ROLE_",
    EndpointState "ENDPOINT_STATE_",
    LeaseState "LEASE_STATE_",
    TaskState "TASK_STATE_",
    Check "CHECK_",
    Level "LEVEL_",
    ObjectKind "OBJECT_KIND_",
    Voting "VOTING_",
}
