//! Whether a network card reaches the memory of the GPU that runs a model.

use ferry_core::{MemoryChoice, Transport};
use ferry_proto::v1;

use crate::error::ApiError;
use crate::models::Served;

/// The name of what was found about gdr with one device.
pub(crate) fn gdr_finding(ordinal: u32) -> String {
    format!("{} cuda:{ordinal}", Transport::Gdr)
}

/// A model that may be on a device, and what was found about gdr there.
#[derive(Clone, Copy, Debug)]
pub(super) struct GdrFit<'a> {
    model: &'a str,
    ordinal: Option<u32>,
    findings: &'a [v1::Finding],
}

impl<'a> GdrFit<'a> {
    pub(super) fn of(served: &'a Served, findings: &'a [v1::Finding]) -> GdrFit<'a> {
        let ordinal = served.device.as_ref().map(|device| device.ordinal());
        GdrFit { model: &served.name, ordinal, findings }
    }

    /// Whether the card of the server's lane reaches the memory of the model's device; its number.
    ///
    /// # Errors
    /// [`ApiError::Transport`] says what is missing, and what to do.
    pub(super) fn check(&self) -> Result<u32, ApiError> {
        let transport = Transport::Gdr;
        let model = self.model;
        let Some(ordinal) = self.ordinal else {
            let why = format!("{model} runs on the CPU, and has no memory of a GPU to write to");
            let fix = format!("ask for rdma, or set device = \"cuda:0\" in {model}.toml");
            return Err(ApiError::Transport { transport, why, fix });
        };
        let name = gdr_finding(ordinal);
        let found = self.findings.iter().find(|it| it.area == "transport" && it.name == name);
        let (why, fix) = match found {
            Some(found) if found.usable => return Ok(ordinal),
            Some(found) => (found.detail.clone(), found.fix.clone()),
            None => {
                let why = format!("cuda:{ordinal} was not there when the server started");
                (why, "restart the server".to_owned())
            }
        };
        let fix = format!("{fix}; or ask for rdma, which carries tensors in host memory");
        Err(ApiError::Transport { transport, why, fix })
    }

    /// What is chosen where rdma would be, and why: gdr, if the card reaches the device's memory
    /// and the client did not ask for memory of the host.
    pub(super) fn prefer(
        &self,
        asked: &v1::OpenSessionRequest,
        reason: String,
    ) -> (Transport, String) {
        if self.ordinal.is_none() {
            return (Transport::Rdma, reason);
        }
        let placement = asked.placement.as_ref();
        // One with no meaning is refused later.
        let memory = placement.and_then(|it| it.memory_choice().ok().flatten());
        let why = match (memory, self.check()) {
            (Some(MemoryChoice::Always(memory)), _) => {
                format!("the client asked for {} memory of the host", memory.name())
            }
            (_, Ok(ordinal)) => {
                let reason = format!(
                    "{reason}; the server's reaches memory of cuda:{ordinal}, which runs {}",
                    self.model
                );
                return (Transport::Gdr, reason);
            }
            (_, Err(ApiError::Transport { why, .. })) => why,
            (_, Err(error)) => error.to_string(),
        };
        (Transport::Rdma, format!("{reason} (not gdr: {why})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(ordinal: u32, usable: bool) -> v1::Finding {
        v1::Finding {
            area: "transport".into(),
            name: gdr_finding(ordinal),
            usable,
            detail: "the driver of rxe0 takes no dma-bufs".into(),
            fix: "take another card".into(),
        }
    }

    fn said(fit: &GdrFit<'_>) -> String {
        fit.check().unwrap_err().to_string()
    }

    #[test]
    fn gdr_needs_a_model_on_a_device_that_the_card_reached_at_the_start() {
        let findings = [finding(0, true), finding(1, false)];
        let fit = |ordinal| GdrFit { model: "resnet", ordinal, findings: &findings };
        assert_eq!(fit(Some(0)).check().unwrap(), 0);
        let on_cpu = said(&fit(None));
        assert!(on_cpu.contains("resnet runs on the CPU"), "{on_cpu}");
        let unreached = said(&fit(Some(1)));
        assert!(unreached.contains("takes no dma-bufs"), "{unreached}");
        assert!(unreached.contains("take another card; or ask for rdma"), "{unreached}");
        let late = said(&fit(Some(2)));
        assert!(late.contains("cuda:2 was not there"), "{late}");
    }

    #[test]
    fn auto_takes_gdr_in_place_of_rdma_only_where_the_card_reached_the_device() {
        let findings = [finding(0, true), finding(1, false)];
        let chosen = |ordinal, asked: &v1::OpenSessionRequest| {
            let fit = GdrFit { model: "resnet", ordinal, findings: &findings };
            fit.prefer(asked, "both have a card".into())
        };
        let plain = v1::OpenSessionRequest::default();
        let (transport, reason) = chosen(Some(0), &plain);
        assert_eq!(transport, Transport::Gdr);
        assert!(reason.contains("reaches memory of cuda:0"), "{reason}");
        assert_eq!(chosen(None, &plain), (Transport::Rdma, "both have a card".into()));
        let (transport, reason) = chosen(Some(1), &plain);
        assert_eq!(transport, Transport::Rdma);
        assert!(reason.contains("not gdr: the driver of rxe0"), "{reason}");
        let pinned = v1::OpenSessionRequest {
            placement: Some(v1::Placement {
                host_memory: "pinned".into(),
                ..v1::Placement::default()
            }),
            ..v1::OpenSessionRequest::default()
        };
        let (transport, reason) = chosen(Some(0), &pinned);
        assert_eq!(transport, Transport::Rdma);
        assert!(reason.contains("pinned memory of the host"), "{reason}");
    }
}
