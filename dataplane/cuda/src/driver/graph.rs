//! Graphs: work that is recorded once and started with one call.

use std::sync::Arc;

use cudarc::driver::sys;
use cudarc::driver::sys::CUgraphNodeType as Type;

use super::device::Device;
use super::error::{CudaError, check, not_freed};
use super::stream::{Handle, Priority, Stream};

/// Recorded work, ready to be started on any stream of its device.
#[derive(Debug)]
pub struct Graph {
    device: Arc<Device>,
    exec: Handle<sys::CUgraphExec>,
    counts: NodeCounts,
}

/// `CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY`: kernels keep the priority that they were given.
const USE_NODE_PRIORITY: u64 = 8;

/// What a graph is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// Kernels.
    pub kernels: usize,
    /// Copies.
    pub copies: usize,
    /// Fills.
    pub fills: usize,
    /// Allocations that the graph itself frees: cuBLAS makes them, for what it computes in.
    pub allocations: usize,
    /// Calls of the host, and allocations that stay: what cannot be started again.
    pub others: usize,
}

/// Why work was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError<E> {
    /// What was to be recorded failed.
    #[error("the work that was to be recorded failed")]
    Work(#[source] E),
    /// The driver refused.
    #[error(transparent)]
    Driver(CudaError),
    /// It holds steps that cannot be repeated.
    #[error("{0} of its steps call the host or keep memory, and cannot be repeated")]
    Unrepeatable(usize),
}

impl Graph {
    /// Records what `work` puts on `stream`; it is not run.
    ///
    /// Its kernels get the given priority, whichever stream the graph is started on.
    ///
    /// Calls of other threads are not affected (`CU_STREAM_CAPTURE_MODE_RELAXED`): memory may be
    /// allocated meanwhile.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn capture<E>(
        stream: &Stream,
        priority: Priority,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, CaptureError<E>> {
        let device = Arc::clone(stream.device());
        device.bind().map_err(CaptureError::Driver)?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive.
        let begun = unsafe { sys::cuStreamBeginCapture_v2(stream.raw(), mode) };
        check("cuStreamBeginCapture", begun).map_err(CaptureError::Driver)?;
        let worked = work();
        device.bind().map_err(CaptureError::Driver)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a capture that was begun above, a place of ours. Also ends one that failed.
        let ended = unsafe { sys::cuStreamEndCapture(stream.raw(), &raw mut raw) };
        let template = Template(raw);
        worked.map_err(CaptureError::Work)?;
        check("cuStreamEndCapture", ended).map_err(CaptureError::Driver)?;
        let counts = template.count_and_rank(&device, priority).map_err(CaptureError::Driver)?;
        if counts.others > 0 {
            return Err(CaptureError::Unrepeatable(counts.others));
        }
        let mut exec = std::ptr::null_mut();
        // SAFETY: a graph that was just captured, a place of ours; destroyed in `drop`.
        let made = unsafe {
            sys::cuGraphInstantiateWithFlags(&raw mut exec, template.0, USE_NODE_PRIORITY)
        };
        check("cuGraphInstantiate", made).map_err(CaptureError::Driver)?;
        Ok(Graph { device, exec: Handle(exec), counts })
    }

    /// What it is made of.
    pub fn counts(&self) -> NodeCounts {
        self.counts
    }

    /// Starts it behind what is on the stream.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// All memory whose addresses were recorded is mapped until the work is done, and no other
    /// work uses what it writes meanwhile.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        self.device.bind()?;
        // SAFETY: both are alive; the rest is the caller's argument.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.exec.0, stream.raw()) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.bind().is_err() {
            return;
        }
        // SAFETY: ours, destroyed once; the driver finishes a launch that is under way.
        let destroyed = unsafe { sys::cuGraphExecDestroy(self.exec.0) };
        if let Err(error) = check("cuGraphExecDestroy", destroyed) {
            not_freed(&error, "graph");
        }
    }
}

/// What was captured; null if the capture failed.
struct Template(sys::CUgraph);

