//! What this crate knows, as messages.

use ferry_core::{Endpoint, LinkKind, RegionDescriptor};
use ferry_proto::{batch_rows_to_wire, output_shapes_to_wire, server_times_to_wire, v1};

use crate::models::{
    Listed, Metadata, Precision, Presence, Profile, ResidencyState, Served, State,
};
use crate::serving::inline::{InlineReply, InlineTensor};
use crate::sessions::{Opened, Session};
use crate::store::{Cell, Run};

/// A duration; one above 2^63 s is cut.
pub(super) fn duration(duration: std::time::Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or_default()
}

pub(super) fn model(listed: &Listed) -> v1::Model {
    let mut model = match &listed.state {
        State::Loaded(served) => served_model(served),
        State::Absent(profile) => profile_model(profile),
        State::Available => v1::Model::default(),
        State::Failed(why) => v1::Model { error: why.clone(), ..v1::Model::default() },
    };
    model.residency = listed.presence.map(residency);
    model.set_state(match &listed.state {
        State::Loaded(_) | State::Absent(_) => v1::model::State::Loaded,
        State::Available => v1::model::State::Available,
        State::Failed(_) => v1::model::State::Failed,
    });
    (model.name, model.version) = (listed.name.clone(), listed.version);
    model.notes = listed.notes.clone();
    model
}

/// A model that is in memory.
pub(super) fn served_model(served: &Served) -> v1::Model {
    let stats = served.pool.stats();
    let mut model = profile_model(served);
    model.stats = Some(v1::ModelStats {
        served: stats.served,
        failed: stats.failed,
        refused: stats.refused,
        queued_now: stats.queued as u64,
        in_flight_now: stats.in_flight as u64,
        late: stats.late,
        cancelled: stats.cancelled,
    });
    model.residency = Some(residency(served.presence(ResidencyState::Resident)));
    model.set_state(v1::model::State::Loaded);
    model
}

/// Whether a model is in memory, and what it takes there.
pub(super) fn residency(presence: Presence) -> v1::Residency {
    let Presence { state, place, weights_bytes, keep, loads, evictions, last_load } = presence;
    v1::Residency {
        state: state.name().to_owned(),
        place: place.name(),
        bytes: weights_bytes,
        keep,
        loads,
        evictions,
        last_load_us: u64::try_from(last_load.as_micros()).unwrap_or(u64::MAX),
    }
}

/// What is known of a model, in memory or not.
fn profile_model(profile: &Profile) -> v1::Model {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let Metadata { instances, threads, queue, description, labels, .. } = &profile.metadata;
    v1::Model {
        name: profile.name.clone(),
        version: profile.version,
        state: 0,
        error: String::new(),
        engine: profile.engine.to_owned(),
        engine_version: profile.engine_version.clone(),
        signature: Some(profile.signature().into()),
        instances: count(*instances),
        threads: count(*threads),
        queue: count(queue.max),
        takes_pictures: profile.takes_pictures(),
        description: description.clone(),
        sha256: profile.sha256.clone(),
        labels: labels.clone(),
        stats: None,
        device: profile.device_name(),
        precision: profile.precision.map_or("", Precision::name).to_owned(),
        picture_files: profile.metadata.picture.as_ref().map(|(_, picture)| picture_files(picture)),
        is_overridden: profile.is_overridden(),
        batches: profile.batches.told(),
        // For some alone.
        config_toml: None,
        aliases: profile.metadata.aliases.clone(),
        notes: profile.metadata.notes.clone(),
        device_reason: profile.device_why.clone(),
        residency: None,
    }
}

/// How picture files become pixels for this model.
fn picture_files(picture: &ferry_engine::Picture) -> v1::PictureFiles {
    let background = picture.decode.background.0;
    v1::PictureFiles {
        turned: picture.decode.orientation == ferry_vision::Orientation::Exif,
        background: background.to_vec().into(),
    }
}

