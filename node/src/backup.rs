//! What the cluster agrees on, as a file: `PTNBKUP1`, a `Backup` (store.proto), and the SHA-256 of both.

use pontoon_proto::v1;
use pontoon_store::codec::{decode_snapshot, encode_snapshot};
use pontoon_store::model::rejection::Reason;
use pontoon_store::model::state::State;
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::Code;

use crate::api::error::ApiError;

/// What each file begins with: the last character is the version of what follows.
const MAGIC: &[u8; 8] = b"PTNBKUP1";
/// The format of what the file holds.
const FORMAT: u32 = 1;
/// Bytes of the checksum.
const CHECKSUM: usize = 32;
/// Largest file that is taken, in bytes: some hundred times a cluster of 1,000 nodes and 100,000 containers' addresses.
pub(crate) const MAX_BYTES: usize = 1 << 30;

/// The file. It has no key and no token: whoever has it can read it, and do nothing with it.
pub(crate) fn write(state: &State) -> Vec<u8> {
    let mut state = state.clone();
    state.sealed_key.clear();
    state.tokens.clear();
    state.sessions.clear();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let backup = v1::Backup { format: FORMAT, version, snapshot: encode_snapshot(&state) };
    let mut file = MAGIC.to_vec();
    file.extend(backup.encode_to_vec());
    let checksum = Sha256::digest(&file);
    file.extend(checksum);
    file
}

/// The state from a file.
///
/// # Errors
///
/// It is no backup, is damaged, or was written by a later version.
pub(crate) fn read(file: &[u8]) -> Result<State, ApiError> {
    let refuse = |what: String, hint: &str| Err(ApiError::new(Code::InvalidArgument, "INVALID_BACKUP", what, hint));
    let Some(rest) = file.strip_prefix(MAGIC.as_slice()) else {
        return refuse("the file is no backup".to_owned(), "give one that pontoon backup has written");
    };
    let checked = file.split_last_chunk::<CHECKSUM>();
    if checked.is_none_or(|(content, checksum)| Sha256::digest(content).as_slice() != checksum) {
        let what = format!("the backup is damaged or cut off: its {} bytes have another checksum", file.len());
        return refuse(what, "use another copy of it");
    }
    let decoded = v1::Backup::decode(rest.get(..rest.len() - CHECKSUM).unwrap_or_default());
    let newer = "restore it with the version of pontoond that has written it, or a later one";
    let backup = match decoded {
        Ok(backup) if backup.format == FORMAT => backup,
        Ok(backup) => {
            let (found, version) = (backup.format, backup.version);
            return refuse(
                format!("the backup has format {found} (version {version}), and {FORMAT} is known here"),
                newer,
            );
        }
        Err(error) => return refuse(format!("the backup cannot be understood: {error}"), newer),
    };
    match decode_snapshot(&backup.snapshot) {
        Ok(state) if state.cluster.is_some() => Ok(state),
        Ok(_) => Err(ApiError::invalid(Reason::NotFounded, "the backup is of no cluster", "use another")),
        Err(error) => refuse(format!("the backup of version {} cannot be understood: {error}", backup.version), newer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::small_state;

    #[test]
    fn a_file_has_everything_but_secrets() {
        let mut state = small_state();
        state.sealed_key = b"the key of the authority".to_vec();
        let file = write(&state);
        assert!(!file.windows(8).any(|bytes| bytes == b"the key "));
        state.sealed_key.clear();
        state.sessions.clear();
        assert_eq!(read(&file).unwrap(), state);
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let file = write(&small_state());
        let refused = |file: &[u8]| {
            let error = read(file).unwrap_err();
            assert_eq!(error.reason, "INVALID_BACKUP");
            assert!(!error.hint.is_empty());
            error.message
        };
        for at in 0..file.len() {
            let mut wrong = file.clone();
            wrong[at] ^= 1;
            let message = refused(&wrong);
            assert!(message.contains(if at < MAGIC.len() { "is no backup" } else { "damaged" }), "{at}: {message}");
        }
        assert!(refused(&file[..file.len() / 2]).contains("cut off"));
        assert!(refused(b"").contains("no backup"));
        let newer = v1::Backup { format: 2, version: "9.0".into(), snapshot: Vec::new() };
        let mut newer = [MAGIC.as_slice(), &newer.encode_to_vec()].concat();
        newer.extend(Sha256::digest(&newer));
        assert!(refused(&newer).contains("format 2 (version 9.0)"));
    }
}
