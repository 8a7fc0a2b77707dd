//! What the picture kernel is told, for one model.

use ferry_core::RequestKind;
use ferry_cuda::picture::{PictureArgs, PictureError, PicturePlan, SourceMemory};
use ferry_engine::{EngineError, Picture};

/// The plan for pictures in device memory.
#[derive(Debug)]
pub(super) struct Pictures(PicturePlan);

impl Pictures {
    pub(super) fn new(picture: &Picture) -> Result<Pictures, PictureError> {
        Ok(Pictures(PicturePlan::new(picture.spec, SourceMemory::Device)?))
    }

    pub(super) fn args(&mut self, kind: &RequestKind) -> Result<PictureArgs, EngineError> {
        let RequestKind::Raw { width, height, format } = *kind else {
            return Err(EngineError::Run("not a raw picture".to_owned()));
        };
        self.0.args(width, height, format).map_err(|error| EngineError::Run(error.to_string()))
    }
}
