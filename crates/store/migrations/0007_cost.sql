-- What usage has cost, in units of 10^-9 of the currency of the configuration. Older usage has cost nothing, and so has what a replica
-- of an older Modelgate that is still running counts.
ALTER TABLE usage ADD COLUMN cost BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN cost BIGINT NOT NULL DEFAULT 0;
