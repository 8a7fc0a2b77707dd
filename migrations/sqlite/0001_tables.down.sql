DROP TABLE models;
DROP TABLE refusals;
DROP TABLE resource_samples;
DROP TABLE request_rows;
DROP TABLE sessions;
DROP TABLE runs;
