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
    r.priority,
    r.bytes_in,
    r.bytes_out,
    CASE r.status WHEN 0 THEN 'ok' WHEN 1 THEN 'bad_request' WHEN 2 THEN 'bad_picture' WHEN
        3 THEN 'overloaded' WHEN 4 THEN 'draining' WHEN 5 THEN 'engine_failed' WHEN 6 THEN
        'session_ended' WHEN 7 THEN 'link_lost' WHEN 8 THEN 'unsupported' WHEN 9 THEN
        'reply_too_large' END AS status,
    r.started_unix_ns,
    CASE WHEN r.trace_id IS NOT NULL THEN lower(hex(r.trace_id)) END AS trace_id,
    r.fill_ns,
    r.send_ns,
    r.receive_ns,
    r.queue_ns,
    r.wake_ns,
    r.batch_ns,
    r.load_ns,
    r.copy_in_ns,
    r.decode_ns,
    r.preprocess_ns,
    r.infer_ns,
    r.postprocess_ns,
    r.copy_out_ns,
    r.outbox_ns,
    r.reply_ns,
    r.server_ns,
    r.total_ns,
    r.network_ns,
    r.unattributed_ns
FROM request_rows AS r LEFT JOIN sessions AS s ON s.id = r.session_id;

DROP VIEW stage_breakdown;
CREATE VIEW stage_breakdown AS
WITH names (position, stage) AS (
    VALUES (1, 'fill'), (2, 'send'), (3, 'receive'), (4, 'queue'), (5, 'wake'), (6, 'batch'),
        (7, 'load'), (8, 'copy_in'), (9, 'decode'), (10, 'preprocess'), (11, 'infer'),
        (12, 'postprocess'), (13, 'copy_out'), (14, 'outbox'), (15, 'reply'), (16, 'server'),
        (17, 'total'), (18, 'network'), (19, 'unattributed')
), sums AS (
    SELECT run_id, transport, model, sum(total_ns + 0.0) AS all_ns,
        count(fill_ns) AS fill_count, sum(fill_ns + 0.0) AS fill_sum,
        count(send_ns) AS send_count, sum(send_ns + 0.0) AS send_sum,
        count(receive_ns) AS receive_count, sum(receive_ns + 0.0) AS receive_sum,
        count(queue_ns) AS queue_count, sum(queue_ns + 0.0) AS queue_sum,
        count(wake_ns) AS wake_count, sum(wake_ns + 0.0) AS wake_sum,
        count(batch_ns) AS batch_count, sum(batch_ns + 0.0) AS batch_sum,
        count(load_ns) AS load_count, sum(load_ns + 0.0) AS load_sum,
        count(copy_in_ns) AS copy_in_count, sum(copy_in_ns + 0.0) AS copy_in_sum,
        count(decode_ns) AS decode_count, sum(decode_ns + 0.0) AS decode_sum,
        count(preprocess_ns) AS preprocess_count, sum(preprocess_ns + 0.0) AS preprocess_sum,
        count(infer_ns) AS infer_count, sum(infer_ns + 0.0) AS infer_sum,
        count(postprocess_ns) AS postprocess_count, sum(postprocess_ns + 0.0) AS postprocess_sum,
        count(copy_out_ns) AS copy_out_count, sum(copy_out_ns + 0.0) AS copy_out_sum,
        count(outbox_ns) AS outbox_count, sum(outbox_ns + 0.0) AS outbox_sum,
        count(reply_ns) AS reply_count, sum(reply_ns + 0.0) AS reply_sum,
        count(server_ns) AS server_count, sum(server_ns + 0.0) AS server_sum,
        count(total_ns) AS total_count, sum(total_ns + 0.0) AS total_sum,
        count(network_ns) AS network_count, sum(network_ns + 0.0) AS network_sum,
        count(unattributed_ns) AS unattributed_count, sum(unattributed_ns + 0.0) AS unattributed_sum
    FROM requests WHERE status = 'ok' GROUP BY run_id, transport, model
), stages AS (
    SELECT run_id, transport, model, position, stage, all_ns,
        CASE stage
            WHEN 'fill' THEN fill_count
            WHEN 'send' THEN send_count
            WHEN 'receive' THEN receive_count
            WHEN 'queue' THEN queue_count
            WHEN 'wake' THEN wake_count
            WHEN 'batch' THEN batch_count
            WHEN 'load' THEN load_count
            WHEN 'copy_in' THEN copy_in_count
            WHEN 'decode' THEN decode_count
            WHEN 'preprocess' THEN preprocess_count
            WHEN 'infer' THEN infer_count
            WHEN 'postprocess' THEN postprocess_count
            WHEN 'copy_out' THEN copy_out_count
            WHEN 'outbox' THEN outbox_count
            WHEN 'reply' THEN reply_count
            WHEN 'server' THEN server_count
            WHEN 'total' THEN total_count
            WHEN 'network' THEN network_count
            WHEN 'unattributed' THEN unattributed_count
        END AS requests,
        CASE stage
            WHEN 'fill' THEN fill_sum
            WHEN 'send' THEN send_sum
            WHEN 'receive' THEN receive_sum
            WHEN 'queue' THEN queue_sum
            WHEN 'wake' THEN wake_sum
            WHEN 'batch' THEN batch_sum
            WHEN 'load' THEN load_sum
            WHEN 'copy_in' THEN copy_in_sum
            WHEN 'decode' THEN decode_sum
            WHEN 'preprocess' THEN preprocess_sum
            WHEN 'infer' THEN infer_sum
            WHEN 'postprocess' THEN postprocess_sum
            WHEN 'copy_out' THEN copy_out_sum
            WHEN 'outbox' THEN outbox_sum
            WHEN 'reply' THEN reply_sum
            WHEN 'server' THEN server_sum
            WHEN 'total' THEN total_sum
            WHEN 'network' THEN network_sum
            WHEN 'unattributed' THEN unattributed_sum
        END AS stage_ns
    FROM sums CROSS JOIN names
)
SELECT run_id, transport, model, position, stage, requests,
    stage_ns / requests AS mean_ns,
    stage_ns / all_ns AS share
