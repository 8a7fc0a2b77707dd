//! Models as others export them, over every transport and with both engines: the right numbers, or a
//! clear refusal.

use ferry_client::blocking::{Client, Session};
use ferry_client::{Error, Transport, v1};
use ferry_conformance::cases::{self, Case, Exchange, Tensor};
use ferry_conformance::transports::outside;
use ferry_proto::v1::local_client::LocalClient;

use crate::server::Server;

/// A server with all models, each run by `engine`.
fn server(engine: &str) -> Server {
    Server::start(&["--onnxruntime", &onnxruntime()], |models| {
        for case in cases::onnx() {
            let to = models.join(format!("{}.onnx", case.name));
            std::fs::copy(&case.model, &to).unwrap();
            let text = format!("engine = \"{engine}\"\ndevice = \"cpu\"\n");
            std::fs::write(to.with_extension("toml"), text).unwrap();
        }
        let weights = cases::folder().join("external.onnx.data");
        std::fs::copy(weights, models.join("external.onnx.data")).unwrap();
    })
}

/// Where `fetch-onnxruntime` puts the library.
pub(crate) fn onnxruntime() -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    format!("{root}/.cache/onnxruntime/1.30.0/libonnxruntime.so")
}

fn open(
    client: &Client,
    transport: Transport,
    case: &Case,
    exchange: &Exchange,
) -> Result<Session, Error> {
    let builder = client.session(&case.name).transport(transport).slots(1);
    let shaped = exchange
        .inputs
        .iter()
        .fold(builder, |builder, (name, tensor)| builder.shape(name, &tensor.shape));
    shaped.open()
}

fn ask(session: &mut Session, exchange: &Exchange) -> Result<Vec<(String, Tensor)>, Error> {
    let mut slot = session.slot()?;
    for (name, tensor) in &exchange.inputs {
        slot.set_input(slot.input_index(name)?, &tensor.bytes)?;
    }
    let reply = session.infer(slot)?;
    let all = session.agreed().signature.outputs.iter().enumerate();
    all.map(|(index, tensor)| {
        let (shape, bytes) = (reply.shape(index)?.to_vec(), reply.output(index)?.to_vec());
        Ok((tensor.name.clone(), Tensor { dtype: tensor.dtype, shape, bytes }))
    })
    .collect()
}

/// Over the link inside the server, by its own client.
fn ask_inside(
    client: &Client,
    case: &Case,
    exchange: &Exchange,
) -> Result<Vec<(String, Tensor)>, Error> {
    let input = |(name, tensor): &(String, Tensor)| v1::InlineTensor {
        name: name.clone(),
        datatype: tensor.dtype.name().to_owned(),
        shape: tensor.shape.clone(),
        contents: tensor.bytes.clone().into(),
    };
    let request = v1::InferRequest {
        model: case.name.clone(),
        inputs: exchange.inputs.iter().map(input).collect(),
        ..v1::InferRequest::default()
    };
    let refused = |status| Error::Refused { doing: "ask inside", status: Box::new(status) };
    let answer =
        client.run(LocalClient::new(client.control().channel()).infer(request)).map_err(refused)?;
    let output = |tensor: v1::InlineTensor| {
        let (dtype, bytes) = (tensor.datatype.parse().unwrap(), tensor.contents.to_vec());
        (tensor.name, Tensor { dtype, shape: tensor.shape, bytes })
    };
    Ok(answer.into_inner().outputs.into_iter().map(output).collect())
}

/// What is wrong with an answer, or with its refusal.
fn judge(
    case: &Case,
    exchange: &Exchange,
    answer: Result<Vec<(String, Tensor)>, Error>,
) -> Result<(), String> {
    match answer {
        Ok(_) if !exchange.may_run => Err("was not refused".to_owned()),
        Ok(outputs) => outputs.iter().try_for_each(|(name, got)| {
            let right = exchange.outputs.iter().find(|(right, _)| right == name);
            let (_, right) = right.ok_or_else(|| format!("{name:?} is not an output"))?;
            case.tolerance.check(got, right).map_err(|why| format!("{name:?}: {why}"))
        }),
        Err(Error::Request { .. } | Error::Refused { .. }) if exchange.may_be_refused => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn all_are_right(engine: &str) {
    let server = server(engine);
    let client = Client::connect(&server.url).unwrap();
    let mut wrongs = Vec::new();
    for case in cases::onnx() {
        for (number, exchange) in case.requests.iter().enumerate() {
            for transport in outside() {
                let answer = open(&client, transport, &case, exchange)
                    .and_then(|mut session| ask(&mut session, exchange));
                if let Err(why) = judge(&case, exchange, answer) {
                    wrongs.push(format!("{} {number} over {transport}: {why}", case.name));
                }
            }
            if let Err(why) = judge(&case, exchange, ask_inside(&client, &case, exchange)) {
                wrongs.push(format!("{} {number} inside: {why}", case.name));
            }
        }
    }
    assert!(wrongs.is_empty(), "{} wrong:\n{}", wrongs.len(), wrongs.join("\n"));
}

#[test]
fn onnx_answers_right_over_every_transport() {
    all_are_right("onnx");
}

#[test]
fn tract_answers_right_over_every_transport() {
    all_are_right("tract");
}

/// An answer left over from the request before shows only where the slot is the same.
#[test]
fn requests_of_equal_shapes_share_a_session() {
    let server = server("onnx");
    let client = Client::connect(&server.url).unwrap();
    for case in cases::onnx().iter().filter(|case| case.name != "forest_zipmap") {
        let shapes = |exchange: &Exchange| -> Vec<Vec<u64>> {
            exchange.inputs.iter().map(|(_, tensor)| tensor.shape.clone()).collect()
        };
        for transport in outside() {
            let mut before = None::<(Vec<Vec<u64>>, Session)>;
            for (number, exchange) in case.requests.iter().enumerate() {
                let now = shapes(exchange);
                let mut session = match before.take() {
                    Some((shapes, session)) if shapes == now => session,
                    _ => open(&client, transport, case, exchange).unwrap(),
                };
                let answer = ask(&mut session, exchange);
                let judged = judge(case, exchange, answer);
                assert_eq!(judged, Ok(()), "{} {number} over {transport}", case.name);
                before = Some((now, session));
            }
        }
    }
}
