//! Operators on pictures: windows, padding, other sizes.

use super::super::node::{Node, axes};
use super::super::size::{Int, Size};
use super::super::value::{Content, Found, Value};

/// What a window does along one axis.
struct Window {
    kernel: Option<u64>,
    stride: u64,
    dilation: u64,
    /// In front and behind.
    pads: u64,
}

/// The windows of a picture with `count` dimensions. Its kernel stands in the attributes, or is as
/// large as `weights`.
fn windows(node: &Node<'_>, count: usize, weights: Option<&Value>) -> Found<Vec<Window>> {
    let odd = || "its windows make no sense".to_owned();
    let numbers = |name: &str, many: usize, default: u64| match node.attribute_ints(name) {
        None | Some([]) => Ok(vec![default; many]),
        Some(given) if given.len() == many => {
            let given = given.iter().map(|&it| u64::try_from(it));
            given.collect::<Result<Vec<_>, _>>().map_err(|_negative| odd())
        }
        Some(_) => Err(odd()),
    };
    let strides = numbers("strides", count, 1)?;
    let dilations = numbers("dilations", count, 1)?;
    let pads = numbers("pads", count * 2, 0)?;
    let kernels: Vec<Option<u64>> = match (node.attribute_ints("kernel_shape"), weights) {
        (Some(_), _) => numbers("kernel_shape", count, 1)?.into_iter().map(Some).collect(),
        (None, Some(weights)) => weights.shape.iter().skip(2).map(Size::as_known).collect(),
        (None, None) => return Err(odd()),
    };
    if kernels.len() != count || strides.contains(&0) {
        return Err(odd());
    }
    let pads = pads.iter().zip(pads.iter().skip(count)).map(|(a, b)| a.saturating_add(*b));
    let all = kernels.into_iter().zip(strides).zip(dilations.into_iter().zip(pads));
    let window = |((kernel, stride), (dilation, pads))| Window { kernel, stride, dilation, pads };
    Ok(all.map(window).collect())
}

impl Window {
    fn reach(&self) -> Option<u64> {
        self.kernel?.checked_sub(1)?.checked_mul(self.dilation)?.checked_add(1)
    }

    /// How many there are along an axis of this size.
    fn over(&self, size: &Size, auto_pad: &[u8], rounds_up: bool) -> Option<Size> {
        let size = size.as_known()?;
        let places = match auto_pad {
            b"SAME_UPPER" | b"SAME_LOWER" => size.div_ceil(self.stride).checked_sub(1)?,
            b"VALID" => size.checked_sub(self.reach()?)? / self.stride,
            b"NOTSET" => {
                let room = size.checked_add(self.pads)?.checked_sub(self.reach()?)?;
                // Versions differ in what they round.
                if rounds_up && !room.is_multiple_of(self.stride) {
                    return None;
                }
                room / self.stride
            }
            _ => return None,
        };
        places.checked_add(1).map(Size::known)
    }
}

/// A picture `[rows, channels, …]`: with other channels, and other sizes by axis.
fn picture(x: &Value, channels: Size, size: impl FnMut((usize, &Size)) -> Size) -> Found<Value> {
    x.rows_first()?;
    let [rows, _, spatial @ ..] = &*x.shape else {
        return Err("its input has no channels".to_owned());
    };
    let sizes = spatial.iter().enumerate().map(size);
    Ok(x.with([rows.clone(), channels].into_iter().chain(sizes).collect(), |axis| axis))
}

pub(super) fn conv(node: &Node<'_>) -> Found<Value> {
    let (x, weights) = (node.input(0)?, if node.operator() == "QLinearConv" { 3 } else { 1 });
    node.free_from(1)?;
    if node.operator() == "ConvInteger" && node.optional(2).is_some_and(|it| it.rank() > 1) {
        return Err("its zero point is not one for all rows".to_owned());
    }
    let weights = node.input(weights)?;
    let windows = windows(node, x.rank().saturating_sub(2), Some(weights))?;
    let auto_pad = node.text("auto_pad", "NOTSET");
    let channels = weights.shape.first().cloned().unwrap_or_else(|| node.open());
    picture(x, channels, |(at, size)| {
        let places = windows.get(at).and_then(|it| it.over(size, &auto_pad, false));
        places.unwrap_or_else(|| node.open())
    })
}

pub(super) fn conv_transpose(node: &Node<'_>) -> Found<Value> {
    let (x, weights) = (node.input(0)?, node.input(1)?);
    node.free_from(1)?;
    let windows = windows(node, x.rank().saturating_sub(2), Some(weights))?;
    let is_told =
        &*node.text("auto_pad", "NOTSET") != b"NOTSET" || node.attribute("output_shape").is_some();
    let more = node.attribute_ints("output_padding").unwrap_or_default();
    let group = u64::try_from(node.int("group", 1)).map(Size::known);
    let channels = weights.shape.get(1).zip(group.ok()).and_then(|(it, group)| it.times(&group));
    picture(x, channels.unwrap_or_else(|| node.open()), |(at, size)| {
        let places = || {
            let window = windows.get(at)?;
            let more = u64::try_from(more.get(at).copied().unwrap_or(0)).ok()?;
            let steps = size.as_known()?.checked_sub(1)?.checked_mul(window.stride)?;
            let all = steps.checked_add(window.reach()?)?.checked_add(more)?;
            all.checked_sub(window.pads).filter(|_| !is_told).map(Size::known)
        };
        places().unwrap_or_else(|| node.open())
    })
}

