//! Who may administer the cluster from elsewhere, and the log of who has done what.

use crate::model::admin::{Admin, Audited, CreateAdmin, Origin, describe};
use crate::model::command::{Command, MOVES, Outcome};
use crate::model::entry::RequestId;
use crate::model::id::AdminId;
use crate::model::name;
use crate::model::rejection::{Reason, Rejection};

use super::{Change, Changing};

/// How many admins there are at most.
const MAX_ADMINS: usize = 1_000;
/// Longest text that says who somebody is or where he is, in bytes.
const MAX_ORIGIN: usize = 128;

impl Changing<'_> {
    pub(super) fn create_admin(&mut self, wanted: &CreateAdmin) -> Result<Outcome, Rejection> {
        name::check("admin", &wanted.name, name::MAX_NAME)?;
        if !Admin::LIFE_MS.contains(&wanted.life_ms) {
            let message = format!("admin {} cannot be let in for {} ms", wanted.name, wanted.life_ms);
            return Err(Rejection::new(Reason::InvalidAdmin, message, "use 1m to 87600h (ten years)"));
        }
        let now = self.state.clock_ms;
        let mut known = self.state.admins.values();
        if let Some(other) = known.find(|admin| admin.name == wanted.name && admin.until_ms > now) {
            let message = format!("there is an admin {} already", other.name);
            let hint = format!("use another name, or lock that one out with `pontoon admin cert rm {}`", other.name);
            return Err(Rejection::new(Reason::AdminNameTaken, message, hint));
        }
        if self.state.admin_with_key(&wanted.public_key).is_some() {
            let message = format!("admin {} cannot have that key: another has it", wanted.name);
            return Err(Rejection::new(Reason::InvalidAdmin, message, "use another key"));
        }
        // One that has ended makes room for one of its name, or for any.
        let ended: Vec<AdminId> =
            self.state.admins.values().filter(|admin| admin.until_ms <= now).map(|a| a.id).collect();
        if self.state.admins.len() - ended.len() >= MAX_ADMINS {
            let message = format!("there are {MAX_ADMINS} admins already");
            return Err(Rejection::new(
                Reason::InvalidAdmin,
                message,
                "see `pontoon admin cert ls`, and lock some out",
            ));
        }
        let gone = |admin: &&Admin| admin.until_ms <= now && admin.name == wanted.name;
        let gone = self.state.admins.values().filter(gone).map(|admin| admin.id);
        let room = if self.state.admins.len() >= MAX_ADMINS { ended.first().copied() } else { None };
        for id in gone.chain(room).collect::<Vec<_>>() {
            self.state.admins.remove(&id);
            self.changes.insert(Change::Admin(id));
        }
        let admin = Admin {
            id: AdminId(self.entry_index),
            name: wanted.name.clone(),
            role: wanted.role,
            public_key: wanted.public_key,
            created_ms: now,
            until_ms: now + wanted.life_ms,
        };
        self.put_admin(admin.clone());
        Ok(Outcome::Admin(admin))
    }

    pub(super) fn remove_admin(&mut self, id: AdminId) -> Result<Outcome, Rejection> {
        let Some(admin) = self.state.admins.remove(&id) else {
            let message = format!("there is no admin {id}");
            return Err(Rejection::new(Reason::AdminNotFound, message, "see `pontoon admin cert ls`"));
        };
        self.changes.insert(Change::Admin(id));
        Ok(Outcome::Admin(admin))
    }

    /// Keeps who has done this, if somebody has.
    pub(super) fn audit(&mut self, request: RequestId, origin: Option<&Origin>, command: &Command, outcome: &Outcome) {
        let known = self.state.cluster.as_ref().is_some_and(|cluster| cluster.feature_level >= MOVES);
        let (true, Some(origin), Some(what)) = (known, origin, describe(command, outcome)) else { return };
        let Origin { who, from } = origin;
        let origin = Origin { who: cut(who), from: cut(from) };
        let (index, time_ms) = (self.entry_index, self.state.clock_ms);
        self.put_audited(Audited { index, time_ms, node: request.node, origin, what });
        while self.state.audit.len() > Audited::KEPT
            && let Some((oldest, _)) = self.state.audit.pop_first()
        {
            self.changes.insert(Change::Audited(oldest));
        }
    }

    pub(super) fn put_admin(&mut self, admin: Admin) {
        self.changes.insert(Change::Admin(admin.id));
        self.state.admins.insert(admin.id, admin);
    }

    pub(super) fn put_audited(&mut self, audited: Audited) {
        self.changes.insert(Change::Audited(audited.index));
        self.state.audit.insert(audited.index, audited);
    }
}

fn cut(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= MAX_ORIGIN).then_some(c)
        })
        .collect()
}
