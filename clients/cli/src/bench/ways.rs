//! Which ways to a model are measured, and what is sent on them.

use std::path::Path;
use std::sync::Arc;

use ferry_bench::{
    Carrier, OipWork, Picture, RdmaDevice, Shapes, Way, Work, decode_options, echo_shapes,
    oip_signature, sessions, transports,
};
use ferry_client::blocking::Client;
use ferry_client::{Transport, v1};
use ferry_core::{DType, Dim, Signature};

use crate::args::{BenchArgs, PictureKind, Protocol, ShapeArgs};
use crate::control;
use crate::failure::Failure;
use crate::shapes::{self, Shape};

/// The model that is built in.
const ECHO: &str = "echo";

/// Bytes of a reply of `echo`, where nothing else is said.
pub(crate) const OUT_BYTES: u64 = 4_000;

/// Every transport of every protocol, in the order in which they were typed.
pub(super) fn all(client: &Client, args: &BenchArgs) -> Result<Vec<Way>, Failure> {
    let mut ways = Vec::new();
    for protocol in &args.protocols {
        ways.extend(match protocol {
            Protocol::Ferry => of_ferry(client, args)?,
            Protocol::Oip => of_oip(client, args)?,
        });
    }
    if ways.is_empty() {
        let known = Carrier::ALL.map(Carrier::name).join(", ");
        let text =
            format!("--protocol oip has the transports {known}, and none of those asked for");
        return Err(Failure::Usage(text));
    }
    Ok(ways)
}

fn has_oip(args: &BenchArgs) -> bool {
    args.protocols.contains(&Protocol::Oip)
}

fn of_ferry(client: &Client, args: &BenchArgs) -> Result<Vec<Way>, Failure> {
    let work = Arc::new(work(client, args)?);
    let all = match args.transports.is_empty() {
        true => transports(client)?,
        false => args.transports.clone(),
    };
    Ok(sessions(&all, &args.memory, &work))
}

/// What `ferry bench` sends in sessions.
fn work(client: &Client, args: &BenchArgs) -> Result<Work, Failure> {
    // Fails here, before anything is measured, if there is no such model.
    let model = control::model(client, &args.model, args.version)?;
    let own = match &*args.model {
        ECHO => echo_shapes(args.in_bytes, out_bytes(args)?),
        _ => Shapes::new(),
    };
    let sends = Sends {
        shapes: &args.shapes,
        image: args.image.as_deref(),
        kind: args.kind,
        priority: args.priority,
        rdma: args.rdma.device(),
    };
    sends.work(&model, args.version, own)
}

/// What is typed of the requests of a session.
pub(crate) struct Sends<'a> {
    pub(crate) shapes: &'a ShapeArgs,
    pub(crate) image: Option<&'a Path>,
    pub(crate) kind: Option<PictureKind>,
    pub(crate) priority: u8,
    pub(crate) rdma: RdmaDevice,
}

impl Sends<'_> {
    /// Reads the picture, if one is sent, and finds the shapes: those that were typed, then `own`.
    pub(crate) fn work(
        self,
        model: &v1::Model,
        version: u64,
        own: Shapes,
    ) -> Result<Work, Failure> {
        let read = |path| Picture::read(path, self.kind.map(Into::into), &decode_options(model));
        let picture = self.image.map(read).transpose()?;
        let ShapeArgs { shapes: given, batch } = self.shapes;
        let own = own.into_iter().map(|(name, dims)| Shape { name, dims });
        let own = own.filter(|it| !given.iter().any(|given| given.name == it.name));
        let given: Vec<_> = own.chain(given.iter().cloned()).collect();
        let asked = shapes::asked(model, &given, *batch)?;
        let inputs = shapes::of_inputs(model, &asked);
        let mut work = Work::new(&model.name, version, asked);
        (work.inputs, work.priority, work.rdma) = (inputs, self.priority, self.rdma);
        Ok(match (self.image, picture) {
            (Some(path), Some(picture)) => work.with_picture(path.to_owned(), picture),
            _ => work,
        })
    }
}

/// How long replies of `echo` are. Over the Open Inference Protocol it is the identity, beside which
/// nothing else can be compared.
fn out_bytes(args: &BenchArgs) -> Result<u64, Failure> {
    let ours = if has_oip(args) { args.in_bytes } else { OUT_BYTES };
    match args.out_bytes {
        Some(other) if has_oip(args) && other != ours => Err(Failure::Usage(format!(
            "--out-bytes {other}: over oip, echo answers with the {ours} bytes of --in-bytes"
        ))),
        given => Ok(given.unwrap_or(ours)),
    }
}

fn of_oip(client: &Client, args: &BenchArgs) -> Result<Vec<Way>, Failure> {
    if args.image.is_some() || !args.memory.is_empty() {
        let text = "--image and --memory are of sessions: over oip tensors are sent, from memory of \
                    the host";
        return Err(Failure::Usage(text.into()));
    }
    let is_asked = |carrier: &Carrier| {
        let of = |transport: &Transport| transport.name() == carrier.name();
        args.transports.is_empty() || args.transports.iter().any(of)
    };
    let carriers: Vec<_> = Carrier::ALL.into_iter().filter(is_asked).collect();
    if carriers.is_empty() {
        return Ok(Vec::new());
    }
    let signature = oip_signature(client, &args.model, args.version)?;
    let ShapeArgs { shapes: given, batch } = &args.shapes;
    let own = identity(args, &signature)?;
    let given = if given.is_empty() { own.as_slice() } else { given };
    let asked = shapes::of_signature(&signature, given, *batch)?;
    let model = (&*args.model, args.version);
    let work = Arc::new(OipWork::ask(client, model, &signature, &asked, args.priority)?);
    let way = |carrier| Way::Oip { carrier, work: Arc::clone(&work) };
    Ok(carriers.into_iter().map(way).collect())
}

/// What `--in-bytes` comes to for `echo`, which is offered with three dimensions of floats.
fn identity(args: &BenchArgs, signature: &Signature) -> Result<Vec<Shape>, Failure> {
    let out_bytes = out_bytes(args)?;
    let [input] = &*signature.inputs else { return Ok(Vec::new()) };
    let is_open = input.shape.iter().all(|dim| matches!(dim, Dim::Named(_)));
    if args.model != ECHO || input.dtype != DType::F32 || !is_open || input.shape.is_empty() {
        return Ok(Vec::new());
    }
    let elements = out_bytes / DType::F32.bytes();
    if elements * DType::F32.bytes() != out_bytes {
        let text = format!("--in-bytes {out_bytes}: over oip, echo takes whole floats of 4 bytes");
        return Err(Failure::Usage(text));
    }
    let mut dims = vec![1; input.shape.len() - 1];
    dims.push(elements);
    Ok(vec![Shape { name: input.name.clone(), dims }])
}
