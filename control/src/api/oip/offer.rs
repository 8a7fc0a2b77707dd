//! A model as the protocol offers it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ferry_core::{DType, Dim, Signature, TensorSpec};

use crate::api::told;
use crate::error::ApiError;
use crate::models::{ModelError, Profile, Used};
use crate::serving::inline::{Contents, InlineRequest, InlineTensor};
use crate::state::State;
use crate::tenants::Tenant;

/// The engine whose model is offered as the identity of three dimensions, so that it can be put
/// beside that of another server.
const IDENTITY: &str = "echo";

/// A model and its tensors as clients name them.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) profile: Arc<Profile>,
    /// `None`: as the model has them.
    identity: Option<Signature>,
}

/// The version that a text names; 0 is the latest that serves.
///
/// # Errors
/// [`ApiError::Field`] if it names none.
pub(super) fn version(text: &str) -> Result<u64, ApiError> {
    // Some clients write the absence of a version so.
    if matches!(text, "" | "-1") {
        return Ok(0);
    }
    let is_plain = |number: &u64| *number > 0 && number.to_string() == text;
    let number = text.parse().ok().filter(is_plain);
    let why = || format!("{text:?} is no version: leave it empty, or give a number from 1 on");
    number.ok_or_else(|| ApiError::field("model_version", why()))
}

/// Why a model does not serve, as clients of this protocol are told.
pub(super) fn not_served(state: &State, why: ApiError) -> ApiError {
    match told::to_others(state, why) {
        ApiError::Model(ModelError::NotServed { name, why }) => {
            ModelError::NotServed { name, why: why.replace("Models.Load", "RepositoryModelLoad") }
                .into()
        }
        other => other,
    }
}

impl Offer {
    /// A model that serves, in memory or not.
    ///
    /// # Errors
    /// As [`Models::get`](crate::models::Models::get), and for a version without a meaning.
    pub(super) fn find(state: &State, name: &str, version: &str) -> Result<Offer, ApiError> {
        let profile = state.models.get(name, self::version(version)?);
        Ok(Offer::of(profile.map_err(|why| not_served(state, why.into()))?))
    }

    /// A model that serves, in memory: one that made room is waited for, at most until `until`.
    ///
    /// # Errors
    /// As [`find`](Offer::find), and as [`Residents::take`](crate::serving::residents::Residents::take).
    pub(super) async fn take(
        state: &State,
        tenant: &Arc<Tenant>,
        (name, version): (&str, &str),
        until: Option<Instant>,
    ) -> Result<(Offer, Used), ApiError> {
        let version = self::version(version)?;
        let used = state.residents.take(tenant, name, version, until).await;
        let used = used.map_err(|why| not_served(state, why))?;
        Ok((Offer::of(Arc::clone(&used.profile)), used))
    }

    fn of(profile: Arc<Profile>) -> Offer {
        let identity = (profile.engine == IDENTITY).then(|| {
            let tensor = |name: &str| TensorSpec {
                name: name.to_owned(),
                dtype: DType::F32,
                shape: ["d0", "d1", "d2"].map(|dim| Dim::Named(dim.to_owned())).to_vec(),
            };
            Signature { inputs: vec![tensor("INPUT0")], outputs: vec![tensor("OUTPUT0")] }
        });
        Offer { profile, identity }
    }

    /// What it takes and gives.
    pub(super) fn signature(&self) -> &Signature {
        self.identity.as_ref().unwrap_or_else(|| self.profile.signature())
    }

    /// The request as the model takes it, whose inputs are checked against what is offered.
    ///
    /// # Errors
    /// [`ModelError::Shapes`] if the identity is asked for another shape.
    pub(super) fn to_model<'r>(
        &self,
        request: &'r InlineRequest,
    ) -> Result<Cow<'r, InlineRequest>, ApiError> {
        let Some(offered) = &self.identity else { return Ok(Cow::Borrowed(request)) };
        offered.bind(&request.all_shapes()).map_err(ModelError::from)?;
        let mut request = request.clone();
        let own = self.profile.signature();
        for (input, spec) in request.inputs.iter_mut().zip(&own.inputs) {
            let bytes = input.contents.bytes();
            let (name, dtype, shape) = (spec.name.clone(), spec.dtype, vec![bytes]);
            *input = InlineTensor::<Contents> { name, dtype, shape, ..input.clone() };
            request.shapes = own.outputs.iter().map(|it| (it.name.clone(), vec![bytes])).collect();
        }
        Ok(Cow::Owned(request))
    }

    /// The outputs of `request` as they are offered.
    pub(super) fn as_offered(
        &self,
        request: &InlineRequest,
        outputs: Vec<InlineTensor>,
    ) -> Vec<InlineTensor> {
        let Some(offered) = &self.identity else { return outputs };
        let all = outputs.into_iter().zip(&request.inputs).zip(&offered.outputs);
        let one = |((output, input), spec): ((InlineTensor, &InlineTensor<Contents>), _)| {
            let TensorSpec { name, dtype, .. } = TensorSpec::clone(spec);
            InlineTensor::<Bytes> { name, dtype, shape: input.shape.clone(), ..output }
        };
        all.map(one).collect()
    }
}
