//! A master's orders to move a session or to end it, validated.

use super::{
    SeatAddress,
    invalid::{Check, Invalid},
    sessions,
};
use crate::{
    code::{Code, Fault},
    id::{NodeName, SessionId},
    pb::{v1, wire},
    wire::{Kind, message},
};

/// An order to move a session to another seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Identifies the answer.
    pub id: u64,
    /// The session.
    pub session: SessionId,
    /// The node of the seat.
    pub to: NodeName,
    /// The new seat: usable by a client, and short enough for a `Moved` frame.
    pub seat: v1::Seat,
}

impl Move {
    /// The encoded `Moved` frame: the new seat sends the bytes from `until` on.
    pub fn frame(&self, until: u64) -> bytes::Bytes {
        // Cannot fail: `try_from` has encoded the frame with the longest number.
        message(Kind::Moved, &wire::Moved { seat: Some(self.seat.clone()), until }).unwrap_or_default()
    }
}

impl TryFrom<v1::Move> for Move {
    type Error = Invalid;

    fn try_from(order: v1::Move) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let session = check.take("session_id", sessions::id(&order.session_id));
        let seat = order.seat.unwrap_or_default();
        let to = check.take("seat", SeatAddress::try_from(seat.clone())).map(|address| address.node);
        let fits = message(Kind::Moved, &wire::Moved { seat: Some(seat.clone()), until: u64::MAX }).is_some();
        check.require(fits, "seat", || "longer than its frame allows".to_owned());
        let whole = session.zip(to);
        check.done(whole.map(|(session, to)| Self { id: order.id, session, to, seat }))
    }
}

/// A session that is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndSession {
    /// Which.
    pub session: SessionId,
    /// Why, for its client.
    pub why: Fault,
}

impl EndSession {
    /// As a message.
    pub fn to_pb(&self) -> v1::EndSession {
        let Fault { code, message, .. } = &self.why;
        let why = v1::Refusal {
            reason: code.reason().to_owned(),
            message: message.clone(),
            retry_after_ms: self.why.retry_after_ms(),
        };
        v1::EndSession { session_id: self.session.0.to_be_bytes().to_vec(), why: Some(why) }
    }
}

impl TryFrom<v1::EndSession> for EndSession {
    type Error = Invalid;

    fn try_from(order: v1::EndSession) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let session = check.take("session_id", sessions::id(&order.session_id));
        let ended = || Fault::new(Code::Cancelled, "the master ended the session");
        let why = order.why.as_ref().map_or_else(ended, Fault::from);
        check.done(session.map(|session| Self { session, why }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_to_end_a_session_names_it() {
        let why = Fault::new(Code::TicketReplayed, "it also runs at another node");
        let order = EndSession { session: SessionId(7), why };
        assert_eq!(EndSession::try_from(order.to_pb()), Ok(order));
        let bare = v1::EndSession { session_id: vec![0; 16], why: None };
        assert_eq!(EndSession::try_from(bare.clone()).map(|order| order.why.code), Ok(Code::Cancelled));
        assert!(EndSession::try_from(v1::EndSession { session_id: vec![0; 15], ..bare }).is_err());
    }

    #[test]
    fn a_seat_that_no_client_can_use_is_no_order() {
        let seat = v1::Seat {
            node: "n".into(),
            addresses: vec!["[::1]:1".into()],
            certificate_sha256: vec!["00".repeat(32)],
            ticket: "secret".into(),
            zone: String::new(),
            lifetime_s: 0,
        };
        let good = v1::Move { id: 3, session_id: 7_u128.to_be_bytes().to_vec(), seat: Some(seat.clone()) };
        let order = Move::try_from(good.clone()).expect("valid");
        assert_eq!((order.id, order.session, order.to.as_str()), (3, SessionId(7), "n"));
        for (wrong, field) in [
            (v1::Move { session_id: vec![1; 15], ..good.clone() }, "session_id"),
            (v1::Move { seat: None, ..good.clone() }, "seat"),
            (v1::Move { seat: Some(v1::Seat { ticket: String::new(), ..seat.clone() }), ..good.clone() }, "seat"),
            (v1::Move { seat: Some(v1::Seat { zone: "z".repeat(9000), ..seat.clone() }), ..good.clone() }, "seat"),
        ] {
            let Err(Invalid(violations)) = Move::try_from(wrong) else { panic!("taken") };
            assert_eq!(violations.first().map(|one| one.field.as_str()), Some(field));
        }
    }
}
