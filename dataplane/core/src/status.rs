//! How a request ended.

/// The outcome of one request, as it travels in a reply's header and stands in SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    /// The reply holds the model's outputs.
    Ok = 0,
    /// The frame broke the session's agreement: slot, generation, length or kind.
    BadRequest = 1,
    /// The picture could not be decoded.
    BadPicture = 2,
    /// The queue of the model is full; try again later.
    Overloaded = 3,
    /// The server finishes what it has and takes nothing new.
    Draining = 4,
    /// The model failed while it ran.
    EngineFailed = 5,
    /// The session was closed, expired or evicted meanwhile.
    SessionEnded = 6,
    /// The link broke: whether the request ran is not known.
    LinkLost = 7,
    /// The request kind is not served by this model.
    Unsupported = 8,
    /// The model ran, and its outputs are larger than the slot's room for a reply: open a session
    /// with more.
    ReplyTooLarge = 9,
    /// Its deadline passed before it ran, or would have passed before it could be answered. It did
    /// not run.
    Late = 10,
    /// Its caller went away while it waited. It did not run.
    Cancelled = 11,
    /// The tenant sends more requests than it may in that time: try again when the text says.
    RateLimited = 12,
}

impl Status {
    /// Every status, in wire order.
    pub const ALL: [Status; 13] = [
        Status::Ok,
        Status::BadRequest,
        Status::BadPicture,
        Status::Overloaded,
        Status::Draining,
        Status::EngineFailed,
        Status::SessionEnded,
        Status::LinkLost,
        Status::Unsupported,
        Status::ReplyTooLarge,
        Status::Late,
        Status::Cancelled,
        Status::RateLimited,
    ];

    /// The name in SQL and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::BadRequest => "bad_request",
            Status::BadPicture => "bad_picture",
            Status::Overloaded => "overloaded",
            Status::Draining => "draining",
            Status::EngineFailed => "engine_failed",
            Status::SessionEnded => "session_ended",
            Status::LinkLost => "link_lost",
            Status::Unsupported => "unsupported",
            Status::ReplyTooLarge => "reply_too_large",
            Status::Late => "late",
            Status::Cancelled => "cancelled",
            Status::RateLimited => "rate_limited",
        }
    }

    /// From its number on the wire; `None` for one that this build does not know.
    pub fn from_wire(number: u16) -> Option<Status> {
        Status::ALL.get(usize::from(number)).copied()
    }

    /// Its number on the wire.
    pub const fn to_wire(self) -> u16 {
        self as u16
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (i, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(status.to_wire()), i);
            assert_eq!(Status::from_wire(status.to_wire()), Some(status));
        }
        assert_eq!(Status::from_wire(13), None);
    }
}
