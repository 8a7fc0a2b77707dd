//! What the picture kernel is told, for one model.

use ferry_core::RequestKind;
use ferry_cuda::picture::{PictureArgs, PictureError, PicturePlan, SourceMemory};
use ferry_engine::{EngineError, Picture};

/// The plans for pictures in device memory, and for those that the kernel reads in the host's.
#[derive(Debug)]
pub(super) struct Pictures {
    device: PicturePlan,
    mapped: PicturePlan,
}

impl Pictures {
    pub(super) fn new(picture: &Picture) -> Result<Pictures, PictureError> {
        Ok(Pictures {
            device: PicturePlan::new(picture.spec, SourceMemory::Device)?,
            mapped: PicturePlan::new(picture.spec, SourceMemory::Mapped)?,
        })
    }

    pub(super) fn args(
        &mut self,
        kind: &RequestKind,
        memory: SourceMemory,
    ) -> Result<PictureArgs, EngineError> {
        let RequestKind::Raw { width, height, format } = *kind else {
            return Err(EngineError::Run("not a raw picture".to_owned()));
        };
        let plan = match memory {
            SourceMemory::Device => &mut self.device,
            SourceMemory::Mapped => &mut self.mapped,
        };
        plan.args(width, height, format).map_err(|error| EngineError::Run(error.to_string()))
    }
}
