//! Who may call what: each method, by each kind of caller, against a server that has tenants.

use std::time::Duration;

use ferry_control::api::{Access, METHODS};
use ferry_control::tenants::{Quota, TenantConfig};
use ferry_proto::channel::KEY_METADATA;
use futures_util::stream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::common::{LONG, Running};

/// Calls a method, whatever its messages are: an empty one stands for every request, and of an
/// answer nobody reads a field. Without `body` the message is announced and never comes.
async fn call(
    server: &Running,
    path: &'static str,
    key: Option<&'static str>,
    body: bool,
) -> Result<(), Status> {
    let mut grpc = Grpc::new(server.channel.clone());
    grpc.ready().await.unwrap();
    let messages: stream::BoxStream<'static, ()> =
        if body { Box::pin(stream::iter([()])) } else { Box::pin(stream::pending()) };
    let mut request = Request::new(messages);
    if let Some(key) = key {
        request.metadata_mut().insert(KEY_METADATA, key.parse().unwrap());
    }
    let codec = ProstCodec::<(), ()>::default();
    let answer = grpc.streaming(request, PathAndQuery::from_static(path), codec);
    let answer = tokio::time::timeout(LONG, answer).await.expect("an answer, whatever it is")?;
    // Some streams stay open and say nothing.
    let mut messages = answer.into_inner();
    let first = tokio::time::timeout(Duration::from_millis(100), messages.message()).await;
    first.unwrap_or(Ok(None)).map(drop)
}

/// What each caller is told: nobody, somebody with a wrong key, a tenant, the operator.
fn expected(access: Access) -> [Option<Code>; 4] {
    let (key, no) = (Some(Code::Unauthenticated), Some(Code::PermissionDenied));
    match access {
        Access::Anyone => [None, None, None, None],
        Access::Tenant => [key, key, None, no],
        Access::Known => [key, key, None, None],
        Access::Operator => [no, no, no, None],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_is_for_those_of_the_table_and_others_are_told_before_their_body_comes() {
    let server = Running::start(|config| {
        let (name, key) = ("a".to_owned(), "key of a".to_owned());
        config.tenants = vec![TenantConfig { name, key, quota: Quota::default(), rate: None }];
        config.operator_key = Some("operator".into());
    })
    .await;
    // What ends the server's work comes last.
    let mut methods = METHODS.to_vec();
    methods.sort_by_key(|(path, _)| path.ends_with("/Drain"));
    let callers = [None, Some("nobody's"), Some("key of a"), Some("operator")];
    for (path, access) in methods {
        for (caller, refused) in callers.into_iter().zip(expected(access)) {
            let before = server.state.refusals.total();
            let answer = call(&server, path, caller, refused.is_none()).await;
            let code = answer.as_ref().map_or_else(Status::code, |()| Code::Ok);
            let about_the_key = matches!(code, Code::Unauthenticated | Code::PermissionDenied);
            let told = about_the_key.then_some(code);
            assert_eq!(told, refused, "{path} called with {caller:?}: {answer:?}");
            let counted = server.state.refusals.total() > before;
            assert!(counted || refused.is_none(), "{path}: a refusal that nobody counted");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_there_is_refused() {
    let server = Running::start(|_| {}).await;
    let answer = call(&server, "/ferry.v1.Admin/Nonsense", None, true).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    server.stop().await;
}
