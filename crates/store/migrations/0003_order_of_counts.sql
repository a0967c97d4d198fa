-- How many batches of counts there have been, of all Modelgates together. Its row is locked by each batch, so that batches
-- become visible in their order, and whoever asks for counts of batches after a number misses none.
CREATE TABLE counting (
    only_row BIGINT PRIMARY KEY,
    batch BIGINT NOT NULL
);
INSERT INTO counting (only_row, batch) VALUES (1, 0);

-- By which batch a count was changed last.
ALTER TABLE quota_counts ADD COLUMN batch BIGINT NOT NULL DEFAULT 0;
CREATE INDEX quota_counts_batch ON quota_counts (batch);
