-- What webhooks and mailboxes were told of budgets, and when, in milliseconds since 1970: a restart tells nothing twice, and what is over
-- is told. The owner is the key, consumer or model whose budget it is: `key alice`.
CREATE TABLE told_alerts (
    receiver TEXT NOT NULL,
    code TEXT NOT NULL,
    about TEXT NOT NULL,
    owner TEXT NOT NULL,
    what TEXT NOT NULL,
    page TEXT NOT NULL,
    told_at BIGINT NOT NULL,
    PRIMARY KEY (receiver, code, about)
);
CREATE INDEX told_alerts_owner ON told_alerts (owner);
-- The model's own name, if this one is an alias: budgets are counted by it.
ALTER TABLE model_names ADD COLUMN own_name TEXT NOT NULL DEFAULT '';
