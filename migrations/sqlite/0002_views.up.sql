-- Every view reads `requests`, so that a filter on run_id, transport or model written by the person
-- who asks reaches the rows and not only the result.

-- Everything about one request. The join goes by primary key and costs little: aggregates over a
-- million rows took 1.0 to 1.4 times as long as over one table with every column (docs/SQL.md).
CREATE VIEW requests AS
SELECT
    r.run_id,
    r.session_id,
    r.request,
    s.transport,
    s.link,
    s.placement,
    s.memory,
    s.connection,
    s.wait,
    s.tenant,
    s.model,
    s.version,
    s.engine,
    CASE r.kind WHEN 0 THEN 'ping' WHEN 1 THEN 'raw' WHEN 2 THEN 'jpeg' WHEN 3 THEN 'tensor'
        END AS kind,
    r.batch,
    r.priority,
    r.bytes_in,
    r.bytes_out,
    CASE r.status WHEN 0 THEN 'ok' WHEN 1 THEN 'bad_request' WHEN 2 THEN 'bad_picture' WHEN
        3 THEN 'overloaded' WHEN 4 THEN 'draining' WHEN 5 THEN 'engine_failed' WHEN 6 THEN
        'session_ended' WHEN 7 THEN 'link_lost' WHEN 8 THEN 'unsupported' END AS status,
    r.started_unix_ns,
    r.fill_ns,
    r.send_ns,
    r.receive_ns,
    r.queue_ns,
    r.copy_in_ns,
    r.decode_ns,
    r.preprocess_ns,
    r.infer_ns,
    r.postprocess_ns,
    r.copy_out_ns,
    r.reply_ns,
    r.server_ns,
    r.total_ns,
    r.network_ns,
    r.unattributed_ns
FROM request_rows AS r LEFT JOIN sessions AS s ON s.id = r.session_id;