FROM stages WHERE requests > 0;

DROP VIEW stage_rows;
CREATE VIEW stage_rows AS
SELECT run_id, session_id, request, transport, model, status,
    1 AS position, 'fill' AS stage, fill_ns AS duration_ns
    FROM requests WHERE fill_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    2 AS position, 'send' AS stage, send_ns AS duration_ns
    FROM requests WHERE send_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    3 AS position, 'receive' AS stage, receive_ns AS duration_ns
    FROM requests WHERE receive_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    4 AS position, 'queue' AS stage, queue_ns AS duration_ns
    FROM requests WHERE queue_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    5 AS position, 'wake' AS stage, wake_ns AS duration_ns
    FROM requests WHERE wake_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    6 AS position, 'batch' AS stage, batch_ns AS duration_ns
    FROM requests WHERE batch_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    7 AS position, 'load' AS stage, load_ns AS duration_ns
    FROM requests WHERE load_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    8 AS position, 'copy_in' AS stage, copy_in_ns AS duration_ns
    FROM requests WHERE copy_in_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    9 AS position, 'decode' AS stage, decode_ns AS duration_ns
    FROM requests WHERE decode_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    10 AS position, 'preprocess' AS stage, preprocess_ns AS duration_ns
    FROM requests WHERE preprocess_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    11 AS position, 'infer' AS stage, infer_ns AS duration_ns
    FROM requests WHERE infer_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    12 AS position, 'postprocess' AS stage, postprocess_ns AS duration_ns
    FROM requests WHERE postprocess_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    13 AS position, 'copy_out' AS stage, copy_out_ns AS duration_ns
    FROM requests WHERE copy_out_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    14 AS position, 'outbox' AS stage, outbox_ns AS duration_ns
    FROM requests WHERE outbox_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    15 AS position, 'reply' AS stage, reply_ns AS duration_ns
    FROM requests WHERE reply_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    16 AS position, 'server' AS stage, server_ns AS duration_ns
    FROM requests WHERE server_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    17 AS position, 'total' AS stage, total_ns AS duration_ns
    FROM requests WHERE total_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    18 AS position, 'network' AS stage, network_ns AS duration_ns
    FROM requests WHERE network_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    19 AS position, 'unattributed' AS stage, unattributed_ns AS duration_ns
    FROM requests WHERE unattributed_ns IS NOT NULL;

ALTER TABLE request_rows DROP COLUMN batch_rows;
ALTER TABLE request_rows DROP COLUMN scatter_ns;
ALTER TABLE request_rows DROP COLUMN gather_ns;
