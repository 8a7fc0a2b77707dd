//! Whether rows mean nothing to each other: what a graph is said to do, and what it does.

use std::path::Path;
use std::sync::Arc;

use ferry_core::SlotLayout;
use ferry_engine::{Engine, Finished};
use ferry_memory::{HeapBacking, PeerAccess, Region, SlotTable};
use ferry_onnx::EngineChoice;
use ferry_onnx_file::rows::doubt;

use crate::common::{bytes_of, job, noise};

mod random;
mod text;

/// Rows of a batch.
pub(crate) const ROWS: usize = 3;

/// Room for the outputs of any model here.
const REPLY_BYTES: u64 = 1 << 20;

/// What a model says to its inputs: the bytes of each output.
type Answer = Vec<Vec<u8>>;

fn ask(engine: &mut dyn Engine, rows: usize, inputs: &[Vec<u8>]) -> Result<Answer, String> {
    let signature = engine.signature();
    let shapes = signature.inputs.iter().map(|input| {
        let size = |dim: &ferry_core::Dim| match dim {
            ferry_core::Dim::Fixed(size) => *size,
            // What is open behind the rows.
            _ => 5,
        };
        let behind = input.shape.iter().skip(1).map(size);
        (input.name.clone(), std::iter::once(rows as u64).chain(behind).collect())
    });
    let binding = Arc::new(signature.bind(&shapes.collect::<Vec<_>>()).unwrap());
    let request_bytes = binding.request_bytes();
    let layout = SlotLayout { slots: 1, request_bytes, reply_bytes: REPLY_BYTES };
    let region = Region::whole(HeapBacking::new(SlotTable::bytes(&layout).unwrap()).unwrap());
    let table = SlotTable::over(layout, PeerAccess::None, region).unwrap();
    let mut request = vec![0; usize::try_from(request_bytes).unwrap()];
    for (tensor, bytes) in binding.inputs.iter().zip(inputs) {
        let at = usize::try_from(tensor.offset).unwrap();
        request[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let Finished { job, outcome } = engine.submit(job(&table, &binding, &request)).unwrap();
    outcome.map_err(|error| error.to_string())?;
    let output = |at| {
        let view = job.output(at).unwrap();
        let mut bytes = vec![0; view.bytes()];
        view.copy_out(0, &mut bytes).unwrap();
        bytes
    };
    Ok((0..binding.outputs.len()).map(output).collect())
}

/// Bytes of one row of each input; `None` if the model cannot be loaded. Rows differ.
fn inputs(engine: &dyn Engine, row: usize) -> Vec<Vec<u8>> {
    let one = |input: &ferry_core::TensorSpec| {
        let sizes = input.shape.iter().skip(1).map(|dim| match dim {
            ferry_core::Dim::Fixed(size) => usize::try_from(*size).unwrap(),
            _ => 5,
        });
        let count: usize = sizes.product();
        match input.dtype {
            ferry_core::DType::I64 => {
                let index = |at: usize| i64::try_from((at + row) % 3).unwrap();
                (0..count).flat_map(|at| index(at).to_le_bytes()).collect()
            }
            _ => bytes_of(&noise(count * (row + 2))[count * (row + 1)..]),
        }
    };
    engine.signature().inputs.iter().map(one).collect()
}

/// What came of asking for rows at once, and for each of them alone.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    /// The library refused the model, or one row of it.
    Nothing(String),
    /// Each row got what it gets alone.
    Apart,
    /// It did not, or the batch failed.
    Mixed(String),
}

pub(crate) fn see(choice: EngineChoice, directory: &Path, file: &[u8]) -> Seen {
    let path = directory.join("model.onnx");
    std::fs::write(&path, file).unwrap();
    let options = crate::common::options();
    let opened = ferry_onnx::open(choice, &path, &options).and_then(|it| it.instance());
    let mut engine = match opened {
        Ok(engine) => engine,
        Err(error) => return Seen::Nothing(error.to_string()),
    };
    let rows: Vec<_> = (0..ROWS).map(|row| inputs(&*engine, row)).collect();
    let alone: Result<Vec<Answer>, String> =
        rows.iter().map(|inputs| ask(&mut *engine, 1, inputs)).collect();
    let all: Vec<Vec<u8>> = (0..rows[0].len())
        .map(|input| rows.iter().flat_map(|row| row[input].clone()).collect())
        .collect();
    let (batch, alone) = match (ask(&mut *engine, ROWS, &all), alone) {
        (Ok(batch), Ok(alone)) => (batch, alone),
        (Err(_), Err(why)) => return Seen::Nothing(why),
        (Err(why), Ok(_)) | (Ok(_), Err(why)) => return Seen::Mixed(why),
    };
    for (at, output) in batch.iter().enumerate() {
        let expected: Vec<u8> = alone.iter().flat_map(|answer| answer[at].clone()).collect();
        if !alike(output, &expected) {
            return Seen::Mixed(format!("output {at} differs"));
        }
    }
    Seen::Apart
}

/// Equal, or floats that are nearly so.
fn alike(a: &[u8], b: &[u8]) -> bool {
    let near = |(a, b): (&[u8], &[u8])| {
        let [a, b] = [a, b].map(|it| f32::from_le_bytes(it.try_into().unwrap()));
        a.to_bits() == b.to_bits() || (a - b).abs() <= 1e-4 * a.abs().max(b.abs()).max(1.0)
    };
    a == b
        || a.len() == b.len() && a.len().is_multiple_of(4) && a.chunks(4).zip(b.chunks(4)).all(near)
}

/// Models whose rows are apart, as people export them.
const APART: &[(&str, &str)] = &[
    ("a classifier", "in x f32 n 3 8 8\nw 4 3 3 3\nw 4\na = Conv x w0 w1 pads:1,1,1,1 strides:2,2
        s = Relu a\np = GlobalAveragePool s\nf = Flatten p\nw 4 5\nw 5\ny = Gemm f w2 w3\nout y"),
    ("a view of the batch's size", "in x f32 n 3 4\ns = Shape x\nint zero 0\nints m -1\nints axis 0
        g = Gather s zero\nu = Unsqueeze g axis\nt = Concat u m axis:0\ny = Reshape x t\nout y"),
    ("an inferred batch", "in x f32 n 2 3 4\nints t -1,24\ny = Reshape x t\nout y"),
    ("a batch that is copied", "in x f32 n 2 3 4\nints t 0,-1\ny = Reshape x t\nout y"),
    ("attention", "in x f32 n t 8\nw 8 8\nw 8 8\nw 8 8\nq = MatMul x w0\nk = MatMul x w1
        v = MatMul x w2\nints t 0,0,2,4\nq4 = Reshape q t\nk4 = Reshape k t\nv4 = Reshape v t
        qt = Transpose q4 perm:0,2,1,3\nkt = Transpose k4 perm:0,2,3,1
        vt = Transpose v4 perm:0,2,1,3\nqk = MatMul qt kt\np = Softmax qk axis:-1
        o = MatMul p vt\nob = Transpose o perm:0,2,1,3\nints back 0,0,-1\ny = Reshape ob back\nout y"),
    ("attention of rows times heads", "in x f32 n 5 8\na = Transpose x perm:1,0,2\ns = Shape x
        int zero 0\nn = Gather s zero\nint heads 2\nnh = Mul n heads\nints axis 0
        u = Unsqueeze nh axis\nints l 5\nints d 4\nt = Concat l u d axis:0\nq = Reshape a t
        qt = Transpose q perm:1,0,2\nkt = Transpose q perm:1,2,0\nqk = MatMul qt kt
        p = Softmax qk axis:-1\no = MatMul p qt\nints h 2\nnn = Unsqueeze n axis
        t4 = Concat nn h l d axis:0\no4 = Reshape o t4\nol = Transpose o4 perm:2,0,1,3
        int five 5\nln = Mul n five\nlu = Unsqueeze ln axis\nints e 8\nt2 = Concat lu e axis:0
        f = Reshape ol t2\nw 8 8\ng = MatMul f w0\nt3 = Concat l nn e axis:0\nb = Reshape g t3
        y = Transpose b perm:1,0,2\nout y"),
    ("a token in front", "in x f32 n 4 6\nw 1 1 6\ns = Shape x\nint zero 0\nn = Gather s zero
        ints axis 0\nu = Unsqueeze n axis\nints m -1\nt = Concat u m m axis:0\nints three 3
        ones = ConstantOfShape three\nints neg -1\nints one 1
        is = Equal t neg\nshape = Where is one t\nc = Expand w0 shape\ny = Concat c x axis:1\nout y"),
    ("embeddings with places", "in ids i64 n t\nw 9 4\nw 1 16 4\ns = Shape ids\nint one 1
        l = Gather s one\nints axis 0\nlu = Unsqueeze l axis\nints zero 0\nints along 1
        p = Slice w1 zero lu along\ne = Gather w0 ids\na = Add e p\nw 4\nw 4
        y = LayerNormalization a w2 w3 axis:-1\nout y"),
    ("a mask", "in x f32 n 4 4\nin m i64 n 4\nints one 1\nu = Unsqueeze m one\nf = Cast u to:1
        floats k 1\ng = Sub k f\nz = Add x g\ny = Softmax z axis:2\nout y"),
    ("statistics of each row", "in x f32 n 3 4\nm = ReduceMean x axes:1,2\nd = Sub x m
        q = Mul d d\nv = ReduceMean q axes:1,2\ny = Div d v\nout y"),
    ("slices that keep all rows", "in x f32 n 4 6\nints st 0,1\nints en 9223372036854775807,3
        ints ax 0,1\ny = Slice x st en ax\nout y"),
    ("a detector's head", "in x f32 n 3 4 4\nfloats s 1,1,2,2\na = Resize x _ s mode:nearest
        b = MaxPool x kernel_shape:3,3 pads:1,1,1,1\nc = Resize b _ s mode:nearest
        d = Concat a c axis:1\ne f = Split d axis:1\ng = Sigmoid e\nh = Mul g f\nints t 0,3,-1
        y = Reshape h t\nout y"),
    ("resized to a shape", "in x f32 n 3 4 4\ns = Shape x\nints st 0\nints en 2\nnc = Slice s st en
        ints hw 8,8\nt = Concat nc hw axis:0\ny = Resize x _ _ t mode:linear\nout y"),
    ("padded at its borders", "in x f32 n 3 4\nints p 0,1,0,0,2,1\ny = Pad x p mode:reflect\nout y"),
    ("a recurrent one", "in x f32 n 4 6\na = Transpose x perm:1,0,2\nw 1 12 6\nw 1 12 3
        h c d = LSTM a w0 w1 hidden_size:3\nints one 1\ne = Squeeze h one
        y = Transpose e perm:1,0,2\nout y"),
    ("each its own choice", "in x f32 n 4 6\nints k 2\nv i = TopK x k axis:2
        g = GatherElements x i axis:2\ny = Add g v\nout y"),
    ("letters", "in x f32 n 4 6\nw 6 5\na = Einsum x w0 equation:ntd,de->nte
        y = Einsum a a equation:nte,nse->nts\nout y"),
    ("8 bits", "in x f32 n 4\nfloats s 0.1\nw 4 4\nq = QuantizeLinear x s\nd = DequantizeLinear q s
        y = MatMul d w0\nout y"),
    ("old softmax", "opset 11\nin x f32 n 4 6\ny = Softmax x\nout y"),
    ("sums of constants", "in x f32 n 4\nw 4\nw 4\na = Add w0 w1\nb = Sqrt a\nc = Abs b\ny = Pow x c
        out x2\nx2 = Relu x"),
];

/// Models that mix rows in a batch of three, though many look as if they did not, and a part of the
/// reason for which each is not said to keep them apart.
const MIXED: &[(&str, &str, &str)] = &[
    (
        "normalised over the batch",
        "in x f32 n 4\nm = ReduceMean x axes:0, keepdims:1\ny = Sub x m
        out y",
        "the rows",
    ),
    ("reduced over everything", "in x f32 n 4\nm = ReduceMax x\ny = Div x m\nout y", "the rows"),
    ("softmax over rows", "in x f32 n 4\ny = Softmax x axis:0\nout y", "the rows"),
    ("softmax over rows from behind", "in x f32 n 4\ny = Softmax x axis:-2\nout y", "the rows"),
    ("old softmax over all", "opset 11\nin x f32 n 4\ny = Softmax x axis:0\nout y", "the rows"),
    ("attention between rows", "in x f32 n 4\nt = Transpose x\ny = MatMul x t\nout y", "same axis"),
    (
        "time first",
        "in x f32 n 4 6\nk = Transpose x perm:0,2,1\nw 6 6\nq = MatMul x w0
        a = Transpose q perm:1,0,2\nb = Transpose x perm:1,2,0\ns = MatMul a b
        y = Softmax s axis:-1\nt = Transpose y perm:1,0,2\nout t",
        "same axis",
    ),
    (
        "a recurrent one over rows",
        "in x f32 n 1 4\nw 1 12 4\nw 1 12 3\nh = LSTM x w0 w1 hidden_size:3
        ints one 1\ny = Squeeze h one\nout y",
        "axis 1",
    ),
    ("sums that go on", "in x f32 n 4\nint k 0\ny = CumSum x k\nout y", "the rows"),
    (
        "rows as channels",
        "in x f32 n 1 4 4\na = Transpose x perm:1,0,2,3\nl = LRN a size:3 alpha:9.0
        y = Transpose l perm:1,0,2,3\nout y",
        "not the first",
    ),
    (
        "rows as places",
        "in x f32 n 2 2\na = Transpose x perm:1,2,0\nw 2 2 3\nc = Conv a w0 pads:1,1
        y = Transpose c perm:2,0,1\nout y",
        "not the first",
    ),
    ("a weight for each of many rows", "in x f32 n 4\nw 3 4\ny = Add x w0\nout y", "same axis"),
    ("the last row", "in x f32 n 4\nints m -1\na = Gather x m\ny = Sub x a\nout y", "the rows"),
    (
        "without the first",
        "in x f32 n 4\nints st 1\nints en 1000\nints ax 0\ny = Slice x st en ax
        out y",
        "the rows",
    ),
    (
        "backwards",
        "in x f32 n 4\nints st -1\nints en -1000\nints ax 0\nints k -1
        y = Slice x st en ax k\nout y",
        "the rows",
    ),
    ("rows from before", "in x f32 n 4\nints p 1,0,-1,0\ny = Pad x p\nout y", "the rows"),
    (
        "rows turned into columns",
        "in x f32 n 4\nints t 4,-1\na = Reshape x t\nb = Relu a
        y = Softmax b axis:1\nc = Reshape y back\nints back -1,4\nout c",
        "the rows",
    ),
    (
        "columns turned into rows",
        "in x f32 n 4\na = Transpose x\nints t -1,4\ny = Reshape a t\nout y",
        "rows in one dimension",
    ),
    (
        "rows that move by one element",
        "in x f32 n 4\na = Transpose x\ns = Shape x\ny = Reshape a s
        out y",
        "rows in one dimension",
    ),
    (
        "how many there are",
        "in x f32 n 4\ns = Shape x\nint zero 0\nn = Gather s zero\nf = Cast n to:1
        y = Mul x f\nout y",
        "number of rows",
    ),
    (
        "which one it is",
        "in x f32 n 4\ns = Shape x\nint zero 0\nint one 1\nn = Gather s zero
        r = Range zero n one\nf = Cast r to:1\nints k 1\nu = Unsqueeze f k\ny = Add x u\nout y",
        "number of rows",
    ),
    (
        "a share of all",
        "in x f32 n 4\ns = Size x\nf = Cast s to:1\ny = Div x f\nout y",
        "number of rows",
    ),
    (
        "8 bits by what all hold",
        "in x f32 n 4\nq s z = DynamicQuantizeLinear x
        y = DequantizeLinear q s z\nout y",
        "nothing is known",
    ),
    (
        "places of what is positive",
        "in x f32 n 4\na = NonZero x\ny = Cast a to:1\nout y",
        "nothing is known",
    ),
    (
        "the largest rows",
        "in x f32 n 4\nints k 1\nv i = TopK x k axis:0\ny = Sub x v\nout y",
        "the rows",
    ),
    (
        "which row is largest",
        "in x f32 n 4\na = ArgMax x axis:0 keepdims:1\nf = Cast a to:1
        y = Add x f\nout y",
        "the rows",
    ),
    (
        "places in the whole tensor",
        "in x f32 n 1 4\nv i = MaxPool x kernel_shape:2,
        y = Cast i to:1\nout y",
        "output \"i\"",
    ),
    ("rows chosen by rows", "in x f32 n 4\nin i i64 n 1\ny = Gather x i\nout y", "the rows"),
    (
        "elements chosen by rows",
        "in x f32 n 4\nin i i64 n 4\ny = GatherElements x i axis:0\nout y",
        "the rows",
    ),
    (
        "a set of all rows",
        "in x f32 n 4\nints m -1\nf = Reshape x m\nu = Unique f sorted:1\ny = Relu u
        out y",
        "nothing is known",
    ),
    (
        "sums over rows by letters",
        "in x f32 n 4\na = Einsum x equation:nd->d\ny = Mul x a\nout y",
        "adds up along the rows",
    ),
    (
        "rows beside rows by letters",
        "in x f32 n 4\ny = Einsum x x equation:nd,md->nm\nout y",
        "same letter",
    ),
    ("doubled", "in x f32 n 4\nints r 2,1\ny = Tile x r\nout y", "the rows"),
    ("behind each other", "in x f32 n 4\ny = Concat x x axis:0\nout y", "the rows"),
    ("halves of the rows", "in x f32 n 4\nints k 1,-1\ny = Trilu x\nout y", "the rows"),
    ("a matrix for each row", "in x f32 n 4 6\nw 3 6 5\ny = MatMul x w0\nout y", "same axis"),
    (
        "a scale for each row",
        "in x f32 n 4\nfloats s 0.1,0.2,0.3\nfloats one 0.5
        q = QuantizeLinear x one\ny = DequantizeLinear q s axis:0\nout y",
        "the rows",
    ),
    (
        "resized rows",
        "in x f32 n 1 4\nfloats s 2,1,1\ny = Resize x _ s mode:linear\nout y",
        "the rows",
    ),
    (
        "blended at the borders of rows",
        "in x f32 n 1 4\nfloats s 1.5,1,1
        y = Resize x _ s mode:nearest\nout y",
        "the rows",
    ),
    ("one output for all", "in x f32 n 4\nw 4\ny = Relu w0\nout y", "does not have the rows"),
];

/// Models of which nothing is said, for a reason in which this stands.
const UNKNOWN: &[(&str, &str)] = &[
    ("in x f32 n 2 4\nints t -1,4\ny = Reshape x t\nout y", "several elements"),
    ("in x f32 n 2 4\ny = Transpose x perm:1,0,2\nout y", "axis 1"),
    ("in x f32 4 n\ny = Relu x\nout y", "first dimension of input \"x\" is fixed"),
    ("in x f32 n n\ny = Relu x\nout y", "the name of the rows"),
    ("in x f32 n m\nin z f32 m 3\ny = Relu x\nout y", "the name of the rows"),
    ("in x f32 n 4\ny = If x\nout y", "nothing is known"),
    ("in x f32 n 4\ny = com.microsoft::Gelu x\nout y", "com.microsoft"),
    ("in x f32 n 4\ny = ai.onnx.ml::ZipMap x\nout y", "nothing is known"),
    ("in x f32 n 4\nr = RandomNormalLike x\ny = Add x r\nout y", "RandomNormalLike"),
    ("in x f32 n 4 2\nw 4\ny = BatchNormalization x w0 w0 w0 w0 training_mode:1\nout y", "trains"),
    ("opset 9\nin x f32 n 4 2\nw 4\ny m = BatchNormalization x w0 w0 w0 w0\nout y", "trains"),
    ("in x f32 n 4\nw 1\ny = Dropout x _ w0\nout y", "train"),
    ("in x f32 n 4\ny = Conv x x\nout y", "depends on"),
    ("in x f32 n 4\ny = Clip x x\nout y", "depends on"),
    ("in x f32 n 4 1\ny = Squeeze x\nout y", "which axes"),
    ("in x f32 n 4\nints t 1,4\ny = Reshape x t\nout y", "known to be the rows"),
    ("in x f32 n 4\nfloats s 1,2\ny = Resize x _ s coordinate_transformation_mode:tf_half_pixel_for_nn
        out y", "how it places"),
    ("in x f32 n 4\nout y", "nothing gives output \"y\""),
    ("in x f32 n 4\ny = Relu z\nout y", "nothing is known of tensor \"z\""),
    ("in x f32 n 4\ny = Relu x\ny = Relu x\nout y", "two tensors"),
    ("in x f32 n 4\ny = Softmax x axis:1 axis:0\nout y", "attribute twice"),
    ("in x f32 n 4\ny = Softmax x axis:2\nout y", "axis"),
    ("in x f32 n 4\ny = Softmax x axis:-9223372036854775808\nout y", "axis"),
    ("opset 6\nin x f32 n 4\ny = Relu x\nout y", "known are 7 to 27"),
    ("opset 28\nin x f32 n 4\ny = Relu x\nout y", "known are 7 to 27"),
];

#[test]
fn of_what_is_not_known_nothing_is_said_and_the_operator_is_named() {
    for (text, why) in UNKNOWN {
        let told = doubt(&text::onnx(text)).unwrap_or_else(|| panic!("said to be apart: {text}"));
        assert!(told.contains(why), "{text}: {told}");
    }
    let told = doubt(&text::onnx("in x f32 n 4\na = Relu x\ny = NonZero a\nout y")).unwrap();
    assert!(told.starts_with("operator NonZero, node \"y\": "), "{told}");
}

#[test]
fn no_bytes_are_too_odd() {
    for (_, text) in APART {
        let file = text::onnx(text);
        for at in 0..file.len() {
            drop(doubt(&file[..at]));
            let mut file = file.clone();
            file[at] ^= 1 << (at % 8);
            drop(doubt(&file));
        }
    }
}

#[test]
fn models_whose_rows_are_apart_are_found_and_are() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in APART {
        let file = text::onnx(text);
        assert_eq!(doubt(&file), None, "{name}");
        let seen = see(EngineChoice::Ort, directory.path(), &file);
        assert_eq!(seen, Seen::Apart, "{name}");
    }
}

#[test]
fn models_that_mix_rows_do_and_are_told_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text, why) in MIXED {
        let file = text::onnx(text);
        let told = doubt(&file).unwrap_or_else(|| panic!("{name}: said to keep rows apart"));
        assert!(told.contains(why), "{name}: {told}");
        let seen = see(EngineChoice::Ort, directory.path(), &file);
        assert!(matches!(seen, Seen::Mixed(_)), "{name}: {seen:?}");
    }
}
