//! The calls that Rust cannot check: tensors bound where they lie, and runs of them.
//!
//! ort's own `IoBinding::bind_input` copies a borrowed tensor when it is bound, and `bind_output`
//! refuses one. The C API binds an address: it is read and written afresh at every run.

pub(super) mod given;
pub(super) mod leave;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use ferry_core::{BoundSignature, BoundTensor, DType, Signature};
use ferry_engine::{EngineError, check_binding};
use ferry_memory::View;
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::SessionBuilder;
use ort::session::{IoBinding, RunOptions, Session};
use ort::sys::{ONNXTensorElementDataType, OrtApiBase, OrtStatusPtr, OrtValue};

use self::given::{Left, Value};
use super::declarations::is_another_shape;
use crate::file::ModelFile;

/// How many bindings an instance keeps: one per slot that it serves, 64 sessions of 16 slots. One
/// is about 1 KiB; making it anew costs some 15 µs.
const BINDINGS_MAX: usize = 1024;

/// The tensors of a session bound to addresses, kept for the next request in the same slot.
///
/// A binding holds addresses and keeps nothing alive: what it points to may be unmapped while it
/// is kept. It is run only by [`Bindings::run`], which is given views of the memory at exactly
/// these addresses; the views keep it mapped until the run is over. If a later session is mapped
/// to where an earlier one was, and has the same shapes, its tensors are where the binding says.
pub(crate) struct Bindings {
    session: Arc<Session>,
    signature: Signature,
    names: Vec<CString>,
    memory: MemoryInfo<'static>,
    /// Of every run; another thread ends runs by it.
    run_options: Arc<RunOptions>,
    kept: HashMap<Vec<usize>, Kept>,
    /// The addresses of the current request; kept for its room.
    addresses: Vec<usize>,
    /// Counts runs, to tell which binding was used last.
    runs: u64,
}

struct Kept {
    binding: IoBinding,
    shapes: Arc<BoundSignature>,
    last_run: u64,
}

impl std::fmt::Debug for Bindings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bindings").field("kept", &self.kept.len()).finish_non_exhaustive()
    }
}

/// Whether ONNX Runtime can use a tensor where it lies.
pub(crate) fn usable_in_place(view: &View<'_>, dtype: DType) -> bool {
    view.host().is_some_and(|base| is_aligned(base, dtype))
}

fn is_aligned(base: NonNull<u8>, dtype: DType) -> bool {
    usize::try_from(dtype.bytes()).is_ok_and(|bytes| base.addr().get().is_multiple_of(bytes))
}

impl Bindings {
    /// No binding yet. `signature` must be the session's own.
    pub(crate) fn new(session: Arc<Session>, signature: Signature) -> ort::Result<Bindings> {
        let all = signature.inputs.iter().chain(&signature.outputs);
        let names = all.map(|spec| CString::new(spec.name.as_str()).map_err(ort::Error::from));
        let names = names.collect::<ort::Result<Vec<_>>>()?;
        let memory =
            MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
        let run_options = Arc::new(RunOptions::new()?);
        let (kept, addresses) = (HashMap::new(), Vec::new());
        let runs = 0;
        Ok(Bindings { session, signature, names, memory, run_options, kept, addresses, runs })
    }

    /// The options that every run has.
    pub(crate) fn run_options(&self) -> &Arc<RunOptions> {
        &self.run_options
    }