pub(super) fn opened(opened: &Opened, lease: std::time::Duration) -> v1::OpenSessionResponse {
    let session = &opened.session;
    let (agreed, served) = (&session.agreed, session.served());
    v1::OpenSessionResponse {
        session: Some(v1::SessionRef::new(session.id, opened.token(), session.generation())),
        protocol: u32::from(agreed.protocol),
        transport: agreed.transport.name().to_owned(),
        transport_reason: agreed.reason.clone(),
        endpoint: Some(v1::Endpoint::of(&opened.endpoint, &opened.region)),
        regions: v1::RegionDescriptor::of(&opened.region),
        layout: Some(agreed.layout.into()),
        signature: Some((&*agreed.binding).into()),
        lease: Some(duration(lease)),
        model: served.name.clone(),
        version: served.version,
        engine: served.engine.to_owned(),
        takes_pictures: served.takes_pictures(),
        labels: served.metadata.labels.clone(),
        run_id: session.run,
        placement: served.device.as_ref().map(|_| agreed.place().into()),
    }
}

/// How a session's memory is reached once both ends know each other.
pub(super) fn attached(region: &RegionDescriptor) -> v1::AttachSessionResponse {
    v1::AttachSessionResponse {
        endpoint: Some(v1::Endpoint::of(&Endpoint::bare(LinkKind::Rdma), region)),
        regions: v1::RegionDescriptor::of(region),
    }
}

/// The reply to a request without a session.
pub(super) fn inline(reply: &InlineReply) -> v1::InferResponse {
    let output = |it: &InlineTensor| v1::InlineTensor {
        name: it.name.clone(),
        datatype: it.dtype.name().to_owned(),
        shape: it.shape.clone(),
        contents: it.contents.clone(),
    };
    v1::InferResponse {
        outputs: reply.outputs.iter().map(output).collect(),
        output_shapes: output_shapes_to_wire(reply.shapes.as_deref()),
        server_times: server_times_to_wire(&reply.times),
        batch_rows: batch_rows_to_wire(&reply.times),
        model: reply.served.name.clone(),
        version: reply.served.version,
        engine: reply.served.engine.to_owned(),
        ..v1::InferResponse::default()
    }
}

pub(super) fn session(session: &Session) -> v1::SessionInfo {
    let served = session.served();
    v1::SessionInfo {
        session_id: session.id.0,
        tenant: session.tenant.name().to_owned(),
        model: served.name.clone(),
        version: served.version,
        transport: session.agreed.transport.name().to_owned(),
        generation: session.generation().0,
        slots: session.agreed.layout.slots,
        memory_bytes: session.memory_bytes,
        requests: session.meter.requests(),
        age: Some(duration(session.opened.elapsed())),
        lease_left: Some(duration(session.lease_left())),
        client: session.client.clone(),
        run_id: session.run,
    }
}

/// A run; how many requests it has is told apart from it.
pub(super) fn run(run: Run, requests: u64) -> v1::Run {
    let new = run.new;
    let machine = serde_json::json!({
        "cpu_model": new.machine.cpu_model,
        "cpu_cores": new.machine.cpu_cores,
        "kernel": new.machine.kernel,
    });
    v1::Run {
        run_id: run.id,
        name: new.name,
        kind: new.kind,
        started_unix_ns: new.started_unix_ns,
        finished_unix_ns: run.finished_unix_ns.unwrap_or(0),
        machine_json: machine.to_string(),
        commit: new.git_commit,
        options_json: new.options_json,
        versions_json: new.libraries_json,
        warmup: new.warmup,
        notes: new.notes,
        requests,
        lost: run.lost,
        tenant: new.tenant.unwrap_or_default(),
    }
}

pub(super) fn row(cells: Vec<Cell>) -> v1::Row {
    use v1::value::Kind;
    let value = |cell| v1::Value {
        kind: match cell {
            Cell::Null => None,
            Cell::Integer(number) => Some(Kind::Integer(number)),
            Cell::Real(number) => Some(Kind::Real(number)),
            Cell::Text(text) => Some(Kind::Text(text)),
            Cell::Blob(bytes) => Some(Kind::Blob(bytes.into())),
        },
    };
    v1::Row { values: cells.into_iter().map(value).collect() }
}
