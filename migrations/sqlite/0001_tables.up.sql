-- Times are integer nanoseconds: *_unix_ns since 1970, *_ns durations. NULL means "did not happen".
-- No foreign keys: a request whose session or run was lost must still be stored.

CREATE TABLE runs (
    id               INTEGER PRIMARY KEY,
    name             TEXT    NOT NULL,
    kind             TEXT    NOT NULL,            -- serve, bench, infer, …
    started_unix_ns  INTEGER NOT NULL,
    finished_unix_ns INTEGER,                     -- NULL while it goes on, or when it was cut off
    cpu_model        TEXT    NOT NULL,
    cpu_cores        INTEGER NOT NULL,
    kernel           TEXT    NOT NULL,
    git_commit       TEXT    NOT NULL,
    options          TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(options)),
    libraries        TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(libraries)),
    warmup           INTEGER NOT NULL DEFAULT 0,  -- requests sent before those that are stored
    notes            TEXT    NOT NULL DEFAULT '',
    lost             INTEGER NOT NULL DEFAULT 0   -- request rows that could not be stored
) STRICT;

CREATE TABLE sessions (
    id             INTEGER PRIMARY KEY,           -- the session id's 64 bits, as a signed number
    run_id         INTEGER NOT NULL,
    tenant         TEXT    NOT NULL,
    model          TEXT    NOT NULL,
    version        TEXT    NOT NULL,
    engine         TEXT    NOT NULL,
    transport      TEXT    NOT NULL,
    link           TEXT    NOT NULL,
    placement      TEXT    NOT NULL,              -- host, cuda:N
    memory         TEXT    NOT NULL,              -- pageable, pinned, mapped
    connection     TEXT    NOT NULL,              -- direct
    wait           TEXT    NOT NULL,              -- spin, adaptive, block
    slots          INTEGER NOT NULL,
    opened_unix_ns INTEGER NOT NULL,
    closed_unix_ns INTEGER,
    close_reason   TEXT
) STRICT;

-- One narrow row per request; what a session has in common stands in `sessions`. Read it through
-- the view `requests`.
CREATE TABLE request_rows (
    run_id          INTEGER NOT NULL,
    session_id      INTEGER NOT NULL,
    request         INTEGER NOT NULL,
    kind            INTEGER NOT NULL,             -- number of the kind, see the view
    status          INTEGER NOT NULL,             -- number of the status, see the view
    batch           INTEGER NOT NULL,
    priority        INTEGER NOT NULL,
    bytes_in        INTEGER NOT NULL,
    bytes_out       INTEGER NOT NULL,
    started_unix_ns INTEGER NOT NULL,
    fill_ns         INTEGER,
    send_ns         INTEGER,
    receive_ns      INTEGER,
    queue_ns        INTEGER,
    copy_in_ns      INTEGER,
    decode_ns       INTEGER,
    preprocess_ns   INTEGER,
    infer_ns        INTEGER,
    postprocess_ns  INTEGER,
    copy_out_ns     INTEGER,
    reply_ns        INTEGER,
    server_ns       INTEGER,
    total_ns        INTEGER,
    unattributed_ns INTEGER,                      -- part of server_ns that no stage claims
    network_ns      INTEGER GENERATED ALWAYS AS (total_ns - server_ns) VIRTUAL
) STRICT;

-- Rows of one run are asked for far more often than all rows.
CREATE INDEX request_rows_by_run ON request_rows (run_id);

CREATE TABLE resource_samples (
    id                INTEGER PRIMARY KEY,
    run_id            INTEGER NOT NULL,
    unix_ns           INTEGER NOT NULL,
    process_user_ns   INTEGER NOT NULL,           -- CPU time since the process started
    process_system_ns INTEGER NOT NULL,
    machine_user_ns   INTEGER NOT NULL,           -- CPU time of all cores since the machine started
    machine_system_ns INTEGER NOT NULL,
    rss_bytes         INTEGER NOT NULL,
    gpu_memory_bytes  INTEGER,
    gpu_busy_percent  REAL,
    pcie_bytes        INTEGER,                    -- both directions, since the device started
    nvlink_bytes      INTEGER,
    gpu_energy_uj     INTEGER                     -- microjoules since the driver was loaded
) STRICT;

CREATE INDEX resource_samples_by_run ON resource_samples (run_id, unix_ns);

CREATE TABLE refusals (
    id         INTEGER PRIMARY KEY,
    unix_ns    INTEGER NOT NULL,
    session_id INTEGER,                           -- NULL where no session could be told
    tenant     TEXT,
    link       TEXT    NOT NULL,
    what       TEXT    NOT NULL,
    count      INTEGER NOT NULL
) STRICT;

CREATE TABLE models (
    id               INTEGER PRIMARY KEY,
    run_id           INTEGER NOT NULL,
    name             TEXT    NOT NULL,
    version          TEXT    NOT NULL,
    engine           TEXT    NOT NULL,
    sha256           TEXT    NOT NULL,            -- of the model file; empty for a built-in model
    loaded_unix_ns   INTEGER NOT NULL,
    unloaded_unix_ns INTEGER
) STRICT;
