//! Graphs put together at random: those that are said to keep rows apart do.

use std::fmt::Write as _;

use ferry_onnx::EngineChoice;
use ferry_onnx_file::rows::doubt;

use super::{ROWS, Seen, see, text};

const GRAPHS: u64 = 1_500;
const OPERATORS_MAX: usize = 7;
const ELEMENTS_MAX: usize = 2_000;

/// The shape of a tensor for one row, and for [`ROWS`].
#[derive(Clone, Debug, PartialEq)]
struct Shapes([Vec<usize>; 2]);

impl Shapes {
    fn rank(&self) -> usize {
        self.0[0].len()
    }

    /// The size of an axis, if it is the same for any number of rows.
    fn fixed(&self, axis: usize) -> Option<usize> {
        (self.0[0][axis] == self.0[1][axis]).then(|| self.0[0][axis])
    }

    fn map(&self, change: impl Fn(&mut Vec<usize>)) -> Shapes {
        let mut all = self.clone();
        all.0.iter_mut().for_each(change);
        all
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

struct Graph {
    random: Random,
    text: String,
    tensors: Vec<(String, Shapes)>,
    weights: usize,
}

fn joined(numbers: impl IntoIterator<Item = impl ToString>) -> String {
    numbers.into_iter().map(|it| it.to_string()).collect::<Vec<_>>().join(",")
}

/// What two tensors come to element by element.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis])
    };
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (a, b) if a == b || b == 1 => Some(a),
            (1, b) => Some(b),
            _ => None,
        })
        .collect()
}

impl Graph {
    fn new(seed: u64) -> Graph {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.below(2);
        let inputs = [[2, 3, 4].as_slice(), &[4], &[3, 4], &[1, 4]];
        let mut graph = Graph { random, text: String::new(), tensors: Vec::new(), weights: 0 };
        for name in ["x", "z"].into_iter().take(1 + graph.random.below(2)) {
            let behind = graph.random.of(&inputs).to_vec();
            let dims = joined(&behind).replace(',', " ");
            writeln!(graph.text, "in {name} f32 n {dims}").unwrap();
            let shape = |rows: usize| [&[rows][..], &behind].concat();
            graph.tensors.push((name.to_owned(), Shapes([shape(1), shape(ROWS)])));
        }
        for _ in 0..2 + graph.random.below(OPERATORS_MAX - 1) {
            graph.grow();
        }
        let last = &graph.tensors.last().unwrap().0;
        writeln!(graph.text, "out {last}").unwrap();
        graph
    }

    /// Adds an operator, if the one that is chosen fits.
    fn grow(&mut self) {
        let count = self.tensors.len();
        // Mostly goes on with the last one.
        let at = if self.random.below(3) > 0 { count - 1 } else { self.random.below(count) };
        let (x, shapes) = self.tensors[at].clone();
        let name = format!("t{count}");
        let axis = self.random.below(shapes.rank());
        let Some((lines, made)) = self.operator(&x, &shapes, axis, &name) else { return };
        if made.0[1].iter().product::<usize>() <= ELEMENTS_MAX && made.rank() > 0 {
            self.text += &lines;
            self.text.push('\n');
            self.tensors.push((name, made));
        }
    }

    fn operator(
        &mut self,
        x: &str,
        shapes: &Shapes,
        axis: usize,
        name: &str,
    ) -> Option<(String, Shapes)> {
        let rank = shapes.rank();
        Some(match self.random.below(15) {
            0 => (format!("{name} = Tanh {x}"), shapes.clone()),
            1 | 2 => {
                let mut order: Vec<usize> = (0..rank).collect();
                (1..rank).for_each(|at| order.swap(at, self.random.below(at + 1)));
                let made = shapes.map(|it| *it = order.iter().map(|&axis| it[axis]).collect());
                (format!("{name} = Transpose {x} perm:{},", joined(order)), made)
            }
            3..=5 => self.reshape(x, shapes, axis, name)?,
            6 => (format!("{name} = Softmax {x} axis:{axis}"), shapes.clone()),
            7 => {
                let keep = self.random.below(2);
                let made = shapes.map(|it| {
                    it[axis] = 1;
                    if keep == 0 {
                        it.remove(axis);
                    }
                });
                (format!("{name} = ReduceMean {x} axes:{axis}, keepdims:{keep}"), made)
            }
            8 => self.pair(x, shapes, name)?,
            9 => self.product(x, shapes, name)?,
            10 => self.with_weight(x, shapes, name)?,
            11 => {
                let end = *self.random.of(&[1, 2, 2_000_000_000]);
                let lines = format!(
                    "ints {name}s 0\nints {name}e {end}\nints {name}a {axis}\n{name} = Slice {x} \
                     {name}s {name}e {name}a"
                );
                (lines, shapes.map(|it| it[axis] = it[axis].min(end)))
            }
            12 => {
                let made = shapes.map(|it| it[axis] *= 2);
                (format!("{name} = Concat {x} {x} axis:{axis}"), made)
            }
            13 => {
                let made = shapes.map(|it| {
                    let behind = it.split_off(axis).iter().product();
                    *it = vec![it.iter().product(), behind];
                });
                (format!("{name} = Flatten {x} axis:{axis}"), made)
            }
            _ => {
                let lines = format!("ints {name}a {axis}\n{name} = Unsqueeze {x} {name}a");
                (lines, shapes.map(|it| it.insert(axis, 1)))
            }
        })
    }

