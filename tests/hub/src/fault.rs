//! What can be made to go wrong.

use serde::{Deserialize, Serialize};

/// Something that goes wrong for some requests. The control endpoint takes a list of them as JSON:
/// `[{"part": "bytes", "name": "model", "times": 2, "kind": {"drop": {"after": 1000}}}]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// For which requests.
    pub part: Part,
    /// Only where the file's or repository's name holds this.
    #[serde(default)]
    pub name: String,
    /// For how many requests.
    #[serde(default = "once")]
    pub times: u32,
    /// What goes wrong.
    pub kind: FaultKind,
}

fn once() -> u32 {
    1
}

/// The kinds of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// `/api/...`.
    Api,
    /// `/NAME/resolve/...`, at the hub.
    Resolve,
    /// A file's bytes, at the hub or the store.
    Bytes,
}

/// What goes wrong. Positions count the bytes of an answer, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FaultKind {
    /// The connection is closed in the middle.
    Drop {
        /// After as many bytes.
        after: u64,
    },
    /// The answer says that it is shorter, and is.
    Truncate {
        /// As many bytes long.
        after: u64,
    },
    /// A bit is flipped.
    Corrupt {
        /// In this byte of the file.
        at: u64,
    },
    /// Nothing comes for a while, then the rest.
    Stall {
        /// After as many bytes.
        after: u64,
        /// For so long.
        ms: u64,
    },
    /// All of it comes slowly.
    Slow {
        /// Bytes a second.
        bytes_per_sec: u64,
    },
    /// A status in place of the file.
    Status {
        /// As in HTTP.
        status: u16,
        /// `Retry-After`.
        #[serde(default)]
        retry_after: Option<String>,
        /// `X-Error-Code`.
        #[serde(default)]
        error_code: Option<String>,
        /// `X-Error-Message`.
        #[serde(default)]
        message: Option<String>,
    },
    /// The entity tag is another one than before (at the store: as if the content had changed).
    Etag {
        /// Without quotes.
        etag: String,
    },
    /// The whole file comes, whatever was asked for.
    IgnoreRange,
    /// A redirect to somewhere else.
    Redirect {
        /// To this address.
        to: String,
    },
}

impl Fault {
    /// For the next `times` requests for the bytes of files whose names hold `name`.
    pub fn bytes(name: &str, times: u32, kind: FaultKind) -> Self {
        Self::of(Part::Bytes, name, times, kind)
    }

    /// For the next `times` requests of this kind.
    pub fn of(part: Part, name: &str, times: u32, kind: FaultKind) -> Self {
        Self {
            part,
            name: name.to_owned(),
            times,
            kind,
        }
    }

    pub(crate) fn applies(&self, part: Part, name: &str) -> bool {
        self.part == part && self.times > 0 && name.contains(&self.name)
    }
}

impl FaultKind {
    /// A status without anything else.
    pub fn status(status: u16) -> Self {
        Self::Status {
            status,
            retry_after: None,
            error_code: None,
            message: None,
        }
    }
}
