-- The tenant that started a run; NULL where the server or the operator did, and in rows of before.
ALTER TABLE runs ADD COLUMN tenant TEXT;