    /// Merges two axes, splits one, or swaps the sizes of two.
    fn reshape(
        &mut self,
        x: &str,
        shapes: &Shapes,
        axis: usize,
        name: &str,
    ) -> Option<(String, Shapes)> {
        let next = axis + 1;
        let made = match self.random.below(3) {
            0 if next < shapes.rank() => shapes.map(|it| {
                let size = it.remove(next);
                it[axis] *= size;
            }),
            1 => {
                let part = *self.random.of(&[2, 3, 4]);
                let front = self.random.below(2) == 0;
                if shapes.0.iter().any(|it| it[axis] % part != 0) {
                    return None;
                }
                shapes.map(|it| {
                    it[axis] /= part;
                    it.insert(if front { axis } else { next }, part);
                })
            }
            _ if next < shapes.rank() => shapes.map(|it| it.swap(axis, next)),
            _ => return None,
        };
        let changing = (0..made.rank()).filter(|&axis| made.fixed(axis).is_none()).count();
        let size = |axis: usize| made.fixed(axis).map_or(-1, |it| i64::try_from(it).unwrap());
        let target = joined((0..made.rank()).map(size));
        let lines = format!("ints {name}s {target}\n{name} = Reshape {x} {name}s");
        (changing < 2).then_some((lines, made))
    }

    fn pair(&mut self, x: &str, shapes: &Shapes, name: &str) -> Option<(String, Shapes)> {
        let (other, of_other) = self.random.of(&self.tensors.clone()).clone();
        let of = |at: usize| broadcast(&shapes.0[at], &of_other.0[at]);
        Some((format!("{name} = Sub {x} {other}"), Shapes([of(0)?, of(1)?])))
    }

    /// With another tensor, turned where that is needed, or with a weight.
    fn product(&mut self, x: &str, shapes: &Shapes, name: &str) -> Option<(String, Shapes)> {
        let last = shapes.rank() - 1;
        if shapes.rank() < 2 {
            return None;
        }
        if let (Some(size), true) = (shapes.fixed(last), self.random.below(2) == 0) {
            let weight = self.weight(&[size, 3]);
            let lines = format!("{}\n{name} = MatMul {x} {}", weight.1, weight.0);
            return Some((lines, shapes.map(|it| it[last] = 3)));
        }
        let mut order: Vec<usize> = (0..=last).collect();
        order.swap(last - 1, last);
        let made = shapes.map(|it| it[last] = it[last - 1]);
        let lines =
            format!("{name}t = Transpose {x} perm:{},\n{name} = MatMul {x} {name}t", joined(order));
        Some((lines, made))
    }

    /// A weight of some of the last sizes; where the rows are, as many as a batch has.
    fn with_weight(&mut self, x: &str, shapes: &Shapes, name: &str) -> Option<(String, Shapes)> {
        let from = self.random.below(shapes.rank() + 1);
        let large = shapes.0[1][from..].to_vec();
        let small: Vec<usize> =
            (from..shapes.rank()).map(|axis| shapes.fixed(axis).unwrap_or(1)).collect();
        let size = if self.random.below(3) == 0 { large } else { small };
        let of = |at: usize| broadcast(&shapes.0[at], &size);
        let made = Shapes([of(0)?, of(1)?]);
        let weight = self.weight(&size);
        Some((format!("{}\n{name} = Mul {x} {}", weight.1, weight.0), made))
    }

    /// The name of a new weight, and the line that makes it.
    fn weight(&mut self, shape: &[usize]) -> (String, String) {
        let name = format!("c{}", self.weights);
        self.weights += 1;
        let count = shape.iter().product();
        let numbers = (0..count).map(|at: usize| (at * 7 % 11) as f32 / 4.0 - 1.0);
        // A list first: lines have no weights of several dimensions and numbers of one's own.
        let lines = format!(
            "floats {name}f {}\nints {name}s {}\n{name} = Reshape {name}f {name}s",
            joined(numbers),
            if shape.is_empty() { "1".to_owned() } else { joined(shape) }
        );
        (name, lines)
    }
}

#[test]
fn graphs_that_are_said_to_keep_rows_apart_do() {
    let directory = tempfile::tempdir().unwrap();
    let (mut apart, mut mixed, mut more) = (0, 0, 0);
    for seed in 0..GRAPHS {
        let Graph { text, .. } = Graph::new(seed);
        let file = text::onnx(&text);
        let doubt = doubt(&file);
        let seen = see(EngineChoice::Ort, directory.path(), &file);
        match (doubt, seen) {
            (None, Seen::Apart) => apart += 1,
            (None, Seen::Mixed(how)) => panic!("seed {seed}: {how}\n{text}"),
            (Some(_), Seen::Mixed(_)) => mixed += 1,
            (Some(_), Seen::Apart) => more += 1,
            (_, Seen::Nothing(_)) => {}
        }
    }
    // Else they would show nothing.
    let told = format!("{apart} apart, {mixed} mixed, {more} apart and not found");
    assert!(apart > 300 && mixed > 200, "{told}");
    eprintln!("{told}");
}
