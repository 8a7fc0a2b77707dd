-- Requests that did not run: late, cancelled, rate_limited. And cached: 1 where the answer was one that
-- had been kept, so that the model did not run either.
ALTER TABLE request_rows ADD COLUMN cached INTEGER;

DROP VIEW requests;
CREATE VIEW requests AS
SELECT
    r.run_id,
    r.session_id,
    r.request,
    s.transport,
    s.link,
    s.placement,
    CASE r.staged & 255 WHEN 1 THEN 'pageable' WHEN 2 THEN 'pinned' WHEN 3 THEN 'mapped'
        ELSE s.memory END AS memory,
    CASE r.staged >> 8 WHEN 1 THEN 'asked' WHEN 2 THEN 'unregistered' WHEN 3 THEN 'idle' WHEN
        4 THEN 'busy' WHEN 5 THEN 'large' WHEN 6 THEN 'only' END AS memory_why,
    s.connection,
    s.wait,
    s.tenant,
    s.model,
    s.version,
    s.engine,
    s.device,
    s.precision,
    CASE r.kind WHEN 0 THEN 'ping' WHEN 1 THEN 'raw' WHEN 2 THEN 'jpeg' WHEN 3 THEN 'tensor'
        END AS kind,
    r.batch,
    r.batch_rows,
    coalesce(r.cached, 0) AS cached,
    r.priority,
    r.bytes_in,
    r.bytes_out,
    CASE r.status WHEN 0 THEN 'ok' WHEN 1 THEN 'bad_request' WHEN 2 THEN 'bad_picture' WHEN
        3 THEN 'overloaded' WHEN 4 THEN 'draining' WHEN 5 THEN 'engine_failed' WHEN 6 THEN
        'session_ended' WHEN 7 THEN 'link_lost' WHEN 8 THEN 'unsupported' WHEN 9 THEN
        'reply_too_large' WHEN 10 THEN 'late' WHEN 11 THEN 'cancelled' WHEN 12 THEN 'rate_limited'
        END AS status,
    r.started_unix_ns,
    CASE WHEN r.trace_id IS NOT NULL THEN lower(hex(r.trace_id)) END AS trace_id,
    r.fill_ns,
    r.send_ns,
    r.receive_ns,
    r.queue_ns,
    r.wake_ns,
    r.batch_ns,
    r.load_ns,
    r.gather_ns,
    r.copy_in_ns,
    r.decode_ns,
    r.preprocess_ns,
    r.infer_ns,
    r.postprocess_ns,
    r.copy_out_ns,
    r.scatter_ns,
    r.outbox_ns,
    r.reply_ns,
    r.server_ns,
    r.total_ns,
    r.network_ns,
    r.unattributed_ns
FROM request_rows AS r LEFT JOIN sessions AS s ON s.id = r.session_id;
