-- The values go: they count from another beginning than the columns of the version before.
ALTER TABLE resource_samples DROP COLUMN nvlink_bytes;
ALTER TABLE resource_samples DROP COLUMN pcie_bytes;
ALTER TABLE resource_samples ADD COLUMN pcie_bytes INTEGER;
ALTER TABLE resource_samples ADD COLUMN nvlink_bytes INTEGER;
