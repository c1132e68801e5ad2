//! Whether a node is to vote.

use pontoon_proto::v1;

use crate::model::object::Voting;

use super::error::{CodecError, invalid};

impl From<Voting> for v1::Voting {
    fn from(voting: Voting) -> Self {
        match voting {
            Voting::Auto => Self::Auto,
            Voting::Promoted => Self::Promoted,
            Voting::Demoted => Self::Demoted,
        }
    }
}

impl From<v1::Voting> for Voting {
    fn from(voting: v1::Voting) -> Self {
        match voting {
            v1::Voting::Auto => Self::Auto,
            v1::Voting::Promoted => Self::Promoted,
            v1::Voting::Demoted => Self::Demoted,
        }
    }
}

pub(super) fn voting(what: &'static str, voting: i32) -> Result<Voting, CodecError> {
    let known = v1::Voting::try_from(voting).map(Into::into);
    known.map_err(|_| invalid(what, "voting", &voting.to_string(), "whether a node is to vote"))
}
