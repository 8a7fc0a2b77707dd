//! What the picture kernel is told, for one model.

use ferry_core::{RequestKind, Signature};
use ferry_cuda::picture::{PictureError, PicturePlan, PictureStep, SourceMemory};
use ferry_engine::{EngineError, Picture};
use ferry_vision::Numbers;

/// The plan for pictures in device memory, and the numbers of the model's input.
#[derive(Debug)]
pub(super) struct Pictures {
    plan: PicturePlan,
    numbers: Numbers,
}

impl Pictures {
    /// `None` where the model's input is none that a kernel makes.
    ///
    /// # Errors
    /// [`PictureError::Spec`] if the picture's description makes no sense.
    pub(super) fn new(
        picture: &Picture,
        signature: &Signature,
    ) -> Result<Option<Pictures>, PictureError> {
        let plan = PicturePlan::new(picture.spec, SourceMemory::Device)?;
        let [input] = signature.inputs.as_slice() else { return Ok(None) };
        Ok(Numbers::of(input.dtype).map(|numbers| Pictures { plan, numbers }))
    }

    pub(super) fn step(&mut self, kind: &RequestKind) -> Result<PictureStep, EngineError> {
        let RequestKind::Raw { width, height, format } = *kind else {
            return Err(EngineError::Run("not a raw picture".to_owned()));
        };
        let args = self.plan.args(width, height, format);
        let args = args.map_err(|error| EngineError::Run(error.to_string()))?;
        Ok(PictureStep { args, numbers: self.numbers })
    }
}
