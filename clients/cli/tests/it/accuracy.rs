//! The digit classifier is right as often over every transport as it was when it was trained.

use ferry_client::PixelFormat;
use ferry_client::blocking::Client;
use ferry_conformance::transports::outside;
use ferry_zoo::digits::{HELD_OUT_CORRECT, SIDE, held_out};

use crate::server::Server;

#[test]
fn held_out_digits_are_recognised_over_every_transport() {
    let server = Server::start(&[], |_| {});
    let client = Client::connect(&server.url).unwrap();
    let side = u32::try_from(SIDE).unwrap();
    for transport in outside() {
        let mut session = client.session("digits").transport(transport).open().unwrap();
        let mut correct = 0;
        for digit in held_out() {
            let mut slot = session.slot().unwrap();
            slot.set_raw(side, side, PixelFormat::Gray8, digit.pixels).unwrap();
            let reply = session.infer(slot).unwrap();
            let scores = reply.output_f32(0).unwrap();
            let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
            correct += usize::from(best == usize::from(digit.label));
        }
        assert_eq!(correct, HELD_OUT_CORRECT, "{transport}");
        session.close().unwrap();
    }
}
