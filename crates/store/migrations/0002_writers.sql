-- The number of the last batch of counts of each Modelgate that runs or has run lately. It is written with the batch, so
-- a batch whose answer was lost can be written again and counts once.
CREATE TABLE writers (
    writer TEXT PRIMARY KEY,
    batch BIGINT NOT NULL,
    at BIGINT NOT NULL
);
