//! The sessions of a model: one for each shape that is recorded.
//!
//! The library plans a convolution for one shape at a time. When a session meets another shape it
//! drops the plans of the last one, and with them the kernels that were compiled for it; a graph
//! that was recorded before then launches what is gone, and the driver crashes. So from its first
//! recording on, a session is given no other shape.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::recording::CudaSession;
use ferry_core::{BoundSignature, error_text};
use ferry_engine::EngineError;

/// Shapes that are recorded when they come, beside those that were got ready: each takes the
/// weights once more. A client chooses its shapes, and must not fill the device with them.
const ON_DEMAND_MAX: usize = 4;

/// The dimensions of a model's inputs, one input after the other: their number does not change.
type Dims = Vec<u64>;

/// See the module.
#[derive(Debug)]
pub(super) struct Sessions<S = CudaSession> {
    /// The one that the model was opened with.
    first: Arc<S>,
    state: Mutex<State<S>>,
}

#[derive(Debug)]
struct State<S> {
    /// The shape that the first one is kept for.
    of_first: Option<Dims>,
    others: Vec<(Dims, Arc<S>)>,
    others_max: usize,
    /// For runs of any shape, none of which is recorded.
    plain: Option<Arc<S>>,
}

impl<S> Sessions<S> {
    pub(super) fn new(first: S) -> Sessions<S> {
        let (of_first, others, plain) = (None, Vec::new(), None);
        let state = Mutex::new(State { of_first, others, others_max: ON_DEMAND_MAX, plain });
        Sessions { first: Arc::new(first), state }
    }

    /// Makes room for so many shapes beside those that come.
    pub(super) fn expect(&self, shapes: usize) {
        let mut state = self.lock();
        state.others_max = state.others_max.max(shapes.saturating_add(ON_DEMAND_MAX));
    }

    /// The session in which these shapes are recorded, made by `open` where there is none; `None`
    /// where there are as many as may be. The first that cannot be made is the last that is tried.
    pub(super) fn recorded(
        &self,
        shapes: &BoundSignature,
        open: impl FnOnce() -> Result<S, EngineError>,
    ) -> Option<Arc<S>> {
        let dims = dims(shapes);
        let mut state = self.lock();
        if *state.of_first.get_or_insert_with(|| dims.clone()) == dims {
            return Some(Arc::clone(&self.first));
        }
        if let Some((_, session)) = state.others.iter().find(|(of, _)| *of == dims) {
            return Some(Arc::clone(session));
        }
        if state.others.len() >= state.others_max {
            return None;
        }
        match open() {
            Ok(session) => {
                let session = Arc::new(session);
                state.others.push((dims, Arc::clone(&session)));
                Some(session)
            }
            Err(error) => {
                let (shapes, why) = (state.others.len() + 1, error_text(&error));
                tracing::warn!(shapes, why, "no graphs for requests of further shapes");
                state.others_max = state.others.len();
                None
            }
        }
    }

    /// The session for runs that are not recorded.
    pub(super) fn plain(
        &self,
        open: impl FnOnce() -> Result<S, EngineError>,
    ) -> Result<Arc<S>, EngineError> {
        let mut state = self.lock();
        if state.of_first.is_none() {
            return Ok(Arc::clone(&self.first));
        }
        if let Some(plain) = &state.plain {
            return Ok(Arc::clone(plain));
        }
        let session = Arc::new(open()?);
        state.plain = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Whether it is one of these.
    pub(super) fn has(&self, session: &Arc<S>) -> bool {
        let state = self.lock();
        let mut all = state.others.iter().map(|(_, it)| it).chain(&state.plain);
        Arc::ptr_eq(&self.first, session) || all.any(|it| Arc::ptr_eq(it, session))
    }

    /// A panic while it is held leaves a list of whole sessions.
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dims(shapes: &BoundSignature) -> Dims {
    shapes.inputs.iter().flat_map(|input| input.shape.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use ferry_core::{DType, Dim, Signature, TensorSpec};

    use super::*;

    fn rows(rows: u64) -> BoundSignature {
        let shape = vec![Dim::Named("n".to_owned()), Dim::Fixed(4)];
        let spec = TensorSpec { name: "x".to_owned(), dtype: DType::F32, shape };
        let signature = Signature { inputs: vec![spec.clone()], outputs: vec![spec] };
        signature.bind(&[("x".to_owned(), vec![rows, 4])]).unwrap()
    }

    #[test]
    fn each_shape_that_is_recorded_has_a_session_and_there_are_few() {
        let sessions = Sessions::new(0);
        let of = |size| sessions.recorded(&rows(size), || Ok(u32::try_from(size).unwrap()));
        assert_eq!(*sessions.plain(|| Ok(99)).unwrap(), 0, "nothing is recorded in it");
        assert_eq!(of(7).as_deref(), Some(&0), "the first is kept for the first shape");
        assert_eq!(*sessions.plain(|| Ok(99)).unwrap(), 99);
        assert_eq!(*sessions.plain(|| Ok(98)).unwrap(), 99);
        for size in [1, 2, 3, 4, 1, 4] {
            assert_eq!(of(size).map(|it| u64::from(*it)), Some(size));
        }
        assert_eq!((of(5), of(7).as_deref()), (None, Some(&0)));
        sessions.expect(6);
        assert_eq!(of(5).as_deref(), Some(&5));
        assert!(sessions.has(&of(5).unwrap()) && !sessions.has(&Arc::new(5)));
    }

    #[test]
    fn one_that_cannot_be_made_is_the_last_that_is_tried() {
        let sessions = Sessions::new(0);
        sessions.recorded(&rows(1), || Ok(1)).unwrap();
        let full = || Err(EngineError::Run("out of memory".to_owned()));
        assert!(sessions.recorded(&rows(2), full).is_none());
        assert!(sessions.recorded(&rows(2), || panic!("tried again")).is_none());
        assert!(sessions.recorded(&rows(1), || Ok(1)).is_some());
    }
}
