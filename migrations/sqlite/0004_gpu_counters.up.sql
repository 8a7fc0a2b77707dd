-- Both were never filled: what they count is said anew. GPU columns are of the devices that models
-- run on, or ran on, since the server started: sums, and for gpu_busy_percent the mean. NULL where
-- one of those devices does not tell.
ALTER TABLE resource_samples DROP COLUMN pcie_bytes;
ALTER TABLE resource_samples DROP COLUMN nvlink_bytes;
-- Sent and received, the link's overhead included, since the server first looked at each device.
-- NULL too in a sample before which a 32-bit counter may have gone round unseen.
ALTER TABLE resource_samples ADD COLUMN pcie_bytes INTEGER;
-- Sent and received over all links, without overhead, since the server first looked at each device.
ALTER TABLE resource_samples ADD COLUMN nvlink_bytes INTEGER;