    /// Runs the model on `inputs` into `outputs`, one for each tensor of `shapes`, in its order.
    /// Outputs are written where they lie: in the slot of a job that the caller has alone, or in
    /// memory of the engine's own. Where an output is `None`, the library finds the memory. Returns
    /// the outputs that are not where they were bound, by their index; nothing if all are.
    ///
    /// # Errors
    /// [`EngineError::Shapes`] if views and shapes are not of this model,
    /// [`EngineError::Input`] or [`EngineError::Run`] with what ONNX Runtime says.
    pub(crate) fn run(
        &mut self,
        shapes: &Arc<BoundSignature>,
        inputs: &[View<'_>],
        outputs: &[Option<View<'_>>],
    ) -> Result<Left, EngineError> {
        self.note_addresses(shapes, inputs, outputs)?;
        self.runs += 1;
        let same = |kept: &Kept| Arc::ptr_eq(&kept.shapes, shapes) || kept.shapes == *shapes;
        let known = self.kept.get(&self.addresses).is_some_and(same);
        if !known {
            check_binding(&self.signature, shapes)?;
            let binding = self.bind(shapes, inputs, outputs).map_err(failed)?;
            self.make_room();
            let kept = Kept { binding, shapes: Arc::clone(shapes), last_run: 0 };
            self.kept.insert(self.addresses.clone(), kept);
        }
        let Some(kept) = self.kept.get_mut(&self.addresses) else {
            return Err(EngineError::Run("a binding that was just made is gone".to_owned()));
        };
        kept.last_run = self.runs;
        // SAFETY: the session is alive (we hold it) and the binding is of this session. Each
        // address that it holds is the start of a view that the caller holds until we return, of
        // the length and alignment that the bound shape and element type need: the addresses are
        // equal to those of the views, the views have the lengths of `shapes`, and `shapes` is
        // equal to what the binding was made of, which `check_binding` compared with the model.
        // Values that an earlier run put into the binding are not among them: a binding that has
        // some is dropped, or rid of them, below.
        // Outputs may be written (checked with the addresses), and nobody in this process borrows
        // them, by the contract of this function. A peer may write meanwhile, and ONNX Runtime may
        // read a number twice and find two. It reads plain numbers there: integers, and floats of a
        // model with an operator that makes an index or a size of floats or sorts them, are never
        // bound to memory of a peer (see `OrtEngine`). Which operators do is our list (`indices`),
        // made by their definitions; one that is missing there would break this argument, and all
        // that are not ONNX's own count as missing. Several threads may run
        // one session at a time, each with a binding of its own: ONNX Runtime documents Run as
        // safe for that (its authors: sessions are stateless), RunWithBinding is the same call with
        // names and values taken from the binding, and we register no provider but the CPU's.
        // The options are alive (we hold them too). All that another thread does with them is to
        // set and clear their terminate flag, which ONNX Runtime documents as made for that.
        let status = unsafe {
            (ort::api().RunWithBinding)(
                self.session.ptr().cast_mut(),
                self.run_options.ptr(),
                kept.binding.ptr(),
            )
        };
        let left = check(status).and_then(|()| self.left(shapes, outputs));
        // A run that failed may have taken values out of the binding: a later one would then leave
        // our outputs as they were, with another request's answer in them. One that left an output
        // elsewhere has put that memory into the binding, where the next run would write.
        let stays = match &left {
            Ok(left) => left.iter().all(|(index, _)| outputs[index].is_none()),
            Err(_) => false,
        };
        if !stays || self.forget_values(outputs).is_err() {
            self.kept.remove(&self.addresses);
        }
        left.map_err(run_failed)
    }

    /// The outputs of the current request that are not where they were bound.
    fn left(&self, shapes: &BoundSignature, outputs: &[Option<View<'_>>]) -> ort::Result<Left> {
        let gone = || ort::Error::new("a binding that was just run is gone");
        let kept = self.kept.get(&self.addresses).ok_or_else(gone)?;
        let address = |view: View<'_>| view.host().map(|base| base.addr().get());
        let bound: Vec<_> = outputs.iter().map(|view| view.and_then(address)).collect();
        Left::by(&kept.binding, &shapes.outputs, &bound)
    }

    /// Rids the current binding of the memory that the library found for a run: the next one must
    /// not use it, whatever shape it has then, and it is as large as the answer.
    fn forget_values(&self, outputs: &[Option<View<'_>>]) -> ort::Result<()> {
        let Some(kept) = self.kept.get(&self.addresses) else { return Ok(()) };
        let names = &self.names[self.signature.inputs.len()..];
        for (_, name) in outputs.iter().zip(names).filter(|(bound, _)| bound.is_none()) {
            bind_open(&kept.binding, name, &self.memory)?;
        }
        Ok(())
    }

    /// Collects the addresses of all views; refuses views that are not what `shapes` says.
    fn note_addresses(
        &mut self,
        shapes: &BoundSignature,
        inputs: &[View<'_>],
        outputs: &[Option<View<'_>>],
    ) -> Result<(), EngineError> {
        self.addresses.clear();
        if shapes.inputs.len() != inputs.len() || shapes.outputs.len() != outputs.len() {
            return Err(EngineError::Shapes("another number of tensors than views".to_owned()));
        }
        let tensors = shapes.inputs.iter().chain(&shapes.outputs);
        let views = inputs.iter().map(Some).chain(outputs.iter().map(Option::as_ref));
        for (tensor, view) in tensors.zip(views) {
            let Some(view) = view else {
                self.addresses.push(NOT_BOUND);
                continue;
            };
            let base = view.host().filter(|&base| is_aligned(base, tensor.dtype));
            let base = base.filter(|_| view.bytes() as u64 == tensor.bytes).ok_or_else(|| {
                EngineError::Shapes(format!("{}: memory that cannot be bound", tensor.name))
            })?;
            self.addresses.push(base.addr().get());
        }
        // The library writes there.
        for output in outputs.iter().flatten() {
            output.check_writable()?;
        }
        Ok(())
    }

    fn bind(
        &self,
        shapes: &BoundSignature,
        inputs: &[View<'_>],
        outputs: &[Option<View<'_>>],
    ) -> ort::Result<IoBinding> {
        let binding = self.session.create_binding()?;
        let (input_names, output_names) = self.names.split_at(inputs.len());
        for ((tensor, view), name) in shapes.inputs.iter().zip(inputs).zip(input_names) {
            let value = over(&self.memory, tensor, view)?;
            // SAFETY: binding and value are alive, the name ends in NUL; the call keeps none of
            // the three pointers (it counts a reference to the value's content).
            check(unsafe {
                (ort::api().BindInput)(binding.ptr().cast_mut(), name.as_ptr(), value.as_ptr())
            })?;
        }
        for ((tensor, view), name) in shapes.outputs.iter().zip(outputs).zip(output_names) {
            let Some(view) = view else {
                bind_open(&binding, name, &self.memory)?;
                continue;
            };
            let value = over(&self.memory, tensor, view)?;
            // SAFETY: as for inputs.
            check(unsafe {
                (ort::api().BindOutput)(binding.ptr().cast_mut(), name.as_ptr(), value.as_ptr())
            })?;
        }
        Ok(binding)
    }

    /// Drops the binding that was not used for longest, if there are as many as may be.
    fn make_room(&mut self) {
        if self.kept.len() < BINDINGS_MAX {
            return;
        }
        let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.last_run);
        if let Some(oldest) = oldest.map(|(addresses, _)| addresses.clone()) {
            self.kept.remove(&oldest);
        }
    }
}

/// Stands for the address of an output that is not bound.
const NOT_BOUND: usize = 0;

/// Leaves it to the library to find memory of the kind `memory` for an output.
pub(super) fn bind_open(
    binding: &IoBinding,
    name: &CStr,
    memory: &MemoryInfo<'_>,
) -> ort::Result<()> {
    // SAFETY: binding and memory information are alive, the name ends in NUL, and the call keeps
    // none of the pointers.
    check(unsafe {
        (ort::api().BindOutputToDevice)(binding.ptr().cast_mut(), name.as_ptr(), memory.ptr())
    })
}

/// Ends what `builder` began with a model in memory. What [`ModelFile::weights`] has is found under
/// its name; ONNX Runtime copies it, so that nothing of `file` is used afterwards.
pub(crate) fn commit_from_memory(
    mut builder: SessionBuilder,
    file: &ModelFile,
) -> ort::Result<Session> {
    // A reference to a file that was not seen before must not lead to one of the working folder.
    const FOLDER: &str = "session.model_external_initializers_file_folder_path";
    builder = builder.with_config_entry(FOLDER, "/dev/null")?;
    if !file.weights.is_empty() {
        let names = file.weights.keys().map(|name| CString::new(name.as_str()));
        let names = names.collect::<Result<Vec<_>, _>>().map_err(ort::Error::from)?;
        let starts: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let bytes: Vec<_> =
            file.weights.values().map(|bytes| bytes.as_ptr().cast_mut().cast()).collect();
        let lengths: Vec<_> = file.weights.values().map(Vec::len).collect();
        // SAFETY: the three lists have the same length, which is given; names end in NUL. The call
        // copies names, addresses and lengths into the options. The bytes are read, and never
        // written, until the session is made, which copies them ("the buffer can be freed after
        // session creation"); `file` is borrowed until then, and the options are dropped here.
        check(unsafe {
            (ort::api().AddExternalInitializersFromMemory)(
                builder.ptr_mut(),
                starts.as_ptr(),
                bytes.as_ptr(),
                lengths.as_ptr(),
                starts.len(),
            )
        })?;
    }
    builder.commit_from_memory(&file.model)
}

fn failed(error: ort::Error) -> EngineError {
    EngineError::Run(crate::file::one_line(error.message()))
}

/// Why a run failed. Shapes and types were checked before it, so that what the library calls an
/// argument that is not valid is the values of an input.
fn run_failed(error: ort::Error) -> EngineError {
    let why = crate::file::one_line(error.message());
    let is_input = error.code() == ort::ErrorCode::InvalidArgument && !is_another_shape(&why);
    if is_input { EngineError::Input(why) } else { EngineError::Run(why) }
}

/// What a call of the C API says.
pub(super) fn check(status: OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: every caller was just given the status by the C API, and nobody else owns it.
    unsafe { ort::Error::result_from_status(status) }
}

/// A tensor over memory of the host, for as long as it takes to bind it.
fn over(memory: &MemoryInfo<'_>, tensor: &BoundTensor, view: &View<'_>) -> ort::Result<Value> {
    let base = view.host().ok_or_else(|| ort::Error::new("not host memory"))?;
    over_address(memory, tensor, base.as_ptr().cast(), view.bytes())
}

/// A tensor over `bytes` bytes at an address, of which nothing is read or written yet.
pub(super) fn over_address(
    memory: &MemoryInfo<'_>,
    tensor: &BoundTensor,
    base: *mut c_void,
    bytes: usize,
) -> ort::Result<Value> {
    let shape = tensor.shape.iter().map(|&dim| i64::try_from(dim));
    let shape = shape.collect::<Result<Vec<i64>, _>>().map_err(ort::Error::wrap)?;
    let mut value: *mut OrtValue = std::ptr::null_mut();
    // SAFETY: the call stores the address and reads nothing behind it. Shape and length are copied
    // or checked against each other by the call. `value` is a place of ours for the result.
    check(unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            memory.ptr(),
            base,
            bytes,
            shape.as_ptr(),
            shape.len(),
            element_type(tensor.dtype),
            &raw mut value,
        )
    })?;
    Value::own(value).ok_or_else(|| ort::Error::new("no tensor was made"))
}

pub(crate) fn element_type(dtype: DType) -> ONNXTensorElementDataType {
    use ONNXTensorElementDataType as Onnx;
    match dtype {
        DType::Bool => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DType::U8 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DType::I8 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DType::U16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DType::I16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DType::U32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DType::I32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DType::U64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DType::I64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DType::F16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DType::Bf16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DType::F32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DType::F64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
    }
}

/// Asks the library that ort opened from `path` for its version.
pub(crate) fn library_version(path: &Path) -> Result<String, String> {
    // SAFETY: ort has opened this library in this process and keeps it open: its start-up code has
    // run, and this only counts another reference.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
    type GetApiBase = unsafe extern "C" fn() -> *const OrtApiBase;
    // SAFETY: the symbol has this type in every version of ONNX Runtime's C API.
    let get_base: libloading::Symbol<'_, GetApiBase> =
        unsafe { library.get(b"OrtGetApiBase") }.map_err(|error| error.to_string())?;
    // SAFETY: it takes nothing and may be called at any time.
    let base = unsafe { get_base() };
    // SAFETY: the library returns null or a pointer to a table that lives as long as it is open.
    let base = unsafe { base.as_ref() }.ok_or("the library has no API")?;
    // SAFETY: as above; the call takes nothing.
    let version = unsafe { (base.GetVersionString)() };
    if version.is_null() {
        return Err("the library has no version".to_owned());
    }
    // SAFETY: not null, and by its contract a text of the library's that ends in NUL.
    let version = unsafe { CStr::from_ptr(version) };
    Ok(version.to_string_lossy().into_owned())
}
