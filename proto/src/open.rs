//! What a client asks for, from the wire.

use std::time::Duration;

use ferry_core::{
    Finding, NamedShapes, PlacementWish, RecordedBy, SessionSpec, Transport, WaitPolicy,
};

use crate::error::WireError;
use crate::v1;

/// Shapes by the names of their tensors.
pub fn named_shapes(shapes: Vec<v1::TensorShape>) -> NamedShapes {
    shapes.into_iter().map(|it| (it.name, it.shape)).collect()
}

/// A transport by its name; `None` stands for AUTO, which has none.
fn transport(name: &str) -> Result<Option<Transport>, WireError> {
    let named = (!name.is_empty()).then(|| name.parse::<Transport>());
    named.transpose().map_err(|why| WireError::invalid("transport", why))
}

/// A wait policy by its number.
///
/// # Errors
/// [`WireError`] for a number with no meaning.
pub fn wait(number: i32) -> Result<WaitPolicy, WireError> {
    let known = v1::WaitPolicy::try_from(number);
    Ok(known.map_err(|why| WireError::invalid("wait", why))?.into())
}

impl TryFrom<v1::Placement> for PlacementWish {
    type Error = WireError;

    fn try_from(wish: v1::Placement) -> Result<Self, WireError> {
        Ok(PlacementWish { cuda_ordinal: wish.cuda_ordinal, memory: wish.memory_choice()? })
    }
}

/// A timeout in microseconds; 0 is none.
pub fn timeout(us: u64) -> Option<Duration> {
    (us > 0).then(|| Duration::from_micros(us))
}

impl TryFrom<v1::OpenSessionRequest> for SessionSpec {
    type Error = WireError;

    fn try_from(asked: v1::OpenSessionRequest) -> Result<Self, WireError> {
        let recorded_by = match (asked.client_records, asked.unrecorded) {
            (true, false) => RecordedBy::Client,
            (false, false) => RecordedBy::Server,
            (false, true) => RecordedBy::Nobody,
            (true, true) => {
                let why = "set with client_records: either the client records, or nobody does";
                return Err(WireError::invalid("unrecorded", why));
            }
        };
        Ok(SessionSpec {
            protocol_min: asked.protocol_min,
            protocol_max: asked.protocol_max,
            transport: transport(&asked.transport)?,
            placement: asked.placement.unwrap_or_default().try_into()?,
            wait: wait(asked.wait)?,
            model: asked.model,
            version: asked.version,
            slots: asked.slots,
            shapes: named_shapes(asked.shapes),
            request_bytes_min: asked.request_bytes_min,
            reply_bytes_min: asked.reply_bytes_min,
            timeout: timeout(asked.timeout_us),
            run: asked.run_id,
            recorded_by,
            client: asked.client,
            host_id: asked.host_id,
            has_rdma: asked.has_rdma,
            has_cuda: asked.has_cuda,
        })
    }
}

impl From<&Finding> for v1::Finding {
    fn from(finding: &Finding) -> Self {
        let found = finding.found.clone();
        v1::Finding {
            area: finding.area.name().to_owned(),
            name: found.name,
            usable: found.usable,
            detail: found.detail,
            fix: found.fix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_meaning_is_refused_by_its_field() {
        let base = v1::OpenSessionRequest::default;
        let pinned = v1::Placement { host_memory: "soft".into(), ..Default::default() };
        for (asked, field) in [
            (v1::OpenSessionRequest { transport: "udp".into(), ..base() }, "transport"),
            (v1::OpenSessionRequest { wait: 99, ..base() }, "wait"),
            (v1::OpenSessionRequest { placement: Some(pinned), ..base() }, "placement.host_memory"),
            (
                v1::OpenSessionRequest { client_records: true, unrecorded: true, ..base() },
                "unrecorded",
            ),
        ] {
            let error = SessionSpec::try_from(asked).unwrap_err();
            assert!(
                matches!(error, WireError::Invalid { field: it, .. } if it == field),
                "{error}"
            );
        }
        let plain = SessionSpec::try_from(base()).unwrap();
        assert_eq!(plain, SessionSpec::default());
    }
}