impl Template {
    /// Counts the nodes, and gives kernels their priority.
    fn count_and_rank(&self, device: &Device, priority: Priority) -> Result<NodeCounts, CudaError> {
        let rank = priority.number(device)?;
        let mut count = 0;
        // SAFETY: with null for the nodes the call gives their number.
        let got = unsafe { sys::cuGraphGetNodes(self.0, std::ptr::null_mut(), &raw mut count) };
        check("cuGraphGetNodes", got)?;
        let mut nodes = vec![std::ptr::null_mut(); count];
        // SAFETY: room for as many as said.
        let got = unsafe { sys::cuGraphGetNodes(self.0, nodes.as_mut_ptr(), &raw mut count) };
        check("cuGraphGetNodes", got)?;
        let mut counts = NodeCounts::default();
        let (mut taken, mut freed) = (Vec::new(), Vec::new());
        for node in nodes {
            let mut kind = Type::CU_GRAPH_NODE_TYPE_EMPTY;
            // SAFETY: a node of this graph, a place of ours.
            check("cuGraphNodeGetType", unsafe { sys::cuGraphNodeGetType(node, &raw mut kind) })?;
            match kind {
                Type::CU_GRAPH_NODE_TYPE_KERNEL => {
                    set_priority(node, rank)?;
                    counts.kernels += 1;
                }
                Type::CU_GRAPH_NODE_TYPE_MEMCPY => counts.copies += 1,
                Type::CU_GRAPH_NODE_TYPE_MEMSET => counts.fills += 1,
                Type::CU_GRAPH_NODE_TYPE_MEM_ALLOC => taken.push(taken_by(node)?),
                Type::CU_GRAPH_NODE_TYPE_MEM_FREE => freed.push(freed_by(node)?),
                Type::CU_GRAPH_NODE_TYPE_EMPTY => {}
                _ => counts.others += 1,
            }
        }
        let all = taken.len() + freed.len();
        taken.retain(|address| freed.contains(address));
        counts.allocations = taken.len();
        counts.others += all - 2 * taken.len();
        Ok(counts)
    }
}

/// The address of the memory that a node allocates.
fn taken_by(node: sys::CUgraphNode) -> Result<u64, CudaError> {
    let mut params = std::mem::MaybeUninit::<sys::CUDA_MEM_ALLOC_NODE_PARAMS>::zeroed();
    // SAFETY: a node of that kind, a place of ours.
    let got = unsafe { sys::cuGraphMemAllocNodeGetParams(node, params.as_mut_ptr().cast()) };
    check("cuGraphMemAllocNodeGetParams", got)?;
    // SAFETY: a field of `params`, of which only the address is taken.
    let address = unsafe { &raw const (*params.as_ptr()).dptr };
    // SAFETY: written by the call. The other fields are not read: they are enumerations, of which
    // a newer driver may know more values.
    Ok(unsafe { address.read() })
}

/// The address of the memory that a node frees.
fn freed_by(node: sys::CUgraphNode) -> Result<u64, CudaError> {
    let mut address = 0;
    // SAFETY: a node of that kind, a place of ours.
    check("cuGraphMemFreeNodeGetParams", unsafe {
        sys::cuGraphMemFreeNodeGetParams(node, &raw mut address)
    })?;
    Ok(address)
}

fn set_priority(node: sys::CUgraphNode, rank: i32) -> Result<(), CudaError> {
    let attribute = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PRIORITY;
    let value = sys::CUlaunchAttributeValue { priority: rank };
    // SAFETY: a kernel node of a graph that is alive, and the value that goes with the attribute.
    let set = unsafe { sys::cuGraphKernelNodeSetAttribute(node, attribute, &raw const value) };
    check("cuGraphKernelNodeSetAttribute", set)
}

impl Drop for Template {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: ours, destroyed once; an instance of it does not need it.
            let _freed = unsafe { sys::cuGraphDestroy(self.0) };
        }
    }
}
