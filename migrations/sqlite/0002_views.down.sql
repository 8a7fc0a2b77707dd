DROP VIEW recent_runs;
DROP VIEW run_comparison;
DROP VIEW stage_percentiles;
DROP VIEW stage_rows;
DROP VIEW transport_percentiles;
DROP VIEW stage_breakdown;
DROP VIEW requests;
