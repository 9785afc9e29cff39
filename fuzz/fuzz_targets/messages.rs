//! gRPC messages from clients, nodes and masters: bytes to messages to validated models.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use usher_proto::{
    Fault,
    model::{CatalogPage, Hello, Move, Presence, Report, Resolve, SeatAddress, Sessions, SetupInfo, What},
    pb::v1::{self, attach_request::Body, attach_response},
};

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = v1::AttachRequest::decode(data) {
        match request.body {
            Some(Body::Hello(hello)) => drop(Hello::try_from(hello)),
            Some(Body::Catalog(page)) => drop(CatalogPage::try_from(page)),
            Some(Body::Report(report)) => drop(Report::try_from(report)),
            Some(Body::Presence(presence)) => drop(Presence::try_from(presence)),
            Some(Body::Prepared(prepared)) => match prepared.result {
                Some(v1::prepared::Result::Setup(setup)) => drop(SetupInfo::try_from(setup)),
                Some(v1::prepared::Result::Refusal(no)) => {
                    drop(Fault::from(&no).to_status());
                }
                None => {}
            },
            Some(Body::Sessions(sessions)) => drop(Sessions::try_from(sessions)),
            // Numbers and texts that are taken as they are.
            Some(Body::Probed(_) | Body::Moved(_) | Body::Replicated(_)) | None => {}
        }
    }
    if let Ok(response) = v1::AttachResponse::decode(data)
        && let Some(attach_response::Body::Move(order)) = response.body
    {
        drop(Move::try_from(order));
    }
    if let Ok(request) = v1::ResolveManyRequest::decode(data) {
        for request in request.requests {
            if let Err(invalid) = Resolve::try_from(request) {
                drop(Fault::from_status(&invalid.to_status()));
            }
        }
    }
    if let Ok(request) = v1::LocateRequest::decode(data) {
        drop(What::try_from(request));
    }
    if let Ok(response) = v1::ResolveResponse::decode(data) {
        response.seats.into_iter().for_each(|seat| drop(SeatAddress::try_from(seat)));
    }
});
