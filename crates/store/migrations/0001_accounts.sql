-- Both SQLite and PostgreSQL read this. Times are milliseconds since 1970; documents are JSON in the words of the
-- configuration file. No API key in clear is ever in here, only its SHA-256.

-- How many changes there have been. Its row is locked by each change, so that changes become visible in their order.
CREATE TABLE revision (
    only_row BIGINT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO revision (only_row, value) VALUES (1, 0);

CREATE TABLE accounts (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    -- Of a key.
    consumer TEXT,
    sha256 TEXT UNIQUE,
    -- Of a key or a consumer.
    plan TEXT,
    created BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    PRIMARY KEY (kind, name)
);
CREATE INDEX accounts_consumer ON accounts (consumer);
CREATE INDEX accounts_plan ON accounts (plan);

-- Which account was changed or deleted by which change, for replicas to follow.
CREATE TABLE changes (
    revision BIGINT PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL
);

-- How much of a quota was taken in a day or a month.
CREATE TABLE quota_counts (
    period TEXT NOT NULL,
    subject TEXT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (period, subject)
);

-- What was used, for people to look at.
CREATE TABLE usage (
    day TEXT NOT NULL,
    key_name TEXT NOT NULL,
    consumer TEXT NOT NULL,
    model TEXT NOT NULL,
    requests BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    PRIMARY KEY (key_name, day, model, consumer)
);
CREATE INDEX usage_day ON usage (day);

CREATE TABLE audit (
    -- The time and a random number: it sorts, and no two replicas make the same.
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    details TEXT NOT NULL
);
