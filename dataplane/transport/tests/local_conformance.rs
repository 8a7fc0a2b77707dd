//! The local link keeps the contract of links.

use ferry_conformance::{ClientEnd, ServerEnd};
use ferry_transport::local;

fn open() -> ServerEnd {
    let (listener, door) = local::listener();
    let connect = move |told: &ferry_transport::Admission, _: &_| {
        let (link, table) = door
            .connect(told.session, told.generation, &told.token)
            .map_err(|error| error.to_string())?;
        Ok(ClientEnd { link: Box::new(link), table })
    };
    ServerEnd { listener: Box::new(listener), connect: Box::new(connect) }
}

ferry_conformance::link_suite!(open);