pub(super) fn pool(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    let windows = windows(node, x.rank().saturating_sub(2), None)?;
    let auto_pad = node.text("auto_pad", "NOTSET");
    let rounds_up = node.int("ceil_mode", 0) != 0;
    let channels = x.shape.get(1).cloned().unwrap_or(Size::ONE);
    picture(x, channels, |(at, size)| {
        let places = windows.get(at).and_then(|it| it.over(size, &auto_pad, rounds_up));
        places.unwrap_or_else(|| node.open())
    })
}

pub(super) fn global_pool(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    let channels = x.shape.get(1).cloned().unwrap_or(Size::ONE);
    picture(x, channels, |_spatial| Size::ONE)
}

/// Channels to places, or the other way round.
pub(super) fn blocks(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    let block = u64::try_from(node.int("blocksize", 1)).map(Size::known).ok();
    let area = block.as_ref().and_then(|it| it.times(it));
    let grows = node.operator() == "DepthToSpace";
    let scaled = |size: &Size, by: &Option<Size>, grows: bool| {
        let by = by.as_ref()?;
        if grows { size.times(by) } else { size.over(by) }
    };
    let channels = x.shape.get(1).and_then(|it| scaled(it, &area, !grows));
    picture(x, channels.unwrap_or_else(|| node.open()), |(_, size)| {
        scaled(size, &block, grows).unwrap_or_else(|| node.open())
    })
}

pub(super) fn grid_sample(node: &Node<'_>) -> Found<Value> {
    let (x, grid) = (node.input(0)?, node.input(1)?);
    if x.rows != grid.rows {
        return Err("its inputs do not have their rows along the same axis".to_owned());
    }
    let channels = x.shape.get(1).cloned().unwrap_or(Size::ONE);
    let places = |(at, _): (usize, &Size)| grid.shape.get(at + 1).cloned();
    picture(x, channels, |at| places(at).unwrap_or_else(|| node.open()))
}

pub(super) fn pad(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    node.free_from(1)?;
    let along = match node.optional(3) {
        Some(given) => axes(&given.numbers().ok_or("its axes are not known")?, x.rank())?,
        None => (0..x.rank()).collect(),
    };
    let unknown = vec![Int::Any; along.len() * 2];
    let pads = match (node.optional(1), node.attribute_ints("pads")) {
        (Some(given), _) => given.ints().map_or(unknown, <[Int]>::to_vec),
        (None, Some(given)) => given.iter().copied().map(Int::Known).collect(),
        (None, None) => return Err("its pads are missing".to_owned()),
    };
    if pads.len() != along.len() * 2 {
        return Err("it does not have two pads for each axis".to_owned());
    }
    let mut shape = x.shape.clone();
    for (axis, (front, behind)) in along.iter().zip(pads.iter().zip(pads.iter().skip(along.len())))
    {
        if (front, behind) == (&Int::Known(0), &Int::Known(0)) {
            continue;
        }
        x.apart_from(*axis)?;
        let Some(size) = shape.get_mut(*axis) else { continue };
        let more = front.plus(behind).and_then(|it| it.plus(&Int::of(size)));
        let more = more.filter(|it| it.as_known().is_some()).and_then(|it| it.size());
        *size = more.unwrap_or_else(|| node.open());
    }
    Ok(x.with(shape, |axis| axis))
}

pub(super) fn resize(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    node.free_from(1)?;
    // With these, the same size has the same elements.
    const PLAIN: [&[u8]; 5] = [
        b"half_pixel",
        b"half_pixel_symmetric",
        b"pytorch_half_pixel",
        b"align_corners",
        b"asymmetric",
    ];
    let place = node.text("coordinate_transformation_mode", "half_pixel");
    let policy = node.text("keep_aspect_ratio_policy", "stretch");
    if node.version < 11 || !PLAIN.contains(&&*place) || &*policy != b"stretch" {
        return Err("how it places elements is not known".to_owned());
    }
    let along = match node.attribute_ints("axes") {
        Some(given) => axes(given, x.rank())?,
        None => (0..x.rank()).collect(),
    };
    let is_there = |it: &&Value| !it.shape.iter().any(|size| size.is(0));
    let mut shape = x.shape.clone();
    let scales = node.optional(2).filter(is_there);
    for (at, axis) in along.into_iter().enumerate() {
        let Some(size) = shape.get_mut(axis) else { continue };
        let (same, new) = match (node.optional(3).filter(is_there), scales) {
            (Some(sizes), _) => {
                let new = sizes.ints().and_then(|it| it.get(at));
                (new == Some(&Int::of(size)), new.and_then(Int::size))
            }
            (None, Some(scales)) => scaled(size, scales, at),
            (None, None) => return Err("it says nothing of the sizes it makes".to_owned()),
        };
        if same {
            continue;
        }
        x.apart_from(axis)?;
        *size = new.filter(|it| !it.has_rows()).unwrap_or_else(|| node.open());
    }
    Ok(x.with(shape, |axis| axis))
}

/// Whether a size stays as it is, and what it becomes, where that is known.
fn scaled(size: &Size, scales: &Value, at: usize) -> (bool, Option<Size>) {
    let Content::Floats(scales) = &scales.content else { return (false, None) };
    let Some(&scale) = scales.get(at) else { return (false, None) };
    let whole = (1..=64_u16).find(|&it| f32::from(it).to_bits() == scale.to_bits());
    let new = whole.and_then(|it| size.times(&Size::known(it.into())));
    (whole == Some(1), new)
}