-- Mean of each stage over the requests that ended well, in the order of the walk. `requests` is how
-- many had the stage. `share` is the stage's part of all the time in total_ns; fill lies outside
-- the total, send and reply lie inside network.
CREATE VIEW stage_breakdown AS
WITH names (position, stage) AS (
    VALUES (1, 'fill'), (2, 'send'), (3, 'receive'), (4, 'queue'), (5, 'copy_in'), (6, 'decode'),
        (7, 'preprocess'), (8, 'infer'), (9, 'postprocess'), (10, 'copy_out'), (11, 'reply'),
        (12, 'server'), (13, 'total'), (14, 'network'), (15, 'unattributed')
), sums AS (
    SELECT run_id, transport, model, sum(total_ns + 0.0) AS all_ns,
        count(fill_ns) AS fill_count, sum(fill_ns + 0.0) AS fill_sum,
        count(send_ns) AS send_count, sum(send_ns + 0.0) AS send_sum,
        count(receive_ns) AS receive_count, sum(receive_ns + 0.0) AS receive_sum,
        count(queue_ns) AS queue_count, sum(queue_ns + 0.0) AS queue_sum,
        count(copy_in_ns) AS copy_in_count, sum(copy_in_ns + 0.0) AS copy_in_sum,
        count(decode_ns) AS decode_count, sum(decode_ns + 0.0) AS decode_sum,
        count(preprocess_ns) AS preprocess_count, sum(preprocess_ns + 0.0) AS preprocess_sum,
        count(infer_ns) AS infer_count, sum(infer_ns + 0.0) AS infer_sum,
        count(postprocess_ns) AS postprocess_count, sum(postprocess_ns + 0.0) AS postprocess_sum,
        count(copy_out_ns) AS copy_out_count, sum(copy_out_ns + 0.0) AS copy_out_sum,
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
            WHEN 'copy_in' THEN copy_in_count
            WHEN 'decode' THEN decode_count
            WHEN 'preprocess' THEN preprocess_count
            WHEN 'infer' THEN infer_count
            WHEN 'postprocess' THEN postprocess_count
            WHEN 'copy_out' THEN copy_out_count
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
            WHEN 'copy_in' THEN copy_in_sum
            WHEN 'decode' THEN decode_sum
            WHEN 'preprocess' THEN preprocess_sum
            WHEN 'infer' THEN infer_sum
            WHEN 'postprocess' THEN postprocess_sum
            WHEN 'copy_out' THEN copy_out_sum
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

-- Percentiles of total_ns over the requests that ended well: nearest rank, so each is a duration
-- that was really seen. cov = standard deviation / mean. Window functions all the way up, because
-- SQLite passes a filter on run_id down through windows but not through a GROUP BY over them; and
-- Newton's method, because the SQLite that is built in has no sqrt().
CREATE VIEW transport_percentiles AS
WITH ranked AS (
    SELECT run_id, transport, model, total_ns,
        row_number() OVER w AS place,
        count(*) OVER w AS n,
        avg(total_ns) OVER w AS mean_ns,
        avg(1.0 * total_ns * total_ns) OVER w AS mean_square
    FROM requests WHERE status = 'ok' AND total_ns IS NOT NULL
    WINDOW w AS (PARTITION BY run_id, transport, model ORDER BY total_ns
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
), picked AS (
    SELECT * FROM ranked WHERE place IN ((n * 50 + 99) / 100, (n * 90 + 99) / 100,
        (n * 99 + 99) / 100, (n * 999 + 999) / 1000, n)
), wide AS (
    SELECT run_id, transport, model, n, place, mean_ns, total_ns AS max_ns,
        max(0.0, mean_square - mean_ns * mean_ns) / (mean_ns * mean_ns) AS cov_square,
        min(total_ns) FILTER (WHERE place = (n * 50 + 99) / 100) OVER p AS p50_ns,
        min(total_ns) FILTER (WHERE place = (n * 90 + 99) / 100) OVER p AS p90_ns,
        min(total_ns) FILTER (WHERE place = (n * 99 + 99) / 100) OVER p AS p99_ns,
        min(total_ns) FILTER (WHERE place = (n * 999 + 999) / 1000) OVER p AS p999_ns
    FROM picked WINDOW p AS (PARTITION BY run_id, transport, model)
)
SELECT run_id, transport, model,
    n AS requests, p50_ns, p90_ns, p99_ns, p999_ns, max_ns, mean_ns,
    (WITH RECURSIVE newton (x, i) AS (
        SELECT max(cov_square, 1.0), 0
        UNION ALL SELECT (x + cov_square / x) / 2, i + 1 FROM newton WHERE i < 60
    ) SELECT x FROM newton WHERE i = 60) AS cov
FROM wide WHERE place = n;

-- One row per request and stage that happened. Thirteen times the rows of `requests`, and two more
-- for network and unattributed: ask for one stage.
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
    5 AS position, 'copy_in' AS stage, copy_in_ns AS duration_ns
    FROM requests WHERE copy_in_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    6 AS position, 'decode' AS stage, decode_ns AS duration_ns
    FROM requests WHERE decode_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    7 AS position, 'preprocess' AS stage, preprocess_ns AS duration_ns
    FROM requests WHERE preprocess_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    8 AS position, 'infer' AS stage, infer_ns AS duration_ns
    FROM requests WHERE infer_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    9 AS position, 'postprocess' AS stage, postprocess_ns AS duration_ns
    FROM requests WHERE postprocess_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    10 AS position, 'copy_out' AS stage, copy_out_ns AS duration_ns
    FROM requests WHERE copy_out_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    11 AS position, 'reply' AS stage, reply_ns AS duration_ns
    FROM requests WHERE reply_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    12 AS position, 'server' AS stage, server_ns AS duration_ns
    FROM requests WHERE server_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    13 AS position, 'total' AS stage, total_ns AS duration_ns
    FROM requests WHERE total_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    14 AS position, 'network' AS stage, network_ns AS duration_ns
    FROM requests WHERE network_ns IS NOT NULL
UNION ALL
SELECT run_id, session_id, request, transport, model, status,
    15 AS position, 'unattributed' AS stage, unattributed_ns AS duration_ns
    FROM requests WHERE unattributed_ns IS NOT NULL;

-- As transport_percentiles, of every stage. Ask for one run, or one stage: it sorts what it ranks.
CREATE VIEW stage_percentiles AS
WITH ranked AS (
    SELECT run_id, transport, model, stage, duration_ns,
        row_number() OVER w AS place,
        count(*) OVER w AS n,
        avg(duration_ns) OVER w AS mean_ns,
        avg(1.0 * duration_ns * duration_ns) OVER w AS mean_square
    FROM stage_rows WHERE status = 'ok'
    WINDOW w AS (PARTITION BY run_id, transport, model, stage ORDER BY duration_ns
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
), picked AS (
    SELECT * FROM ranked WHERE place IN ((n * 50 + 99) / 100, (n * 90 + 99) / 100,
        (n * 99 + 99) / 100, (n * 999 + 999) / 1000, n)
), wide AS (
    SELECT run_id, transport, model, stage, n, place, mean_ns, duration_ns AS max_ns,
        max(0.0, mean_square - mean_ns * mean_ns) / (mean_ns * mean_ns) AS cov_square,
        min(duration_ns) FILTER (WHERE place = (n * 50 + 99) / 100) OVER p AS p50_ns,
        min(duration_ns) FILTER (WHERE place = (n * 90 + 99) / 100) OVER p AS p90_ns,
        min(duration_ns) FILTER (WHERE place = (n * 99 + 99) / 100) OVER p AS p99_ns,
        min(duration_ns) FILTER (WHERE place = (n * 999 + 999) / 1000) OVER p AS p999_ns
    FROM picked WINDOW p AS (PARTITION BY run_id, transport, model, stage)
)
SELECT run_id, transport, model, stage,
    n AS requests, p50_ns, p90_ns, p99_ns, p999_ns, max_ns, mean_ns,
    (WITH RECURSIVE newton (x, i) AS (
        SELECT max(cov_square, 1.0), 0
        UNION ALL SELECT (x + cov_square / x) / 2, i + 1 FROM newton WHERE i < 60
    ) SELECT x FROM newton WHERE i = 60) AS cov
FROM wide WHERE place = n;

-- Every two runs that share a transport and a model. A ratio above 1: run_id was slower than
-- base_run_id. Ask with both ids.
CREATE VIEW run_comparison AS
SELECT
    a.run_id AS base_run_id,
    b.run_id AS run_id,
    a.transport,
    a.model,
    a.p50_ns AS base_p50_ns,
    b.p50_ns AS p50_ns,
    1.0 * b.p50_ns / a.p50_ns AS p50_ratio,
    a.p99_ns AS base_p99_ns,
    b.p99_ns AS p99_ns,
    1.0 * b.p99_ns / a.p99_ns AS p99_ratio
FROM transport_percentiles AS a JOIN transport_percentiles AS b
    ON a.transport = b.transport AND a.model = b.model AND a.run_id <> b.run_id;

-- The last hundred runs, newest first.
CREATE VIEW recent_runs AS
SELECT
    id AS run_id,
    name,
    kind,
    datetime(started_unix_ns / 1000000000, 'unixepoch') AS started_utc,
    (finished_unix_ns - started_unix_ns) / 1e9 AS seconds,
    finished_unix_ns IS NOT NULL AS finished,
    (SELECT count(*) FROM request_rows WHERE request_rows.run_id = runs.id) AS requests,
    warmup,
    lost,
    git_commit,
    cpu_model
FROM runs ORDER BY started_unix_ns DESC, id DESC LIMIT 100;
